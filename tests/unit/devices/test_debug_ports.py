"""pvpanic, debug exit, POST codes and the debug console."""

from __future__ import annotations

import logging

import pytest

from pyvmm.bus import Bus
from pyvmm.devices import debugexit
from pyvmm.devices.debugexit import DebugExit
from pyvmm.devices.postcode import DebugConsole, PostCode
from pyvmm.devices.pvpanic import PvPanic
from tests.fakes.lines import FakeWindow


def test_pvpanic_names_its_events_and_reports_a_panic() -> None:
    panics: list[None] = []
    device = PvPanic("pvpanic", lambda: panics.append(None))
    assert device.read(0, 1) == 0x03
    device.write(0, 1, 0x01)
    assert len(panics) == 1


def test_pvpanic_with_a_crash_kernel_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    panics: list[None] = []
    with caplog.at_level(logging.WARNING):
        PvPanic("pvpanic", lambda: panics.append(None)).write(0, 1, 0x02)
    assert panics == []
    assert "crash kernel" in caplog.text


@pytest.mark.parametrize(
    ("size", "value", "status"), [(1, 0, 1), (1, 0x10, 0x21), (2, 0x20, 0x41), (4, 0x1234_5681, 3)]
)
def test_debug_exit_gives_the_status_of_isa_debug_exit(size: int, value: int, status: int) -> None:
    statuses: list[int] = []
    bus = Bus("pio")
    bus.claim(0xF4, debugexit.PORTS, DebugExit("debug exit", statuses.append), width=4)
    bus.write(0xF4, size, value)
    assert statuses == [status]
    assert bus.read(0xF4, size) == 0


def test_post_code_is_the_last_one_written_and_its_writes_are_posted() -> None:
    post = PostCode("POST")
    window = post.window = FakeWindow()
    post.reset()
    assert window.posting == {0}
    assert window.data == {}  # a published value would be behind what is posted
    post.write(0, 1, 0x12)
    assert (post.code, post.read(0, 1)) == (0x12, 0x12)
    post.posted(0, b"\x34\x56")
    assert post.read(0, 1) == 0x56


def test_debug_console_passes_bytes_on_and_says_that_it_is_there() -> None:
    seen = bytearray()
    console = DebugConsole("debugcon", seen.extend)
    window = console.window = FakeWindow()
    console.reset()
    console.write(0, 1, ord("a"))
    console.posted(0, b"bc")
    assert seen == b"abc"
    assert window.posting == {0}
    assert window.data == {0: b"\xe9"}
    assert console.read(0, 1) == 0xE9
