"""Facts of the pvpanic device: QEMU, docs/specs/pvpanic.rst. One port of one byte, RW.

A read gives the events that the device knows, a write reports those that happened.
"""

from __future__ import annotations

PORTS = 1
PANICKED = 1 << 0
CRASH_LOADED = 1 << 1  # panicked, but a crash kernel takes over and will save what there is
EVENTS = PANICKED | CRASH_LOADED
