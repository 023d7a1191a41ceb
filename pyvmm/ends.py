"""How a guest's run can end: what Machine.wait() returns.

`status` is the exit status that `pyvmm run` makes of it.
"""

from typing import NamedTuple

from pyvmm.value import distinct

SUCCESS, DIED, PANICKED = 0, 3, 4


@distinct
class PoweredOff(NamedTuple):
    """The guest powered itself off through ACPI S5."""

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


@distinct
class Reset(NamedTuple):
    """The guest reset itself and the machine was told not to start again."""

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


@distinct
class Quit(NamedTuple):
    """The user or the program ended the machine."""

    @property
    def status(self) -> int:
        """0."""
        return SUCCESS


@distinct
class DebugExit(NamedTuple):
    """The guest wrote v to the debug exit port: `status` is (v << 1) | 1, as of QEMU's
    isa-debug-exit, of which a process can give 8 bits."""

    status: int


@distinct
class GuestPanic(NamedTuple):
    """The guest's kernel panicked; `message` is what it said, `source` who told: the serial
    console or pvpanic."""

    message: str
    source: str

    @property
    def status(self) -> int:
        """4."""
        return PANICKED


@distinct
class TripleFault(NamedTuple):
    """vCPU `cpu` could not deliver a double fault."""

    cpu: int

    @property
    def status(self) -> int:
        """3."""
        return DIED


@distinct
class EntryFailed(NamedTuple):
    """The CPU refused to run vCPU `cpu`: `reason` is the hardware's own code, or an errno."""

    cpu: int
    reason: int

    @property
    def status(self) -> int:
        """3."""
        return DIED


@distinct
class EmulationFailed(NamedTuple):
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
    PoweredOff | Reset | Quit | DebugExit | GuestPanic | TripleFault | EntryFailed | EmulationFailed
)
