"""The bus's side of the C exit loop: publishing registers to it and draining what it posted.

csrc/native.h has the contract. Without a fast path (`PYVMM_NO_FASTPATH=1`) none of this is used,
every access reaches its device, and the results are the same.
"""

from __future__ import annotations

import os

from pyvmm.bus import Bus, Device, Window
from pyvmm.errors import UsageError
from pyvmm.loop import Loop
from pyvmm.native import ffi, lib
from pyvmm.typed import Any


def enabled() -> bool:
    """Whether the environment leaves the fast path on."""
    return os.environ.get("PYVMM_NO_FASTPATH", "0") in ("", "0")


class FastPath:
    """One machine's rules for the C exit loop, and the rings of its posted writes."""

    def __init__(self, loop: Loop) -> None:
        self.native = ffi.new("struct pv_fastpath *")
        self.loop = loop
        self.windows: list[NativeWindow] = []

    def window(self, bus: Bus, base: int, device: Device, offset: int) -> Window:
        """The window of one claim, for Bus."""
        window = NativeWindow(self, bus.name, base - offset, device)
        self.windows.append(window)
        return window

    def drain(self) -> None:
        """Hand every device what is posted for it. Any thread, with no device's lock held."""
        for window in self.windows:
            window.locked_drain()

    def close(self) -> None:
        """Release the rings' descriptors; no vCPU may run any more."""
        for window in self.windows:
            window.close()
        self.windows.clear()


class NativeWindow(Window):
    """A claimed range whose rules are in the C exit loop's table."""

    def __init__(self, fastpath: FastPath, space: str, base: int, device: Device) -> None:
        self._fastpath = fastpath
        self._space = lib.PV_MMIO if space == "mmio" else lib.PV_PIO
        self._base = base  # an offset added to it gives the address
        self._device = device
        self._read_rules: dict[int, Any] = {}
        self._published: dict[int, bytes] = {}
        self._rings: dict[int, tuple[Any, Any]] = {}  # offset: its rule and its ring
        self._kept: list[Any] = []  # memory that rules point to
        self._out: Any = ffi.NULL

    def publish(self, offset: int, data: bytes) -> None:
        """See Window."""
        if self._published.get(offset) == data:
            return
        self._published[offset] = data
        rule = self._read_rules.get(offset)
        if rule is None:
            kept = ffi.new("uint8_t[]", len(data))
            rule = self._add(offset, len(data), lib.PV_RULE_BYTES, bytes=kept)
            self._read_rules[offset] = rule
            self._kept.append(kept)
        ffi.memmove(rule.bytes, data, min(len(data), rule.size))
        lib.pv_rule_enable(rule, 1)

    def publish_ones(self, offset: int, size: int) -> None:
        """See Window."""
        if offset not in self._read_rules:
            self._read_rules[offset] = self._add(offset, size, lib.PV_RULE_ONES)
        lib.pv_rule_enable(self._read_rules[offset], 1)

    def publish_counter(self, offset: int, size: int, hz: int, bits: int) -> None:
        """See Window."""
        if offset not in self._read_rules:
            rule = self._add(offset, size, lib.PV_RULE_COUNTER, hz=hz, bits=bits)
            self._read_rules[offset] = rule
        lib.pv_rule_enable(self._read_rules[offset], 1)

    def withdraw(self, offset: int) -> None:
        """See Window."""
        self._published.pop(offset, None)
        if offset in self._read_rules:
            lib.pv_rule_enable(self._read_rules[offset], 0)

    def post(self, offset: int, enabled: bool) -> None:
        """See Window."""
        if offset not in self._rings:
            if not enabled:
                return
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            ring = ffi.new("struct pv_ring *", {"event": event})
            self._rings[offset] = (self._add(offset, 1, lib.PV_RULE_POST, ring=ring), ring)
            self._out = ffi.new("uint8_t[]", lib.PV_RING_BYTES)
            self._fastpath.loop.watch(event, lambda: self._posted(event))
        lib.pv_rule_enable(self._rings[offset][0], enabled)

    def drain(self) -> None:
        """See Window."""
        for offset, (_, ring) in self._rings.items():
            if ring.used:
                count = lib.pv_ring_drain(ring, self._out)
                self._device.posted(offset, bytes(ffi.buffer(self._out, count)))

    def locked_drain(self) -> None:
        """Drain with the device's lock taken here."""
        if self._rings:
            with self._device.lock:
                self.drain()

    def close(self) -> None:
        """Release the rings' eventfds."""
        for _, ring in self._rings.values():
            self._fastpath.loop.unwatch(ring.event)
            os.close(ring.event)
        self._rings.clear()

    def _posted(self, event: int) -> None:
        os.eventfd_read(event)
        self.locked_drain()

    def _add(self, offset: int, size: int, kind: int, **fields: Any) -> Any:
        rule = ffi.new(
            "struct pv_rule *",
            {
                "base": self._base + offset,
                "size": size,
                "space": self._space,
                "kind": kind,
                **fields,
            },
        )
        at = lib.pv_rule_add(self._fastpath.native, rule)
        if at < 0:
            raise UsageError(f"A machine has room for {lib.PV_RULES} published registers")
        return ffi.addressof(self._fastpath.native[0], "rules", at)
