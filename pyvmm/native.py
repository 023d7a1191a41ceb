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


def _check_stamp() -> None:
    import zlib

    package = os.path.dirname(__file__)
    try:
        with (
            open(os.path.join(package, "../csrc/native.h"), "rb") as native_h,
            open(os.path.join(package, "kvm/_cdef.h"), "rb") as cdef_h,
        ):
            stamp = zlib.crc32(native_h.read() + cdef_h.read())
    except FileNotFoundError:
        return  # an installed package: its extension was built with it
    if stamp != lib.PV_STAMP:
        raise HostError("pyvmm's C extension is older than its sources; run `make build`")


_check_stamp()
