"""How a guest's run can end: what Machine.wait() returns.

`status` is the exit status that `pyvmm run` makes of it.
"""

from pyvmm.value import Value

SUCCESS, DIED, PANICKED = 0, 3, 4


class PoweredOff(Value):
    """The guest powered itself off through ACPI S5."""

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


class Reset(Value):
    """The guest reset itself and the machine was told not to start again."""

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


class Quit(Value):
    """The user or the program ended the machine, perhaps by a signal to its process."""

    by_signal: bool = False

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


class DebugExit(Value):
    """The guest wrote v to the debug exit port: `status` is (v << 1) | 1, as of QEMU's
    isa-debug-exit, of which a process can give 8 bits."""

    status: int


class Exited(Value):
    """The command of a share_config.Rootfs has ended: `status` as a shell would have it."""

    status: int


class GuestPanic(Value):
    """The guest's kernel panicked; `message` is what it said, `source` who told: the serial
    console or pvpanic."""

    message: str
    source: str

    @property
    def status(self) -> int:
        """4."""
        return PANICKED


class TripleFault(Value):
    """vCPU `cpu` could not deliver a double fault."""

    cpu: int

    @property
    def status(self) -> int:
        """3."""
        return DIED


class EntryFailed(Value):
    """The CPU refused to run vCPU `cpu`: `reason` is the hardware's own code, or an errno."""

    cpu: int
    reason: int

    @property
    def status(self) -> int:
        """3."""
        return DIED


class EmulationFailed(Value):
    """KVM could not go on with vCPU `cpu`: `suberror` is a KVM_INTERNAL_ERROR_*.

    `instruction` holds the bytes that it could not emulate, if it told.
    """

    cpu: int
    suberror: int
    instruction: bytes

    @property
    def status(self) -> int:
        """3."""
        return DIED


End = (
    PoweredOff
    | Reset
    | Quit
    | DebugExit
    | Exited
    | GuestPanic
    | TripleFault
    | EntryFailed
    | EmulationFailed
)
