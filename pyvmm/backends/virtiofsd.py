"""A directory of the host, served by virtiofsd (vhost-user-fs).

It takes over the rights of whoever starts pyvmm, no more: root's, or in a user namespace those of
an ordinary user, where what the guest's root makes belongs to that user and no other owner can be
given. In either case it sees nothing but the directory.
"""

from __future__ import annotations

import os
import socket

from pyvmm.backends.daemon import DYING_SECONDS, Daemon, find, make_sockets
from pyvmm.errors import HostError

PROGRAM = "virtiofsd"
QEMU = "/usr/lib/qemu/"  # of Debian 12: QEMU's own, whose successor has other options
# It keeps a descriptor for every file that the guest knows, and may not raise the limit itself
# where it is not root.
RAISE_LIMIT = 'ulimit -n "$(ulimit -H -n)"'
# virtiofsd of Debian 12 cannot refuse to write; a mount can. `$0` is the directory.
MOUNT_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
EXECUTE = 'exec "$@"'


class Virtiofsd:
    """The daemon of one directory; see pyvmm.virtio.vhost_user_device.BackEnd. One thread.

    The daemon ends with the thread that called `connect`, which is the device's worker.
    """

    def __init__(self, directory: str, *, read_only: bool = False, cache: str = "auto") -> None:
        """`cache` is virtiofsd's: `always` if nobody else changes the directory.

        Raises HostError if it is no directory.
        """
        if not os.path.isdir(directory):
            raise HostError(f"A shared directory must exist; {directory} is none")
        self._directory = os.path.realpath(directory)
        self._read_only = read_only
        self._cache = cache
        self.daemon = Daemon(PROGRAM)

    def connect(self) -> socket.socket:
        """Start it. Raises HostError."""
        program = find(PROGRAM)
        listener, connection = make_sockets(PROGRAM)
        try:
            self.daemon.start(self._command(program, listener.fileno()), [listener.fileno()])
        except HostError:
            connection.close()
            raise
        finally:
            listener.close()
        return connection

    def explain(self, clause: str) -> str:
        """A sentence on why it failed, in its own words if it left any."""
        words = self.daemon.end(DYING_SECONDS).strip().rpartition("\n")[2]
        return f"{self._directory}: {words or f'{PROGRAM} failed: {clause}'}"

    def disconnect(self) -> None:
        """End it."""
        self.daemon.end()

    def close(self) -> None:
        """Nothing is kept."""

    def _command(self, program: str, listener: int) -> list[str]:
        command = [program, f"--fd={listener}", *self._options(program)]
        root = os.geteuid() == 0
        if root and not self._read_only:
            return command
        if not root:
            command.append("--rlimit-nofile=0")  # leave it as the shell sets it
        namespaces = ["--mount"] if root else ["--mount", "--user", "--map-root-user"]
        steps = [RAISE_LIMIT] * (not root) + [MOUNT_READ_ONLY] * self._read_only + [EXECUTE]
        shell = ["sh", "-c", " && ".join(steps), self._directory]
        return [find("unshare"), *namespaces, *shell, *command]

    def _options(self, program: str) -> list[str]:
        if not program.startswith(QEMU):
            common = ["--xattr", "--log-level=warn"]
            return [f"--shared-dir={self._directory}", f"--cache={self._cache}", *common]
        source = self._directory.replace("\\", "\\\\").replace(",", "\\,")
        return ["-o", f"source={source},cache={self._cache},xattr,log_level=warn"]
