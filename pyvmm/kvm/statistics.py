"""What KVM itself counts of a VM or a vCPU (KVM api.rst 4.133, KVM_GET_STATS_FD)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pyvmm.errors import KvmError
from pyvmm.kvm import statistics_spec as spec
from pyvmm.kvm._call import Handle, call
from pyvmm.value import Value


class Counter(Value):
    """One number; a `total` only grows. Those that KVM counts in powers of ten are in units."""

    name: str
    value: float
    total: bool


class Statistics(Handle):
    """The counters of an open VM or vCPU. Any thread may `read`, also while the vCPU runs."""

    def __init__(self, owner: Handle) -> None:
        """Open them; KVM makes this wait until a vCPU does not run. Raises KvmError."""
        super().__init__(call(owner.fd, "KVM_GET_STATS_FD"))
        header = os.pread(self.fd, spec.HEADER.size, 0)
        _, name_size, count, _, start, self._data = spec.HEADER.unpack(header)
        step = spec.DESCRIPTOR.size + name_size
        table = os.pread(self.fd, count * step, start)
        self._descriptors = [
            (*spec.DESCRIPTOR.unpack_from(table, at), table[at + spec.DESCRIPTOR.size : at + step])
            for at in range(0, len(table), step)
        ]

    def read(self) -> Iterator[Counter]:
        """Those that are one number each, now. Raises KvmError for a VM that has gone."""
        for flags, exponent, size, offset, _, name in self._descriptors:
            kind = flags & spec.TYPE_MASK
            if kind > spec.TYPE_PEAK or size != 1 or flags & spec.BASE_MASK != spec.BASE_POW10:
                continue
            try:
                data = os.pread(self.fd, spec.VALUE.size, self._data + offset)
            except OSError as error:
                raise KvmError("read of KVM_GET_STATS_FD", error.errno or 0) from error
            value = spec.VALUE.unpack(data)[0] * 10.0**exponent
            yield Counter(name.rstrip(b"\0").decode(), value, kind == spec.TYPE_CUMULATIVE)
