"""Arguments that name devices, sizes, keys and loggers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.log import Log
from pyvmm.monitor.commands import logs
from pyvmm.monitor.commands.keys import Keys
from pyvmm.monitor.commands.logs import Logger
from pyvmm.monitor.device_kinds import Bytes, Device, Size
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.rng import Rng
from tests.fakes.storage import MemoryStorage


@pytest.fixture
def session() -> Iterator[Any]:
    devices = {one.name: one for one in (Blk("vda", MemoryStorage()), Rng("vrng"))}
    board = SimpleNamespace(virtio=devices)
    yield SimpleNamespace(machine=SimpleNamespace(board=board, device=devices.__getitem__))
    for device in devices.values():
        device.worker.close()


def test_a_device_is_found_by_its_name_and_kind(session: Any) -> None:
    device = session.machine.board.virtio["vda"]
    assert Device().parse(session, "vda") is device
    assert Device(virtio_spec.ID_BLOCK).parse(session, "vda") is device
    with pytest.raises(UsageError, match="must be vda or vrng, not 'v'"):
        Device().parse(session, "v")
    with pytest.raises(UsageError, match="must be vda, not 'vrng'"):
        Device(virtio_spec.ID_BLOCK).parse(session, "vrng")
    with pytest.raises(UsageError, match="has no net device"):
        Device(virtio_spec.ID_NET).parse(session, "eth0")


def test_devices_are_completed(session: Any) -> None:
    assert [*Device().complete(session, "v")] == ["vda", "vrng"]
    assert [*Device(virtio_spec.ID_RNG).complete(session, "v")] == ["vrng"]


def test_sizes_are_read_and_shown() -> None:
    assert Size().parse(None, "3G") == 3 << 30  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="SIZE must be a number with"):
        Size().parse(None, "big")  # type: ignore[arg-type]
    sizes = {0: "0", 512: "512", 4096: "4K", 96 << 20: "96M", (1 << 30) + 1: "1073741825"}
    assert {size: str(Bytes(size)) for size in sizes} == sizes
    assert str(Bytes(3 << 40)) == "3T"


def test_keys_are_joined_by_dashes() -> None:
    keys = Keys()
    assert keys.parse(None, "ctrl-alt-delete") == ["ctrl", "alt", "delete"]  # type: ignore[arg-type]
    for text in ("ctrl-", "-", "ctrl-alt-del", "Ctrl"):
        with pytest.raises(UsageError, match="A key must be"):
            keys.parse(None, text)  # type: ignore[arg-type]
    assert "ctrl-alt-delete" in keys.complete(None, "ctrl-alt-d")  # type: ignore[arg-type]
    assert [*keys.complete(None, "kp_en")] == ["kp_enter"]  # type: ignore[arg-type]


@pytest.fixture
def logger() -> Iterator[str]:
    name = "pyvmm.device.vdz"
    Log(name)
    yield name
    logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_logger_goes_by_its_short_name(logger: str) -> None:
    kind = Logger()
    assert kind.parse(None, "vdz") == kind.parse(None, logger) == logger  # type: ignore[arg-type]
    assert kind.parse(None, "worker") == "pyvmm.worker"  # type: ignore[arg-type]
    assert kind.parse(None, "pyvmm") == "pyvmm"  # type: ignore[arg-type]
    assert "vdz" in kind.complete(None, "vd")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be one of those that `log` shows, not 'nobody'"):
        kind.parse(None, "nobody")  # type: ignore[arg-type]


def test_a_level_counts_until_it_is_taken_back(
    logger: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(logger)
    for level, heard in (("error", False), ("warning", True), ("error", False), ("default", True)):
        caplog.clear()
        assert logs.log(None, logger, level) is None
        log.warning("Something happened")
        assert ("Something happened" in caplog.text) == heard
        shown = logs.log(None, logger)
        assert shown is not None
        assert shown.data[0]["own"] == (level != "default")
    logs.log(None, logger, "debug")
    log.debug("In detail")
    assert "In detail" in caplog.text
