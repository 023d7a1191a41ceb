"""Why a vCPU stopped: what Vcpu.run() returns."""

from pyvmm.value import Value


class PioRead(Value):
    """The guest reads `size` (1, 2, 4) bytes from `port`; answer with Vcpu.answer()."""

    port: int
    size: int


class PioWrite(Value):
    """The guest wrote `size` (1, 2, 4) bytes, `value`, to `port`."""

    port: int
    size: int
    value: int


class MmioRead(Value):
    """The guest reads `size` (1 to 8) bytes at `address`; answer with Vcpu.answer()."""

    address: int
    size: int


class MmioWrite(Value):
    """The guest wrote `size` (1 to 8) bytes, `value`, at `address`."""

    address: int
    size: int
    value: int


class Interrupted(Value):
    """The vCPU was kicked, or its thread got a signal."""


class Hlt(Value):
    """The guest executed HLT, in a VM without in-kernel interrupt controllers."""


class Shutdown(Value):
    """Triple fault: the CPU could not deliver a double fault."""


class FailEntry(Value):
    """The CPU refused the guest's state; `reason` is its own code."""

    reason: int
    cpu: int


class InternalError(Value):
    """KVM gave up: `suberror` is a KVM_INTERNAL_ERROR_*, `data` its detail."""

    suberror: int
    data: tuple[int, ...]


class Debug(Value):
    """A guest-debug event: exception number, and the debug registers."""

    exception: int
    pc: int
    dr6: int
    dr7: int


class SystemEvent(Value):
    """KVM reports a system event, KVM_SYSTEM_EVENT_*."""

    type: int
    data: tuple[int, ...]


class Unknown(Value):
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
