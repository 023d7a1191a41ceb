"""Vsock: the value of a socket device, and its form as an option."""

from __future__ import annotations

import os

from pyvmm import suboptions
from pyvmm.errors import UsageError
from pyvmm.log import Log
from pyvmm.peripherals import Host, Peripheral
from pyvmm.typed import TYPE_CHECKING
from pyvmm.virtio import vsock_spec as spec

if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice

log = Log(__name__)

OPTIONS = {"uds": "PATH", "vhost": "auto|on|off"}
SYNTAX = f"CID{suboptions.syntax(OPTIONS)}"
PATH_MAX = 107 - len(f"_{spec.PORT_MAX}")  # bytes: unix(7), sun_path without the 0 at its end


class Vsock(Peripheral):
    """Streams between programs of the guest and of the host: virtio-vsock.

    cid    the guest's context identifier, 3 to 2^32 - 2
    vhost  `on`: by the host's kernel, whose programs use AF_VSOCK; no other machine of the host may
           have the same CID. `off`: by pyvmm, for programs that use Unix sockets. `auto`: by the
           kernel if it can (/dev/vhost-vsock) and there is no `uds`
    uds    where the Unix sockets are: programs that want the guest connect to this path, and those
           that listen at this path with _PORT behind it are what the guest connects to;
           vsock-CID.sock if not given
    """

    name: str = "vsock"
    cid: int = spec.CID_MIN
    uds: str | os.PathLike[str] = ""
    vhost: str = "auto"

    @property
    def path(self) -> str:
        """Where the Unix sockets are."""
        return os.fspath(self.uds) or f"vsock-{self.cid}.sock"

    @property
    def claims(self) -> tuple[str, ...]:
        """See Peripheral."""
        return (f"The CID {self.cid}",)

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        cid = self.cid
        if not isinstance(cid, int) or not spec.CID_MIN <= cid <= spec.CID_MAX:
            limits = f"{spec.CID_MIN} to {spec.CID_MAX}"
            raise UsageError(f"The CID of a guest must be a number from {limits}, not {cid!r}")
        if self.vhost not in OPTIONS["vhost"].split("|"):
            raise UsageError(f"vhost must be auto, on or off, not {self.vhost!r}")
        if not isinstance(self.uds, (str, os.PathLike)) or "\0" in os.fspath(self.uds):
            raise UsageError(f"uds must be a path, not {self.uds!r}")
        if len(os.fsencode(self.path)) > PATH_MAX:
            raise UsageError(f"uds must have at most {PATH_MAX} bytes, not {self.path!r}")
        if self.uds and self.vhost == "on":
            raise UsageError("A vsock must have either uds or vhost=on, not both")

    @property
    def by_kernel(self) -> bool:
        """Whether the host's kernel is to serve it."""
        return self.vhost == "on" or (self.vhost == "auto" and not self.uds and _kernel_can())

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        if self.by_kernel:
            from pyvmm.virtio.vhost_vsock import VhostVsock

            return VhostVsock(self.name, self.cid)
        from pyvmm.backends.vsock_sockets import UnixSockets
        from pyvmm.virtio.vsock import Vsock as Device

        log.info("%s: programs of the host find the guest at %s", self.name, self.path)
        return Device(self.name, self.cid, UnixSockets(self.path))


def _kernel_can() -> bool:
    """Whether /dev/vhost-vsock opens; that it is there does not say so."""
    from pyvmm.virtio import vhost_spec

    try:
        os.close(os.open(vhost_spec.VSOCK_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def parse_vsock(text: str) -> Vsock:
    """`CID[,OPTION...]`, in which ,, stands for a comma of the path. Raises UsageError."""
    cid, *options = suboptions.split(text)
    if not (cid.isascii() and cid.isdigit() and len(cid) < suboptions.DIGITS_MAX):
        raise UsageError(f"A vsock must be {SYNTAX}, not {text!r}")
    vsock = Vsock(cid=int(cid), **suboptions.parse("A vsock", options, OPTIONS))
    vsock.check()
    return vsock
