"""What KVM itself counts of a VM or a vCPU (KVM api.rst 4.133, KVM_GET_STATS_FD)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from pyvmm.errors import KvmError
from pyvmm.kvm._call import Handle, call
from pyvmm.native import ffi, lib
from pyvmm.value import Value

NUMBER = 8  # bytes: "every data item is of type __u64"


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
        header = ffi.new("struct kvm_stats_header *")
        ffi.buffer(header)[:] = self._read(ffi.sizeof(header[0]), 0)
        self._data = header.data_offset
        size = ffi.sizeof("struct kvm_stats_desc")
        step = size + header.name_size
        table = self._read(header.num_desc * step, header.desc_offset)
        self._descriptors = [
            (
                ffi.from_buffer("struct kvm_stats_desc *", table[at : at + size]),
                table[at + size : at + step].rstrip(b"\0").decode(),
            )
            for at in range(0, len(table), step)
        ]

    def read(self) -> Iterator[Counter]:
        """Those that are one number each, now. Raises KvmError for a VM that has gone."""
        for descriptor, name in self._descriptors:
            kind = descriptor.flags & lib.KVM_STATS_TYPE_MASK
            base = descriptor.flags & lib.KVM_STATS_BASE_MASK
            if kind > lib.KVM_STATS_TYPE_PEAK or base != lib.KVM_STATS_BASE_POW10:
                continue
            data = self._read(NUMBER, self._data + descriptor.offset)
            value = int.from_bytes(data, sys.byteorder) * 10.0**descriptor.exponent
            yield Counter(name, value, kind == lib.KVM_STATS_TYPE_CUMULATIVE)

    def _read(self, size: int, at: int) -> bytes:
        try:
            return os.pread(self.fd, size, at)
        except OSError as error:
            raise KvmError("read of KVM_GET_STATS_FD", error.errno or 0) from error
