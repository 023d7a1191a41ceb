"""Why a vCPU stopped: what Vcpu.run() returns."""

from typing import NamedTuple

from pyvmm.value import distinct


@distinct
class PioRead(NamedTuple):
    """The guest reads `size` (1, 2, 4) bytes from `port`; answer with Vcpu.answer()."""

    port: int
    size: int


@distinct
class PioWrite(NamedTuple):
    """The guest wrote `size` (1, 2, 4) bytes, `value`, to `port`."""

    port: int
    size: int
    value: int


@distinct
class MmioRead(NamedTuple):
    """The guest reads `size` (1 to 8) bytes at `address`; answer with Vcpu.answer()."""

    address: int
    size: int


@distinct
class MmioWrite(NamedTuple):
    """The guest wrote `size` (1 to 8) bytes, `value`, at `address`."""

    address: int
    size: int
    value: int


@distinct
class Interrupted(NamedTuple):
    """The vCPU was kicked, or its thread got a signal."""


@distinct
class Hlt(NamedTuple):
    """The guest executed HLT, in a VM without in-kernel interrupt controllers."""


@distinct
class Shutdown(NamedTuple):
    """Triple fault: the CPU could not deliver a double fault."""


@distinct
class FailEntry(NamedTuple):
    """The CPU refused the guest's state; `reason` is its own code."""

    reason: int
    cpu: int


@distinct
class InternalError(NamedTuple):
    """KVM gave up: `suberror` is a KVM_INTERNAL_ERROR_*, `data` its detail."""

    suberror: int
    data: tuple[int, ...]


@distinct
class Debug(NamedTuple):
    """A guest-debug event: exception number, and the debug registers."""

    exception: int
    pc: int
    dr6: int
    dr7: int


@distinct
class SystemEvent(NamedTuple):
    """KVM reports a system event, KVM_SYSTEM_EVENT_*."""

    type: int
    data: tuple[int, ...]


@distinct
class Unknown(NamedTuple):
    """An exit reason that pyvmm does not know: a KVM_EXIT_* number."""

    reason: int


Exit = (
    PioRead
    | PioWrite
    | MmioRead
    | MmioWrite
    | Interrupted
    | Hlt
    | Shutdown
    | FailEntry
    | InternalError
    | Debug
    | SystemEvent
    | Unknown
)
