"""What is answered to a command that fails."""

from __future__ import annotations

from pyvmm.errors import PyvmmError

# QEMU, qapi/error.json: those classes that clients may tell apart.
GENERIC = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"
DEVICE_NOT_ACTIVE = "DeviceNotActive"
DEVICE_NOT_FOUND = "DeviceNotFound"


class QmpError(PyvmmError):
    """A command cannot be carried out; `kind` is the class of its error."""

    def __init__(self, text: str, kind: str = GENERIC) -> None:
        super().__init__(text)
        self.kind = kind
