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


_DECLARATIONS = (
    *("../csrc/trace.h", "../csrc/native.h", "../csrc/ring.h", "../csrc/worker.h"),
    *("../csrc/net.h", "../csrc/user.h", "kvm/_cdef.h"),
)


def _check_stamp() -> None:
    declarations = b""
    try:
        for name in _DECLARATIONS:
            with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
                declarations += file.read()
    except FileNotFoundError:
        return  # an installed package: its extension was built with it
    # The sum of kvm/_build.py:stamp. To import zlib for its CRC would cost each start 0.4 ms.
    if int.from_bytes(declarations, "little") % lib.PV_STAMP_PRIME != lib.PV_STAMP:
        raise HostError("pyvmm's C extension is older than its sources; run `make build`")


_check_stamp()
