"""The compiled extension, checked to be the one that belongs to these sources."""

from __future__ import annotations

import os

from pyvmm.errors import HostError
from pyvmm.typed import Any

try:
    import pyvmm._native as _native
except ImportError as error:
    raise HostError(f"pyvmm's C extension is not built ({error}); run `make build`") from None

ffi: Any = _native.ffi
lib: Any = _native.lib


_DECLARATIONS = ("../csrc/native.h", "../csrc/ring.h", "../csrc/worker.h", "kvm/_cdef.h")


def _check_stamp() -> None:
    import zlib

    stamp = 0
    try:
        for name in _DECLARATIONS:
            with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
                stamp = zlib.crc32(file.read(), stamp)
    except FileNotFoundError:
        return  # an installed package: its extension was built with it
    if stamp != lib.PV_STAMP:
        raise HostError("pyvmm's C extension is older than its sources; run `make build`")


_check_stamp()
