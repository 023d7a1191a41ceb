"""The machines of all the user's processes: which there are, and what each can be asked."""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from pyvmm.errors import HostError, UsageError
from pyvmm.log import Log
from pyvmm.registry import entry
from pyvmm.registry.protocol import ACCEPTED, ANSWER_SECONDS, read_line
from pyvmm.typed import Any
from pyvmm.value import Value

log = Log(__name__)

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
ANSWER_MAX = 16 << 20  # bytes
ENTRY_MAX = 64 << 10  # bytes
POWER_OFF_SECONDS = 10.0  # what a guest has to power itself off, unless it is said


class RunningMachine(Value):
    """A machine of some process of this user: what it was when it registered. Any thread.

    `id` is no other's; `own_process` says that the process is there for it alone, and ends with it.
    `started` is in seconds since 1970, `memory` in bytes; `kernel` is a path, None for the built-in
    guest. `sockets` are its front ends and lines by name, each with where it is.
    """

    name: str
    id: str
    pid: int
    own_process: bool
    started: float
    kernel: str | None
    memory: int
    cpus: int
    sockets: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def connect(self, request: str) -> socket.socket:
        """A socket to a service of services.SERVICES, which has accepted; the caller closes it.

        Raises HostError if the machine has gone, does not answer or says no.
        """
        try:
            with _open_directory() as directory:
                client = _connected(entry.socket_path(directory, self.id))
            try:
                client.sendall(f"{request}\n".encode())
                said = read_line(client)
            except BaseException:
                client.close()
                raise
        except (TimeoutError, BlockingIOError) as error:
            raise HostError(f"{self} does not answer") from error
        except OSError as error:
            raise HostError(f"{self} has ended") from error
        if said != ACCEPTED:
            client.close()
            raise HostError(said or f"{self} has ended")
        client.settimeout(None)
        return client

    def ask(self, request: str) -> Any:
        """What a service answers. Raises HostError."""
        with self.connect(request) as client:
            client.settimeout(ANSWER_SECONDS)
            try:
                return _read_answer(client)
            except (OSError, ValueError) as error:
                raise HostError(f"{self} has not answered") from error

    @property
    def state(self) -> str:
        """As of Machine.state; `unknown` if it does not answer."""
        try:
            return str(self.ask("status")["state"])
        except HostError:
            return "unknown"

    def statistics(self) -> list[dict[str, Any]]:
        """Its counters: the fields of each metrics.counters.Family. Raises HostError."""
        families: list[dict[str, Any]] = self.ask("stat")
        return families

    def stop(self, timeout: float = POWER_OFF_SECONDS) -> str:
        """Press the power button, and end it after `timeout` seconds; wait for its end.

        With 0 it ends at once. A process of its own has gone afterwards, too. Returns how it ended,
        the name of a class of pyvmm.ends: `Quit` if it had to be ended, `unknown` if it did not
        tell. Raises HostError.
        """
        process = self._process()
        try:
            with self.connect(f"stop {timeout}") as client:
                try:
                    end = str(_read_answer(client))
                except (OSError, ValueError):
                    end = "unknown"
            if self.own_process:
                select.select([process], [], [])
        finally:
            os.close(process)
        return end

    def _process(self) -> int:
        try:
            return os.pidfd_open(self.pid)
        except OSError as error:
            raise HostError(f"{self} cannot be waited for: {error.strerror}") from error


def running() -> list[RunningMachine]:
    """The machines of all processes of this user, the oldest first. Any thread.

    What a process that was killed has left behind is removed. Raises HostError for a directory
    that is another user's.
    """
    try:
        with _open_directory() as directory:
            found = [_living(directory, name) for name in os.listdir(directory)]
    except FileNotFoundError:
        return []
    return sorted((one for one in found if one is not None), key=lambda one: one.started)


def find(text: str) -> RunningMachine:
    """The machine of that name or id. Raises UsageError unless there is just one."""
    machines = running()
    matching = [one for one in machines if text in (one.name, one.id)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        ids = " or ".join(one.id for one in matching)
        raise UsageError(f"There are {len(matching)} machines {text!r}; say which: {ids}")
    if not machines:
        raise UsageError(f"There is no machine {text!r}; none is running")
    import difflib  # which takes as long as all else here

    close = difflib.get_close_matches(text, [one.name for one in machines], 1)
    meant = f"did you mean {close[0]!r}? There are" if close else "there are"
    raise UsageError(f"There is no machine {text!r}; {meant} {', '.join(map(str, machines))}")


def _read_answer(client: socket.socket) -> Any:
    """The JSON that is there until the peer closes. Raises OSError or ValueError."""
    answer = b""
    while (data := client.recv(1 << 16)) and len(answer) < ANSWER_MAX:
        answer += data
    return json.loads(answer)


def _connected(path: str) -> socket.socket:
    """A socket, connected within ANSWER_SECONDS. Raises OSError."""
    client = socket.socket(socket.AF_UNIX)
    try:
        client.settimeout(ANSWER_SECONDS)
        client.connect(path)
        client.settimeout(None)
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def _open_directory() -> Iterator[int]:
    """The directory of the entries. Raises HostError, FileNotFoundError if there is none yet."""
    path = entry.directory()
    os.stat(path)
    fd = entry.open_directory(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _living(directory: int, name: str) -> RunningMachine | None:
    """The machine whose entry the file `name` is; it is removed if its process has gone."""
    if not name.endswith(".json"):
        pid = name.removeprefix(".").partition(".")[0]
        if not os.path.exists(f"/proc/{pid}"):  # killed before it had an entry, or after
            _remove(directory, name)
        return None
    try:
        with os.fdopen(os.open(name, FLAGS, dir_fd=directory), "rb") as file:
            fields = json.loads(file.read(ENTRY_MAX))
        machine = RunningMachine(**fields)
        _connected(entry.socket_path(directory, machine.id)).close()
        return machine
    except (ConnectionRefusedError, FileNotFoundError):
        _remove(directory, name)
    except (TimeoutError, BlockingIOError):  # it is stopped, and many wait for it
        return machine
    except (OSError, ValueError, TypeError) as error:
        log.info("%s is no entry of a machine: %s", name, error)
    return None


def _remove(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
