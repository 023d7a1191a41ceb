"""What the monitor's commands about devices do to an unmodified Linux, and what they show of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rig import NestedHost

MIB = 1 << 20
KIB = 1 << 10


@pytest.fixture(scope="module")
def found(nested_host: NestedHost) -> dict[str, Any]:
    """One boot for all: tests/nested/host/steering.py says what it does."""
    command = ["python3", "tests/nested/host/steering.py"]
    status, output = nested_host.run(command, timeout=900)
    assert status == 0, output
    return dict(json.loads(output.splitlines()[-1]))


def test_a_disk_counts_what_dd_moves(found: dict[str, Any]) -> None:
    assert found["written"] == 32 * 64 * KIB
    assert 48 * 64 * KIB <= found["read"] <= 52 * 64 * KIB  # Linux reads ahead
    assert found["flushed"] >= 1
    assert found["errors"] == 0
    disk, snapshot = found["block"]["Disks"]
    assert (disk["size"], disk["mode"], disk["served by"]) == (64 * MIB, "rw", "C")
    assert (snapshot["mode"], snapshot["in flight"]) == ("snapshot", 0)


def test_linux_sees_every_new_size_of_a_disk(found: dict[str, Any]) -> None:
    assert found["sectors"] == [64 << 11, 96 << 11, 32 << 11]


def test_a_snapshot_reaches_its_image_when_it_is_committed(found: dict[str, Any]) -> None:
    assert (found["image before"], found["image after"]) == ("\0\0\0\0", "kept")


def test_linux_sees_the_cable_pulled_and_plugged_in(found: dict[str, Any]) -> None:
    assert found["carrier"] == ["1", "0", "1"]
    (net,) = found["network"]["Networks"]
    assert (net["kind"], net["link"]) == ("user", "up")
    (frames,) = found["network"]["Frames"]
    assert frames["tx_frames"] >= 3
    assert frames["rx_bytes"] > 0


def test_the_registers_are_as_linux_has_set_them_up(found: dict[str, Any]) -> None:
    disk, (queue,) = found["virtio"]["vda"], found["virtio"]["Queues"]
    assert "DRIVER_OK" in disk["status"].split()
    assert {"FLUSH", "VERSION_1", "EVENT_IDX"} <= set(disk["negotiated"].split())
    assert queue["enabled"]
    assert queue["vector"] == 1  # 0 is for changes of the configuration
    assert queue["available"] == queue["used"] == queue["seen"] > 0  # it is idle
    function = found["pci"]["00:01.0 SCSI controller, vda"]
    assert function["ids"] == "1af4:1042"
    assert "bus master" in function["decodes"]
    assert "at 0x" in function["BAR 0"]
    assert function["MSI-X"] == "2 vectors, on"


def test_linux_gives_memory_to_the_balloon_and_tells_of_the_rest(found: dict[str, Any]) -> None:
    balloon = found["balloon"]
    assert (balloon["memory"], balloon["wanted"], balloon["now"]) == (
        512 * MIB,
        256 * MIB,
        256 * MIB,
    )
    assert 0 < balloon["free"] < 256 * MIB


def test_a_break_and_a_key_are_a_sysrq(found: dict[str, Any]) -> None:
    assert "sysrq: HELP : loglevel(0-9)" in found["sysrq"]


def test_an_nmi_arrives(found: dict[str, Any]) -> None:
    assert "Uhhuh. NMI received" in found["nmi"]


def test_linux_has_a_keyboard_whose_keys_reset_it(found: dict[str, Any]) -> None:
    assert "AT Translated Set 2 keyboard" in found["input"]
    assert found["end"] == "Reset()"
