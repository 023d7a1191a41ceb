"""The ORC tables of the kernel that runs in a guest: how each place in its code is unwound."""

from __future__ import annotations

import re
from collections.abc import Callable

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection import orc_spec as spec
from pyvmm.inspection.kernel import GuestKernel
from pyvmm.value import Value


class Entry(Value):
    """How one place is unwound, in the terms of orc_spec."""

    sp_offset: int
    bp_offset: int
    sp_reg: int
    bp_reg: int
    type: int


class Orc:
    """Any thread."""

    def __init__(self, kernel: GuestKernel, address: Callable[[str], int]) -> None:
        """`address` is that of a symbol. Raises LookupError if the kernel has no such tables."""
        self._kernel = kernel
        self._ips = address("__start_orc_unwind_ip")
        self._entries = address("__start_orc_unwind")
        size = address("__stop_orc_unwind_ip") - self._ips
        self._count = min(max(size // spec.IP.size, 0), spec.ENTRIES_MAX)
        release = re.match(r"(\d{1,4})\.(\d{1,4})", kernel.release)
        self._version = (int(release[1]), int(release[2])) if release else (0, 0)

    def find(self, ip: int) -> Entry | None:
        """What holds for the instruction at `ip`; None if the tables do not know it."""
        low, high = 0, self._count
        try:
            while low < high:  # the first entry behind it
                middle = (low + high) // 2
                low, high = (low, middle) if self._address(middle) > ip else (middle + 1, high)
            if not low:
                return None
            data = self._kernel.read(self._entries + (low - 1) * spec.ENTRY.size, spec.ENTRY.size)
        except MemoryAccessError:
            return None
        return self._entry(*spec.ENTRY.unpack(data))

    def _address(self, at: int) -> int:
        place = self._ips + at * spec.IP.size
        (relative,) = spec.IP.unpack(self._kernel.read(place, spec.IP.size))
        return int(place + relative)

    def _entry(self, sp_offset: int, bp_offset: int, bits: int) -> Entry:
        sp_reg, bp_reg = bits & spec.REG_MASK, bits >> spec.BP_REG_SHIFT & spec.REG_MASK
        kind = bits >> spec.TYPE_SHIFT
        if self._version >= spec.TYPES_SINCE:
            kind &= spec.NEW_TYPE_MASK
            type_ = spec.NEW_TYPES[kind] if kind < len(spec.NEW_TYPES) else spec.NOTHING
        elif sp_reg == spec.UNDEFINED:
            end = spec.OLD_END[self._version >= spec.SIGNAL_SINCE]
            type_ = spec.END if bits & end else spec.NOTHING
        else:
            type_ = spec.OLD_TYPES[kind & spec.OLD_TYPE_MASK]
        return Entry(sp_offset, bp_offset, sp_reg, bp_reg, type_)
