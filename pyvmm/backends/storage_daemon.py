"""An image in a format that is not pyvmm's own, served by QEMU's storage daemon (vhost-user-blk).

The daemon is started and stopped here. It does not outlive pyvmm, and it leaves nothing behind:
its socket has lost its name before the guest starts, and so has the overlay of a snapshot.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess

from pyvmm.backends.daemon import DYING_SECONDS, Daemon, find, make_sockets
from pyvmm.errors import HostError
from pyvmm.typed import Any
from pyvmm.value import Value

PROGRAM = "qemu-storage-daemon"
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
        self.daemon = Daemon(PROGRAM)
        self._said: list[str] = []  # its options, which its messages repeat

    def connect(self) -> socket.socket:
        """Start it. Raises HostError."""
        if self._image.snapshot and self._overlay is None:
            self._overlay = _make_overlay(self._image)
        program = find(PROGRAM)
        listener, connection = make_sockets(PROGRAM)
        self._said = self._options(listener.fileno())
        fds = [listener.fileno()] + ([] if self._overlay is None else [self._overlay])
        try:
            self.daemon.start([program, *self._said], fds)
        except HostError:
            connection.close()
            raise
        finally:
            listener.close()
        return connection

    def explain(self, clause: str) -> str:
        """A sentence on why it failed, in its own words if it left any."""
        words = _shorten(self.daemon.end(DYING_SECONDS), self._said)
        return f"{self._image.path}: {words or f'{PROGRAM} failed: {clause}'}"

    def disconnect(self) -> None:
        """End it."""
        self.daemon.end()

    def close(self) -> None:
        """Forget what a snapshot has kept."""
        if self._overlay is not None:
            os.close(self._overlay)
            self._overlay = None

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


def _file(path: str) -> dict[str, str]:
    device = os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)
    return {"driver": "host_device" if device else "file", "filename": path}


def _make_overlay(image: Image) -> int:
    """A file without a name, for what differs from the image. Raises HostError."""
    program = find("qemu-img")
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
