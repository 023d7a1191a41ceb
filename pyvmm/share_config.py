"""Directories of the host for the guest: Share and Rootfs as values, and their forms as options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pyvmm.errors import UsageError
from pyvmm.options import REST
from pyvmm.peripherals import HVC, Console, Host, Peripheral
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.virtio.fs_spec import TAG_SIZE

if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice

SHARE_SYNTAX = "DIR:TAG[,ro]"
ROOTFS_SYNTAX = "DIR[,ro|,rw]"
MODES = ("overlay", "ro", "rw")
TAG = "root"  # of the root directory; csrc/guest/init.c
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
STANDARD_FILES = ("stdin", "stdout", "stderr")


class Share(Peripheral):
    """A directory that the guest mounts by the device's name: `mount -t virtiofs NAME /mnt`.

    The name has at most 36 bytes. With `ro` the guest may not write.
    """

    name: str
    path: str | os.PathLike[str]
    ro: bool = False

    @property
    def shares_memory(self) -> bool:
        """See Peripheral."""
        return True

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        _check_path(self.path)
        if len(self.name.encode(errors="replace")) > TAG_SIZE or not self.name.isprintable():
            raise UsageError(f"A share's tag must be up to {TAG_SIZE} bytes, not {self.name!r}")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        return _open(self.name, self.name, self.path, read_only=self.ro)


class Rootfs(Peripheral):
    """A directory that is the guest's root, with an initial RAM file system that pyvmm makes.

    mode         overlay: what the guest writes stays in its memory; ro: it may not write; rw: it
                 writes to the directory
    command      what to run in place of /sbin/init; its status ends the machine, as ends.Exited
    environment  of the command
    terminal     the columns and rows of a terminal that the command is to have on a Console hvc0,
                 or None: it has a StandardFiles
    """

    name: str = "root"
    path: str | os.PathLike[str] = ""
    mode: str = MODES[0]
    command: Sequence[str] = ()
    environment: Mapping[str, str] = ENVIRONMENT
    terminal: tuple[int, int] | None = None

    @property
    def shares_memory(self) -> bool:
        """See Peripheral."""
        return True

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        _check_path(self.path)
        if self.mode not in MODES:
            raise UsageError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if any("\0" in word for word in self.command):
            raise UsageError("A command must have no NUL in it")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        read_only = self.mode != "rw"
        cache = "always" if read_only else "auto"
        return _open(self.name, TAG, self.path, read_only=read_only, cache=cache)

    def initramfs(self, kernel: str | None) -> bytes:
        """See Peripheral."""
        from pyvmm.boot import rootfs

        if kernel is None:
            raise UsageError("A root directory must have a KERNEL that starts from it")
        return rootfs.initramfs(
            kernel,
            os.fspath(self.path),
            mode=self.mode,
            command=self.command,
            environment=self.environment,
            terminal=self.terminal,
        )


class StandardFiles(Peripheral):
    """Standard input, output and error, for the command of a Rootfs without a terminal."""

    name: str = "standard files"

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.console import Ports

        lines = [(f"pyvmm.{name}", host.open_line(name, name)) for name in STANDARD_FILES]
        return Ports(self.name, lines)


def parse_shares(settings: Mapping[str, Any]) -> list[Peripheral]:
    """The devices of the settings share and rootfs, and of `rest`, the command to run.

    The command has the terminal that we are on, or our standard files if one of them is none.
    Raises UsageError.
    """
    texts = settings.get("share", ())
    devices: list[Peripheral] = [
        parse_share(x) for x in ([texts] if isinstance(texts, str) else texts)
    ]
    command = settings.get(REST, ())
    if command and "rootfs" not in settings:
        raise UsageError("A command must have the --rootfs DIR that it is run in")
    if "rootfs" not in settings:
        return devices
    if not command:
        return [*devices, parse_rootfs(settings["rootfs"])]
    if not all(map(os.isatty, range(len(STANDARD_FILES)))):
        return [*devices, parse_rootfs(settings["rootfs"], command=command), StandardFiles()]
    size = os.get_terminal_size()
    environment = ENVIRONMENT | {"TERM": os.environ.get("TERM", "linux")}
    rootfs = parse_rootfs(
        settings["rootfs"],
        command=command,
        environment=environment,
        terminal=(size.columns, size.lines),
    )
    return [*devices, rootfs, Console(f"{HVC}0", "stdio")]


def parse_share(text: str) -> Share:
    """`DIR:TAG[,ro]`, in which ,, stands for a comma of DIR. Raises UsageError."""
    where, *options = _split(text)
    path, _, tag = where.rpartition(":")
    if not path or not tag or options not in ([], ["ro"]):
        raise UsageError(f"A share must be {SHARE_SYNTAX}, not {text!r}")
    return Share(tag, path, ro=bool(options))


def parse_rootfs(text: str, **settings: Any) -> Rootfs:
    """`DIR[,ro|,rw]`, in which ,, stands for a comma of DIR. Raises UsageError."""
    path, *options = _split(text)
    if not path or options not in ([], ["ro"], ["rw"]):
        raise UsageError(f"A root directory must be {ROOTFS_SYNTAX}, not {text!r}")
    return Rootfs(path=path, mode=options[0] if options else MODES[0], **settings)


def _split(text: str) -> list[str]:
    if "\0" in text:
        raise UsageError(f"A directory must be a file name, not {text!r}")
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _check_path(path: str | os.PathLike[str]) -> None:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fspath(path):
        raise UsageError(f"A shared directory must be a file name, not {path!r}")


def _open(
    name: str, tag: str, path: str | os.PathLike[str], *, read_only: bool, cache: str = "auto"
) -> VirtioDevice:
    from pyvmm.backends.virtiofsd import Virtiofsd
    from pyvmm.virtio.vhost_user_fs import VhostUserFs

    back_end = Virtiofsd(os.fspath(path), read_only=read_only, cache=cache)
    return VhostUserFs(name, back_end, tag=tag)
