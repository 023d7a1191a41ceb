"""Builds pyvmm._native: csrc/ and the constants and structures of the system's <linux/kvm.h>."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
GUESTS = ROOT / "guests"
HEADERS = [
    CSRC / name for name in ("trace.h", "native.h", "ring.h", "worker.h", "net.h", "user.h")
]  # in this order
INIT_C = CSRC / "guest/init.c"
BUILD = ROOT / "build"
STAMP_PRIME = (1 << 61) - 1
CDEF_H = Path(__file__).with_name("_cdef.h")
CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fstack-protector-strong",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=2",
]
# What cffi generates is not written to these warnings.
GENERATED = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]

# A program of its own, linked with nothing.
INIT_FLAGS = [
    *("-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding"),
    *("-fno-stack-protector", "-fno-pic", "-fno-asynchronous-unwind-tables"),
    "-fno-tree-loop-distribute-patterns",  # or loops become calls of memcpy
    *("-static", "-nostdlib", "-no-pie", "-s", "-Wl,-z,noexecstack", "-Wl,--build-id=none"),
]


def build_init() -> None:
    """Compile the guest's first process, which csrc/init.c includes."""
    BUILD.mkdir(exist_ok=True)
    command = [os.environ.get("CC", "cc"), *INIT_FLAGS, "-o", str(BUILD / "init"), str(INIT_C)]
    subprocess.run(command, check=True)


def capabilities() -> str:
    """A cdef line for every KVM_CAP_ that the system's header names."""
    macros = subprocess.run(
        [os.environ.get("CC", "cc"), "-dM", "-E", "-x", "c", "-include", "linux/kvm.h", os.devnull],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = sorted(set(re.findall(r"^#define (KVM_CAP_\w+) \d+$", macros, re.MULTILINE)))
    return "".join(f"#define {name} ...\n" for name in names)


def stamp() -> int:
    """Identifies the declarations that the extension was built from; native.py compares it."""
    declarations = b"".join(path.read_bytes() for path in (*HEADERS, CDEF_H))
    return int.from_bytes(declarations, "little") % STAMP_PRIME


build_init()
ffibuilder = FFI()
ffibuilder.cdef("struct kvm_run;\n" + "".join(path.read_text() for path in HEADERS))
ffibuilder.cdef(CDEF_H.read_text() + capabilities())
ffibuilder.cdef("#define PV_STAMP ...\n#define PV_STAMP_PRIME ...")
ffibuilder.set_source(
    "pyvmm._native",
    f"""
    #include <linux/kvm.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include "trace.h"
    #include "native.h"
    #include "ring.h"
    #include "worker.h"
    #include "net.h"
    #include "user.h"
    #define PV_STAMP {stamp()}
    #define PV_STAMP_PRIME {STAMP_PRIME}
    """,
    sources=[os.path.relpath(path, Path.cwd()) for path in sorted(CSRC.glob("*.c"))],
    depends=[*map(str, CSRC.glob("*.h")), str(GUESTS / "hello.S"), str(INIT_C)],
    include_dirs=[str(CSRC)],
    extra_compile_args=[*CFLAGS, *GENERATED, f"-Wa,-I{GUESTS},-I{BUILD}"],
    extra_link_args=["-pthread", "-Wl,-z,relro,-z,now"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
