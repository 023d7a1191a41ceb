"""A program of another project that serves a device: started, watched and ended with the machine.

It ends with the thread that started it. It gets no more rights than pyvmm has, and is not of the
terminal's process group: it has to outlive a Ctrl-C.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from pyvmm.errors import HostError

PACKAGES = {  # of Debian 12, where nothing else is said
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-img": "qemu-utils",
    "virtiofsd": "qemu-system-common (12) or virtiofsd (13)",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
# Where programs are that no user calls: file-hierarchy(7), and Debian 12's QEMU.
PRIVATE = ("/usr/libexec", "/usr/lib/qemu")
STOP_SECONDS = 10.0  # to write what it holds back
DYING_SECONDS = 1.0  # between hanging up and being gone
PIPE_SIZE = 64 << 10  # bytes, see pipe(7)


class Daemon:
    """One process at a time. One thread; the process ends with it."""

    def __init__(self, name: str) -> None:
        """`name` is what messages call it."""
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = -1  # where it says what is wrong

    @property
    def pid(self) -> int | None:
        """Its process ID while it runs."""
        return self._process.pid if self._process else None

    def start(self, command: Sequence[str], fds: Sequence[int]) -> None:
        """Start `command` with the descriptors `fds`. Raises HostError."""
        setpriv = find("setpriv")
        self._messages, messages = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = subprocess.Popen(
                [setpriv, "--pdeathsig", "TERM", "--no-new-privs", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,  # non-blocking: a guest that makes it complain cannot stall it
                pass_fds=fds,
                process_group=0,
            )
        except OSError as error:
            os.close(self._messages)
            raise HostError(f"{self._name} cannot be started: {error}") from error
        finally:
            os.close(messages)

    def end(self, patience: float = 0) -> str:
        """End it if it does not in `patience` seconds; what it has said, or how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        ended = process.poll()
        for insist in (process.terminate, process.kill):
            if process.returncode is None:
                insist()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        try:
            words = os.read(self._messages, PIPE_SIZE).decode(errors="backslashreplace")
        except BlockingIOError:  # it is stuck in the kernel
            words = ""
        os.close(self._messages)
        if ended is not None and ended < 0:
            return f"{self._name} was killed by signal {-ended}"
        return words


def find(program: str) -> str:
    """The path of a program. Raises HostError, which names its package, if there is none."""
    import shutil

    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(PRIVATE))
    if path is None:
        raise HostError(
            f"{program} must be installed; it is in Debian's package {PACKAGES[program]}"
        )
    return path


def make_sockets(program: str) -> tuple[socket.socket, socket.socket]:
    """One that listens, for `program`, and one that is connected to it already.

    It needs a name for that, in a directory of ours, and loses it again at once. Raises HostError.
    """
    import tempfile

    listener, connection = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        with tempfile.TemporaryDirectory(prefix="pyvmm-") as directory:
            name = os.path.join(directory, "socket")
            listener.bind(name)
            listener.listen(1)
            connection.connect(name)
    except OSError as error:
        listener.close()
        connection.close()
        raise HostError(f"No socket can be made for {program}: {error}") from error
    return listener, connection
