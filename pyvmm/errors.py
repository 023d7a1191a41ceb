"""Every exception that pyvmm raises on purpose.

    PyvmmError                  the root; its text is one clear sentence
    ├── UsageError              the caller asked for something that cannot be (exit status 2)
    ├── HostError               the host refuses or lacks something (exit status 1)
    │   └── KvmError            an ioctl on /dev/kvm failed: its name, errno and argument
    ├── ImageError              a kernel image or initrd that cannot be booted (exit status 1)
    ├── MemoryAccessError       an access outside guest RAM
    └── UnmappedError           a virtual address that the guest's page tables do not map

A guest's mistakes are never exceptions: they are device states, or an `End` of the machine
(pyvmm/ends.py).
"""

from __future__ import annotations

import errno as errno_names
import os


class PyvmmError(Exception):
    """The root of all errors of this package; `str(error)` is one sentence for a person."""


class UsageError(PyvmmError):
    """A value that the caller gave is not possible: an option, a size, a name."""


class HostError(PyvmmError):
    """The host refuses or lacks something: a file, a right, a capability."""


class KvmError(HostError):
    """An ioctl on /dev/kvm, a VM or a vCPU failed.

    `ioctl` is its name in <linux/kvm.h>, `errno` the error number, `asked` what it was asked.
    """

    def __init__(self, ioctl: str, errno: int, asked: str = "") -> None:
        self.ioctl = ioctl
        self.errno = errno
        self.asked = asked
        name = errno_names.errorcode.get(errno, str(errno))
        detail = f" ({asked})" if asked else ""
        super().__init__(f"{ioctl}{detail} failed: {os.strerror(errno)} [{name}]")


class ImageError(PyvmmError):
    """A kernel image or initrd is missing, damaged, or not for this machine; names the file."""


class MemoryAccessError(PyvmmError):
    """An access of `length` bytes at guest-physical `address` is not wholly inside RAM."""

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        super().__init__(f"Guest address {address:#x} (+{length} bytes) is not in RAM")


class UnmappedError(PyvmmError):
    """The guest's page tables do not map the virtual `address`; `problem` says at which level."""

    def __init__(self, address: int, problem: str) -> None:
        self.address = address
        self.problem = problem
        super().__init__(f"Virtual address {address:#x} is not mapped: {problem}")
