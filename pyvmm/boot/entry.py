"""How a boot protocol wants the first vCPU to start."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """The first vCPU's state at the kernel's entry; registers not named here are zero.

    `long_mode`: 64-bit code with paging, the first 4 GiB mapped to themselves (x86/boot.rst,
    "64-bit BOOT PROTOCOL"); otherwise 32-bit protected mode, flat segments, no paging
    (Multiboot 0.6.96 §3.2, PVH).
    """

    rip: int
    long_mode: bool
    rax: int = 0
    rbx: int = 0
    rsi: int = 0
