"""What Python publishes to the C exit loop, without a vCPU: the rules themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyvmm.bus import Bus, Device, Window
from pyvmm.devices import serial_spec
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError
from pyvmm.fastpath import FastPath, enabled
from pyvmm.loop import Loop
from pyvmm.native import ffi, lib

BASE = 0x100


class Recorder(Device):
    def __init__(self) -> None:
        super().__init__("recorder")
        self.bytes = b""
        self.accesses: list[str] = []

    def posted(self, offset: int, data: bytes) -> None:
        assert self.lock.locked()
        self.bytes += data
        self.accesses.append("posted")

    def read(self, offset: int, size: int) -> int:
        self.accesses.append("read")
        return 0


@pytest.fixture
def fastpath() -> Iterator[FastPath]:
    loop = Loop()
    fastpath = FastPath(loop)
    yield fastpath
    fastpath.close()
    loop.close()


@pytest.fixture
def device() -> Recorder:
    return Recorder()


@pytest.fixture
def bus(fastpath: FastPath, device: Recorder) -> Bus:
    bus = Bus("pio", fastpath.window)
    device.window = bus.claim(BASE, 8, device)
    return bus


def rules(fastpath: FastPath) -> list[tuple[int, int, int, int]]:
    native = fastpath.native
    return [
        (rule.base, rule.size, rule.kind, rule.enabled) for rule in native.rules[0 : native.count]
    ]


def append(fastpath: FastPath, rule: int, data: bytes) -> None:
    """What the exit loop does with posted writes."""
    ring = fastpath.native.rules[rule].ring
    ffi.buffer(ring.bytes)[ring.used : ring.used + len(data)] = data
    ring.used += len(data)
    os.eventfd_write(ring.event, 1)


def test_a_published_register_is_one_rule_however_often(
    fastpath: FastPath, bus: Bus, device: Recorder
) -> None:
    device.window.publish(5, b"\x60")
    device.window.publish(5, b"\x61")
    assert rules(fastpath) == [(BASE + 5, 1, lib.PV_RULE_BYTES, 1)]
    assert fastpath.native.rules[0].bytes[0] == 0x61
    device.window.withdraw(5)
    assert rules(fastpath) == [(BASE + 5, 1, lib.PV_RULE_BYTES, 0)]
    device.window.publish(5, b"\x62")
    assert rules(fastpath) == [(BASE + 5, 1, lib.PV_RULE_BYTES, 1)]


def test_what_is_posted_reaches_the_device_before_the_next_access(
    fastpath: FastPath, bus: Bus, device: Recorder
) -> None:
    device.window.post(0, True)
    append(fastpath, 0, b"abc")
    bus.read(BASE, 1)
    assert device.bytes == b"abc"
    assert device.accesses == ["posted", "read"]


def test_what_is_posted_reaches_the_device_from_the_loop(
    fastpath: FastPath, bus: Bus, device: Recorder
) -> None:
    device.window.post(0, True)
    append(fastpath, 0, b"abc")
    fastpath.loop.call_soon(fastpath.loop.stop)
    fastpath.loop.run()
    assert device.bytes == b"abc"


def test_draining_empties_every_ring_once(fastpath: FastPath, bus: Bus, device: Recorder) -> None:
    device.window.post(0, True)
    append(fastpath, 0, b"x" * 4096)
    fastpath.drain()
    fastpath.drain()
    assert device.bytes == b"x" * 4096
    assert device.accesses == ["posted"]


def test_posting_that_was_never_on_needs_no_ring(
    fastpath: FastPath, bus: Bus, device: Recorder
) -> None:
    device.window.post(0, False)
    assert rules(fastpath) == []


def test_more_published_registers_than_there_is_room_for_are_refused(
    fastpath: FastPath, bus: Bus, device: Recorder
) -> None:
    for offset in range(lib.PV_RULES):
        device.window.publish(offset, b"\0")
    with pytest.raises(UsageError, match="room for"):
        device.window.publish(lib.PV_RULES, b"\0")


@pytest.mark.parametrize(("value", "on"), [("", True), ("0", True), ("1", False)])
def test_the_environment_switches_the_fast_path_off(
    monkeypatch: pytest.MonkeyPatch, value: str, on: bool
) -> None:
    monkeypatch.setenv("PYVMM_NO_FASTPATH", value)
    assert enabled() is on


def test_an_interrupt_comes_after_the_registers_that_tell_of_it() -> None:
    """A guest that it wakes reads LSR on another thread, without the device's lock."""
    seen: list[str] = []

    class Log(Window):
        def publish(self, offset: int, data: bytes) -> None:
            if data[0] & serial_spec.LSR_DR:
                seen.append("published")

    class Line:
        def set(self, level: bool) -> None:
            if level:
                seen.append("raised")

    class Nobody:
        def attach(self, device: object) -> None: ...

    serial = Serial("COM1", Line(), Nobody())
    serial.window = Log()
    with serial.lock:
        serial.write(serial_spec.MCR, 1, serial_spec.MCR_OUT2)
        serial.write(serial_spec.IER, 1, serial_spec.IER_ERBFI)
    seen.clear()
    serial.receive(b"x")
    assert seen == ["published", "raised"]
