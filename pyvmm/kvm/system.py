"""/dev/kvm itself: what this host's KVM can do, and new VMs."""

from __future__ import annotations

import errno
import os
from functools import cached_property

from pyvmm.errors import HostError, KvmError, UsageError
from pyvmm.kvm import cpuid_spec
from pyvmm.kvm._call import Handle, call, call_value
from pyvmm.kvm.cpuid import CpuidEntry
from pyvmm.kvm.vm import Vm
from pyvmm.native import ffi, lib

DEVICE = "/dev/kvm"
API_VERSION = 12  # KVM api.rst 4.1: stable since Linux 2.6.22
CURES = {
    errno.ENOENT: "is not there; load the module with `modprobe kvm_intel` or `modprobe kvm_amd`, "
    "or enable (nested) virtualization",
    errno.EACCES: "may not be opened by this user; add it to the group: "
    "`sudo usermod -aG kvm $USER`, then log in again",
    errno.EPERM: "may not be opened by this user; add it to the group: "
    "`sudo usermod -aG kvm $USER`, then log in again",
    errno.ENODEV: "has no driver behind it; this CPU offers no virtualization, or it is off in "
    "the firmware",
}
_supported_cpuid: tuple[CpuidEntry, ...] = ()

FIRST_ENTRIES = 128  # CPUID entries asked for at first; KVM_GET_SUPPORTED_CPUID says if too few


def module() -> str:
    """Which kernel module is this host's KVM: kvm_intel, kvm_amd, kvm_pvm (a software KVM), or ""
    if it is built in."""
    for name in ("kvm_pvm", "kvm_intel", "kvm_amd"):
        if os.path.exists(f"/sys/module/{name}"):
            return name
    return ""


def host_brand() -> str:
    """The host processor's name, which KVM_GET_SUPPORTED_CPUID leaves out."""
    name = b""
    registers = ffi.new("uint32_t[4]")
    for function in cpuid_spec.BRAND:
        lib.pv_cpuid(function, registers)
        name += bytes(ffi.buffer(registers))
    return name.split(b"\0")[0].decode("ascii", "replace").strip()


class Kvm(Handle):
    """An open /dev/kvm. Any thread."""

    def __init__(self, path: str = DEVICE) -> None:
        """Open it. Raises HostError with the cure if it cannot be opened or is too old."""
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            cure = CURES.get(error.errno or 0, f"cannot be opened: {error.strerror}")
            raise HostError(f"{path} {cure}") from None
        try:
            version = call_value(self.fd, "KVM_GET_API_VERSION")
        except KvmError:
            self.close()
            raise HostError(f"{path} is not the device of KVM") from None
        if version != API_VERSION:
            self.close()
            raise HostError(f"{path} must speak KVM API version {API_VERSION}, not {version}")

    def capability(self, name: str) -> int:
        """What KVM answers for the capability `KVM_CAP_<name>`: 0 if it is not there.

        Raises UsageError for a name that the kernel headers of the build did not know.
        """
        number = getattr(lib, f"KVM_CAP_{name.upper().removeprefix('KVM_CAP_')}", None)
        if number is None:
            raise UsageError(f"There is no KVM capability {name!r}")
        return call_value(self.fd, "KVM_CHECK_EXTENSION", number, name)

    def capabilities(self) -> dict[str, int]:
        """Every capability by name, without KVM_CAP_, with what KVM answers for it."""
        names = (name.removeprefix("KVM_CAP_") for name in dir(lib) if name.startswith("KVM_CAP_"))
        return {name: self.capability(name) for name in names}

    def require(self, *names: str) -> None:
        """Raise HostError that names the first of these capabilities that is not there."""
        for name in names:
            if not self.capability(name):
                raise HostError(f"This host's KVM has no KVM_CAP_{name.upper()}")

    @cached_property
    def vcpu_mmap_size(self) -> int:
        """Bytes of the structure that KVM shares with user space for each vCPU."""
        return call_value(self.fd, "KVM_GET_VCPU_MMAP_SIZE")

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID entries that this host's KVM can give a guest; asked for once a process."""
        global _supported_cpuid
        if not _supported_cpuid:
            _supported_cpuid = self._supported_cpuid()
        return _supported_cpuid

    def _supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        count = FIRST_ENTRIES
        while True:
            table = ffi.new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
            try:
                call(self.fd, "KVM_GET_SUPPORTED_CPUID", table, f"{count} entries")
            except KvmError as error:
                if error.errno != errno.E2BIG or count > 4096:
                    raise
                count *= 2
                continue
            return tuple(
                CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
                for e in table.entries[0 : table.nent]
            )

    def msr_indices(self) -> list[int]:
        """The MSRs that KVM_GET_MSRS and KVM_SET_MSRS take."""
        return self._msr_list("KVM_GET_MSR_INDEX_LIST")

    def feature_msr_indices(self) -> list[int]:
        """The MSRs that tell about features of the host."""
        return self._msr_list("KVM_GET_MSR_FEATURE_INDEX_LIST")

    def _msr_list(self, ioctl: str) -> list[int]:
        count = 1024
        table = ffi.new("struct kvm_msr_list *", {"nmsrs": count, "indices": count})
        call(self.fd, ioctl, table, f"{count} entries")
        return list(table.indices[0 : table.nmsrs])

    def create_vm(self) -> Vm:
        """A new VM without memory, interrupt controllers or vCPUs. Raises KvmError."""
        while True:
            try:
                fd = call_value(self.fd, "KVM_CREATE_VM", 0, "machine type 0")
            except KvmError as error:
                if error.errno == errno.EINTR:  # a signal while the kernel waited for memory
                    continue
                raise
            return Vm(fd, self.vcpu_mmap_size)
