"""This process's machines in the directory of those that run.

It is written on the way of every start, so it imports nothing that it can do without: `socket` and
`json` would cost it 20 times what it does.
"""

from __future__ import annotations

import _socket
import os
import threading
import time
from contextlib import ExitStack, suppress

from pyvmm.errors import HostError
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.machine import Machine
    from pyvmm.registry.services import Services

BACKLOG = 16  # clients that may wait to be accepted
OTHERS = 0o077  # the mode bits of everybody but the owner

_ids: set[str] = set()  # of the entries that this process has
_ids_lock = threading.Lock()  # each machine has a loop, and a thread for it


def directory() -> str:
    """Where the user's machines register: `pyvmm` in XDG_RUNTIME_DIR, else in /run/user/UID.

    Without either it is a directory in /tmp (XDG Base Directory Specification, "a replacement
    directory with similar capabilities"). Raises HostError if it would be another user's.
    """
    user = os.geteuid()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not base.startswith("/"):  # which the specification has ignored
        base = f"/run/user/{user}"
        if not os.path.isdir(base):
            return f"/tmp/pyvmm-{user}"
    with suppress(FileNotFoundError):
        if (owner := os.stat(base).st_uid) != user:
            raise HostError(f"{base} must belong to user {user}, not to user {owner}")
    return f"{base}/pyvmm"


def open_directory(path: str, *, make: bool = False) -> int:
    """A descriptor of it, which the caller closes; `make` it if it is not there.

    Raises HostError if it cannot be opened, or is open to others than the user.
    """
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{path} cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS:
        os.close(fd)
        raise HostError(f"{path} must belong to user {os.geteuid()} and have mode 0700")
    return fd


def socket_path(directory: int, id: str) -> str:
    """A path to a machine's control socket that is never too long for one (unix(7), sun_path)."""
    return f"/proc/self/fd/{directory}/{id}.sock"


class Entry:
    """The entry of one open machine, from its making to `close`. The loop's thread."""

    def __init__(self, machine: Machine) -> None:
        """Register it. Raises HostError; nothing is left then."""
        self._machine = machine
        self._services: Services | None = None
        path = directory()
        with ExitStack() as stack:
            self._id = _take_id()
            stack.callback(_ids.discard, self._id)
            self._directory = open_directory(path, make=True)
            stack.callback(os.close, self._directory)
            try:
                # The socket first: whoever finds the file may connect.
                self._listen(stack)
                self._write(json_text(describe(machine, self._id)))
            except OSError as error:
                raise HostError(f"{path} cannot be written: {error.strerror}") from error
            stack.callback(self._remove, "json")
            self._stack = stack.pop_all()
        machine.loop.watch(self._listener.fileno(), self._serve)

    def close(self) -> None:
        """Take it back, and let those go who are connected. Not on the thread of one."""
        self._stack.close()

    def _listen(self, stack: ExitStack) -> None:
        self._remove("sock")  # of a dead process that had our number
        self._listener = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        stack.callback(self._stop_serving)
        self._listener.bind(socket_path(self._directory, self._id))
        stack.callback(self._remove, "sock")
        os.chmod(f"{self._id}.sock", 0o600, dir_fd=self._directory)
        self._listener.listen(BACKLOG)

    def _write(self, text: str) -> None:
        new = f".{self._id}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600, dir_fd=self._directory)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        here = self._directory
        os.rename(new, f"{self._id}.json", src_dir_fd=here, dst_dir_fd=here)

    def _remove(self, kind: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{self._id}.{kind}", dir_fd=self._directory)

    def _serve(self) -> None:
        """Somebody has connected for the first time: from now on this is for the services."""
        from pyvmm.registry.services import Services

        self._machine.loop.unwatch(self._listener.fileno())
        self._services = Services(self._machine, self._listener.detach())

    def _stop_serving(self) -> None:
        if self._services is not None:
            self._services.close()
        else:
            self._machine.loop.unwatch(self._listener.fileno())
            self._listener.close()


def _take_id() -> str:
    """The number of the process; with another after it, from 2 on, where it has more machines."""
    pid = id = str(os.getpid())
    number = 1
    with _ids_lock:
        while id in _ids:
            number += 1
            id = f"{pid}.{number}"
        _ids.add(id)
    return id


def describe(machine: Machine, id: str) -> dict[str, object]:
    """What others learn of a machine without asking it; the fields of machines.RunningMachine."""
    config = machine.config
    kernel = None if config.boot is None else os.path.abspath(os.fspath(config.boot.kernel))
    return {
        "name": config.name,
        "id": id,
        "pid": os.getpid(),
        "own_process": machine.own_process,
        "started": time.time(),
        "kernel": kernel,
        "memory": config.memory_size,
        "cpus": config.cpus,
        "sockets": {**machine.fronts, **{name: line.where for name, line in machine.lines.items()}},
    }


def json_text(value: object) -> str:
    """JSON of dicts, strings, numbers, booleans and None; it is ASCII, whatever a string has."""
    if isinstance(value, dict):
        pairs = (f"{json_text(key)}: {json_text(one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, str):
        units = memoryview(value.encode("utf-16", "surrogatepass")).cast("H")[1:]
        plain = (
            chr(unit) if 32 <= unit < 127 and unit not in b'"\\' else f"\\u{unit:04x}"
            for unit in units
        )
        return f'"{"".join(plain)}"'
    return "null" if value is None else repr(value).lower()
