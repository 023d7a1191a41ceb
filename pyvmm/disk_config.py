"""Disk: the value of a disk, and its form as an option.

The format of an image comes from the value or the file's name, never from what is in the file: a
guest could write the header of another format into its disk, and name any file of the host in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pyvmm import suboptions
from pyvmm.errors import UsageError
from pyvmm.memory import parse_size
from pyvmm.peripherals import Host, Peripheral
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.virtio.blk import Storage
    from pyvmm.virtio.device import VirtioDevice

MAX_QUEUES = 64
SERIAL_SIZE = 20  # VIRTIO 1.2 §5.2.6: of the device ID string
VHOST_USER = "vhost-user:"

# The options after the path: | separates choices, N is a number, SIZE one as 10M, S a text; what
# has no form is given without a value.
OPTIONS = {
    "format": "raw|qcow2",
    "ro": "",
    "snapshot": "",
    "cache": "writeback|none|writethrough",
    "serial": "S",
    "queues": "N",
    "discard": "on|off",
    "werror": "report|stop",
    "iops": "N",
    "bps": "SIZE",
    "packed": "on|off",
    "poll": "N",
}
SYNTAX = suboptions.syntax(OPTIONS)
# What another than pyvmm decides, and so cannot be asked of it.
_FOREIGN = {
    "raw": (),
    "qcow2": ("serial", "werror", "packed", "poll"),
    "vhost-user": (
        "format",
        "ro",
        "snapshot",
        "cache",
        "serial",
        "discard",
        "werror",
        "iops",
        "bps",
        "packed",
        "poll",
    ),
    "python": ("format", "ro", "snapshot", "discard", "poll"),
}


class Disk(Peripheral):
    """A disk: an image file, a block device, `vhost-user:SOCKET`, or an object of yours.

    `backend` is such an object: see pyvmm.backends.python_disk.Backend. For the others:

    format     raw or qcow2; if not given, what the file's name ends in (.qcow2, .qcow), else raw
    ro         the guest may not write
    snapshot   what the guest writes is forgotten at the end, the image never changes
    cache      writeback: written data is safe once the guest has flushed it; writethrough: at once;
               none: as writeback, but past the host's page cache
    serial     up to 20 ASCII characters that the guest sees
    queues     0 is one for each vCPU
    discard    whether the guest can give space back to the host
    werror     when the host has no space left: report an error, or stop until there is some
    iops, bps  the most requests and bytes (also as 10M) a second, 0 is no limit
    packed     offer packed rings, too
    poll       microseconds at most to look for the next request before sleeping; 0 is not to
    """

    name: str
    path: str | os.PathLike[str] = ""
    format: str = ""
    ro: bool = False
    snapshot: bool = False
    cache: str = "writeback"
    serial: str = ""
    queues: int = 0
    discard: bool = True
    werror: str = "report"
    iops: int = 0
    bps: int | str = 0
    packed: bool = False
    poll: int = 0
    backend: object = None

    @property
    def kind(self) -> str:
        """What serves it: raw, qcow2, vhost-user or python."""
        path = os.fspath(self.path)
        if self.backend is not None:
            return "python"
        if path.startswith(VHOST_USER):
            return "vhost-user"
        return self.format or ("qcow2" if path.endswith((".qcow2", ".qcow")) else "raw")

    @property
    def shares_memory(self) -> bool:
        """See Peripheral."""
        return self.kind in ("qcow2", "vhost-user")

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        if not isinstance(self.path, (str, os.PathLike)) or "\0" in os.fspath(self.path):
            raise UsageError(f"A disk's path must be a file name, not {self.path!r}")
        if bool(os.fspath(self.path)) == (self.backend is not None):
            raise UsageError(f"Disk {self.name} must have either a path or a backend")
        for key, form in OPTIONS.items():
            _check(key, form, getattr(self, key))
        if self.ro and self.snapshot:
            raise UsageError("A disk is either ro or a snapshot, not both")
        for key in _FOREIGN[self.kind]:
            if getattr(self, key) != getattr(Disk, key):
                raise UsageError(f"{key} cannot be set for a {self.kind} disk")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        if self.kind in ("qcow2", "vhost-user"):
            return self._open_foreign(self.queues or min(host.cpus, MAX_QUEUES))
        from pyvmm.virtio.blk import Blk

        storage = self._open_storage()
        try:
            return Blk(
                self.name,
                storage,
                queues=self.queues or min(host.cpus, MAX_QUEUES),
                serial=self.serial,
                writeback=self.cache != "writethrough",
                discard=self.discard,
                iops=self.iops,
                bps=parse_size(self.bps),
                hold=host.stop if self.werror == "stop" else None,
                packed=self.packed,
                poll=self.poll,
                tell=host.tell,
            )
        except BaseException:
            storage.close()
            raise

    def _open_storage(self) -> Storage:
        if self.backend is not None:
            from pyvmm.backends.python_disk import PythonDisk

            return PythonDisk(self.backend)
        path, direct = os.fspath(self.path), self.cache == "none"
        if self.snapshot:
            from pyvmm.backends.overlay import open_snapshot

            return open_snapshot(path, direct=direct)
        from pyvmm.backends.disk import open_image

        return open_image(path, read_only=self.ro, direct=direct)

    def _open_foreign(self, queues: int) -> VirtioDevice:
        """The front end of a disk that another process serves."""
        from pyvmm.virtio.vhost_user_blk import VhostUserBlk

        path = os.fspath(self.path)
        if self.kind == "vhost-user":
            from pyvmm.backends.vhost_socket import VhostSocket

            back_end = VhostSocket(path.removeprefix(VHOST_USER))
            return VhostUserBlk(self.name, back_end, queues=queues)
        from pyvmm.backends.storage_daemon import Image, StorageDaemon

        image = Image(
            path,
            read_only=self.ro,
            snapshot=self.snapshot,
            direct=self.cache == "none",
            discard=self.discard,
            iops=self.iops,
            bps=parse_size(self.bps),
        )
        return VhostUserBlk(
            self.name,
            StorageDaemon(image, queues),
            queues=queues,
            writeback=self.cache != "writethrough",
            discard=self.discard,
        )


def _check(key: str, form: str, value: object) -> None:
    """Raise UsageError unless `value` is one of the option `key`."""
    if form in ("", "on|off"):
        if not isinstance(value, bool):
            raise UsageError(f"{key} must be True or False, not {value!r}")
    elif form == "S":
        if not isinstance(value, str) or len(value) > SERIAL_SIZE or not _plain(value):
            raise UsageError(f"{key} must be at most {SERIAL_SIZE} ASCII characters, not {value!r}")
    elif form in ("N", "SIZE"):
        number = parse_size(value, key) if form == "SIZE" and isinstance(value, str) else value
        limit = MAX_QUEUES if key == "queues" else 1 << 62
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= limit:
            raise UsageError(f"{key} must be a number from 0 to {limit}, not {value!r}")
    elif value not in form.split("|") and (key, value) != ("format", ""):
        raise UsageError(f"{key} must be {form.replace('|', ' or ')}, not {value!r}")


def _plain(text: str) -> bool:
    return text.isascii() and (text.isprintable() or not text)


def drive_name(index: int) -> str:
    """What Linux calls disk number `index`: vda, vdb, ... vdz, vdaa, ..."""
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


def parse_disks(texts: Sequence[str]) -> tuple[Disk, ...]:
    """What --disk was given, in order: vda, vdb, ... Raises UsageError."""
    return tuple(parse_disk(text, drive_name(index)) for index, text in enumerate(texts))


def parse_disk(text: str, name: str) -> Disk:
    """`PATH[,OPTION...]`, in which ,, stands for a comma of the path. Raises UsageError."""
    if "\0" in text:
        raise UsageError(f"A disk's path must be a file name, not {text!r}")
    path, *options = suboptions.split(text)
    if not path:
        raise UsageError(f"A disk must be PATH{SYNTAX}, not {text!r}")
    values = suboptions.parse("A disk", options, OPTIONS)
    disk = Disk(name, path, **values)
    disk.check()
    return disk
