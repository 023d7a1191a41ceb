"""An image in a format that is not pyvmm's own, served by QEMU's storage daemon (vhost-user-blk).

The daemon is started and stopped here. It does not outlive pyvmm, and it leaves nothing behind:
its socket has lost its name before the guest starts, and so has the overlay of a snapshot.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from contextlib import suppress

from pyvmm.errors import HostError
from pyvmm.typed import Any
from pyvmm.value import Value

PROGRAM = "qemu-storage-daemon"
PACKAGES = {  # of Debian 12
    PROGRAM: "qemu-system-common",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
}
STOP_SECONDS = 10.0  # to write what it holds back and to close the image
DYING_SECONDS = 1.0  # between hanging up and being gone
PIPE_SIZE = 64 << 10  # bytes, see pipe(7)
SCRATCH = "/var/tmp"  # for what may be large: file-hierarchy(7)


class Image(Value):
    """A disk image and how it is used. `iops` and `bps` are rates, 0 is no limit."""

    path: str
    format: str = "qcow2"
    read_only: bool = False
    snapshot: bool = False  # what is written is forgotten, the image never changes
    direct: bool = False  # past the host's page cache
    discard: bool = True
    iops: int = 0
    bps: int = 0


class StorageDaemon:
    """The daemon of one image; see pyvmm.virtio.vhost_user_device.BackEnd. One thread.

    The daemon ends with the thread that called `connect`, which is the device's worker.
    """

    def __init__(self, image: Image, queues: int) -> None:
        self._image = image
        self._queues = queues
        self._overlay: int | None = None  # the descriptor of a snapshot's changes
        self._process: subprocess.Popen[bytes] | None = None
        self._said: list[str] = []  # its options, which its messages repeat
        self._messages = -1  # where it says what is wrong

    def connect(self) -> socket.socket:
        """Start it. Raises HostError."""
        if self._image.snapshot and self._overlay is None:
            self._overlay = _make_overlay(self._image)
        program = _find(PROGRAM)
        listener, connection = _make_sockets()
        self._said = self._options(listener.fileno())
        fds = [listener.fileno()] + ([] if self._overlay is None else [self._overlay])
        self._messages, messages = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = subprocess.Popen(
                [
                    *(_find("setpriv"), "--pdeathsig", "TERM", "--no-new-privs", "--"),
                    *(program, *self._said),
                ],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,  # non-blocking: a guest that makes it complain cannot stall it
                pass_fds=fds,
                process_group=0,  # not the terminal's: it has to outlive a Ctrl-C
            )
        except (OSError, HostError) as error:
            connection.close()
            os.close(self._messages)
            raise HostError(f"{PROGRAM} cannot be started: {error}") from error
        finally:
            listener.close()
            os.close(messages)
        return connection

    def explain(self, clause: str) -> str:
        """A sentence on why it failed, in its own words if it left any."""
        return f"{self._image.path}: {self._end(DYING_SECONDS) or f'{PROGRAM} failed: {clause}'}"

    def disconnect(self) -> None:
        """End it."""
        self._end(0)

    def close(self) -> None:
        """Forget what a snapshot has kept."""
        if self._overlay is not None:
            os.close(self._overlay)
            self._overlay = None

    def _end(self, patience: float) -> str:
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
            return f"{PROGRAM} was killed by signal {-ended}"
        return _shorten(words, self._said)

    def _options(self, listener: int) -> list[str]:
        import json

        image = self._image
        common = {
            "read-only": image.read_only,
            "discard": "unmap" if image.discard else "ignore",
            "cache": {"direct": image.direct},
        }
        disk: dict[str, Any] = {"driver": image.format, "file": _file(image.path)}
        if self._overlay is not None:
            top = {"driver": "file", "filename": f"/proc/self/fd/{self._overlay}"}
            disk = {"driver": "qcow2", "file": top, "backing": disk | {"read-only": True}}
        options = []
        if image.iops or image.bps:
            limits = {"iops-total": image.iops, "bps-total": image.bps}
            group = {"qom-type": "throttle-group", "id": "limits", "limits": limits}
            options += ["--object", json.dumps(group)]
            disk = {"driver": "throttle", "throttle-group": "limits", "file": disk | common}
        export = {
            "type": "vhost-user-blk",
            "id": "export",
            "node-name": "disk",
            "writable": not image.read_only,
            "num-queues": self._queues,
            "addr": {"type": "fd", "str": str(listener)},
        }
        node = json.dumps(disk | common | {"node-name": "disk"})
        return [*options, "--blockdev", node, "--export", json.dumps(export)]


def _find(program: str) -> str:
    import shutil

    path = shutil.which(program)
    if path is None:
        raise HostError(
            f"{program} must be installed; it is in Debian's package {PACKAGES[program]}"
        )
    return path


def _file(path: str) -> dict[str, str]:
    device = os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)
    return {"driver": "host_device" if device else "file", "filename": path}


def _make_sockets() -> tuple[socket.socket, socket.socket]:
    """One that listens, for the daemon, and one that is connected to it already.

    It needs a name for that, in a directory of ours, and loses it again at once.
    """
    import tempfile

    listener, connection = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        with tempfile.TemporaryDirectory(prefix="pyvmm-") as directory:
            name = os.path.join(directory, "disk")
            listener.bind(name)
            listener.listen(1)
            connection.connect(name)
    except OSError as error:
        listener.close()
        connection.close()
        raise HostError(f"No socket can be made for {PROGRAM}: {error}") from error
    return listener, connection


def _make_overlay(image: Image) -> int:
    """A file without a name, for what differs from the image. Raises HostError."""
    program = _find("qemu-img")
    directory = os.environ.get("TMPDIR", SCRATCH)
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{directory} has no place for a snapshot: {error.strerror}") from error
    backing = f"file:{os.path.abspath(image.path)}"
    command = [program, "create", "-q", "-f", "qcow2", "-F", image.format, "-b", backing]
    made = subprocess.run(
        [*command, f"/proc/self/fd/{fd}"], capture_output=True, text=True, pass_fds=[fd]
    )
    if made.returncode:
        os.close(fd)
        raise HostError(f"{image.path}: {_shorten(made.stderr, [])}")
    return fd


def _shorten(words: str, options: list[str]) -> str:
    """The last message, without the program's name and the option that it is about."""
    for name in (f"{PROGRAM}: ", "qemu-img: "):
        words = words.rpartition(name)[2]
    for option in options:
        words = words.rpartition(f"{option}: ")[2]
    if "Is another process using the image" in words:
        return "it must not be in use by another program"
    return " ".join(words.split())
