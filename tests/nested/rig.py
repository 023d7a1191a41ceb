"""The nested host: a Debian machine with a real /dev/kvm, emulated by QEMU, to run commands in.

    python tests/nested/rig.py run -- COMMAND…      run one, with its output, and its exit status
    python tests/nested/rig.py shell [COMMAND…]     the same on this terminal, all keys passed on

In it, /tree is this tree as it is now, with pyvmm on Python's path, and /dev/vdb is the Debian disk
(build/guests/debian.img); changes to either are lost at its end. guests/linux/nested.py makes what
it starts from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from host.wire import PORT, Frames, Kind, pack

TREE = Path(__file__).resolve().parents[2]
CHUNK = 1 << 16
CPUS, MEMORY_MIB = 3, 4096  # no process is on the first: see host/agent.py
START_TIMEOUT = 180.0  # seconds; it takes eight on an idle machine
STOP_TIMEOUT = 30.0
DIAGNOSIS_SECONDS = 20.0  # for a machine that hangs to say where
APPEND = "console=ttyS0 panic=-1 reboot=t quiet mitigations=off loglevel=1"


class NestedHostError(Exception):
    """The nested host did not start or is gone, or a process in it did not do what was expected."""


class Process:
    """A process in the nested host; what it prints is kept whole in `output`."""

    def __init__(self, host: NestedHost, number: int, on_output: Callable[[bytes], object]) -> None:
        self._host = host
        self._number = number
        self._on_output = on_output
        self._changed = threading.Condition()
        self._seen = 0
        self.output = b""
        self.status: int | None = None

    def write(self, data: bytes) -> None:
        """Give it input."""
        if data:
            self._host.send(Kind.INPUT, self._number, data)

    def close_input(self) -> None:
        """Let it read the end of its input."""
        self._host.send(Kind.INPUT, self._number)

    def _ask_why(self) -> None:
        """A machine that is sent SIGQUIT says where it hangs; others end."""
        if self.status is None:
            self.send_signal(signal.SIGQUIT)
            with self._changed:
                self._changed.wait_for(lambda: self.status is not None, DIAGNOSIS_SECONDS)

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its children."""
        self._host.send(Kind.SIGNAL, self._number, json.dumps(int(number)).encode())

    def expect(self, pattern: bytes, timeout: float = 60.0) -> re.Match[bytes]:
        """Wait until `pattern` appears after what was expected last; `timeout` in seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                match = re.compile(pattern, re.MULTILINE).search(self.output, self._seen)
                if match:
                    self._seen = match.end()
                    return match
                left = deadline - time.monotonic()
                if self.status is not None or not self._changed.wait(max(left, 0)):
                    break
        ended = "" if self.status is None else f", it ended with {self.status}"
        self._ask_why()
        seen = self.output[-8000:].decode(errors="replace")
        raise NestedHostError(
            f"{pattern!r} did not appear in {timeout:g} s{ended}; at last:\n{seen}"
        )

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end and give its exit status; kills it after `timeout` seconds."""
        with self._changed:
            if self._changed.wait_for(lambda: self.status is not None, timeout):
                assert self.status is not None
                return self.status
        self.send_signal(signal.SIGKILL)
        seen = self.output[-4000:].decode(errors="replace")
        raise NestedHostError(f"Not at its end after {timeout:g} s; at last:\n{seen}")

    def take(self, kind: Kind, payload: bytes) -> None:
        """Take a frame about this process; on the reader's thread."""
        with self._changed:
            if kind is Kind.OUTPUT:
                self.output += payload
                self._on_output(payload)
            else:
                self.status = json.loads(payload)
            self._changed.notify_all()


class NestedHost:
    """One nested host, from its start to its end, as a context manager."""

    def __init__(self, l1: Path, emulator: Path, disk: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pyvmm-nested-"))
        self._console = self._folder / "console.log"
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = qemu_command(l1, emulator, disk, self._console, theirs.fileno())
            self._qemu = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the processes in it, not for the machine
                env=os.environ | {"TMPDIR": str(self._folder)},
            )
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._processes: dict[int, Process] = {}
        self._started = 0
        self._alive = True
        self._reader = threading.Thread(target=self._read, name="nested host", daemon=True)
        self._reader.start()
        if not self._ready.wait(START_TIMEOUT) or not self._alive:
            console = self._console.read_text(errors="replace") if self._console.exists() else ""
            self.close()
            raise NestedHostError(f"The nested host did not start; its console:\n{console[-4000:]}")

    def __enter__(self) -> NestedHost:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off: the agent ends when it reads the end of the channel."""
        self._channel.shutdown(socket.SHUT_RDWR)
        try:
            self._qemu.wait(STOP_TIMEOUT if self._ready.is_set() else 0)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()
        self._reader.join()
        self._channel.close()
        shutil.rmtree(self._folder)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/tree",
        tty: tuple[int, int] | None = None,
        on_output: Callable[[bytes], object] = lambda data: None,
    ) -> Process:
        """Start a process, on a terminal of `tty` (rows, columns) or on pipes."""
        with self._lock:
            self._started += 1
            process = Process(self, self._started, on_output)
            self._processes[self._started] = process
        spec = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "tty": tty}
        self.send(Kind.START, process._number, json.dumps(spec).encode())
        return process

    def run(
        self, argv: Sequence[str], *, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command to its end without input; its exit status and what it printed."""
        process = self.spawn(argv, env=env)
        process.close_input()
        status = process.wait(timeout)
        return status, process.output.decode(errors="replace")

    @contextmanager
    def nothing_left(self) -> Iterator[None]:
        """Kill at the end what was started meanwhile and has not ended."""
        before = self._started
        yield
        for number in range(before + 1, self._started + 1):
            if self._processes[number].status is None:
                self._processes[number].send_signal(signal.SIGKILL)

    def send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        """Send the agent a frame."""
        with self._lock:
            self._channel.sendall(pack(kind, number, payload))

    def _read(self) -> None:
        frames = Frames()
        while data := self._channel.recv(CHUNK):
            for kind, number, payload in frames.feed(data):
                if kind is Kind.READY:
                    self._ready.set()
                else:
                    self._processes[number].take(kind, payload)
        self._alive = False
        self._ready.set()  # it will never be
        console = self._console.read_bytes()[-4000:] if self._console.exists() else b""
        for process in self._processes.values():
            if process.status is None:
                process.take(Kind.OUTPUT, b"\n(the nested host is gone; its console:)\n" + console)
                process.take(Kind.EXIT, b"-9")


def qemu_command(l1: Path, emulator: Path, disk: Path, console: Path, channel: int) -> list[str]:
    """How the nested host is started; `channel` is a connected socket for the agent."""
    usr = emulator / "usr"
    return [
        *(
            f"{emulator}/lib64/ld-linux-x86-64.so.2",
            "--library-path",
            f"{usr}/lib/x86_64-linux-gnu",
        ),
        f"{usr}/bin/qemu-system-x86_64",
        *("-L", f"{usr}/share/qemu", "-L", f"{usr}/share/seabios"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"),
        *("-smp", str(CPUS), "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-serial", f"file:{console}"),
        *("-kernel", f"{l1}/vmlinuz", "-initrd", f"{l1}/initramfs.img", "-append", APPEND),
        *("-drive", f"file={l1}/disk.img,format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={disk},format=raw,if=virtio,snapshot=on,discard=unmap"),
        "-virtfs",
        f"local,path={TREE},mount_tag=work,security_model=none,multidevs=remap,readonly=on",
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={channel}"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
    ]


def start() -> NestedHost:
    """Start a nested host, building what it needs if it is not there (as root: two minutes)."""
    sys.path.insert(0, str(TREE / "guests/linux"))
    import debian
    import nested

    import build

    with build.only_one():
        l1 = nested.build()
        disk = debian.build()
    return NestedHost(l1, nested.EMULATOR, disk)


def run_here(argv: Sequence[str], interactive: bool) -> int:
    """Run a command in a nested host of its own with this process's input and output."""
    import termios
    import tty

    size = os.get_terminal_size() if interactive else None
    with start() as host:

        def show(data: bytes) -> None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

        terminal = (size.lines, size.columns) if size else None
        process = host.spawn(argv, tty=terminal, on_output=show)
        saved = termios.tcgetattr(0) if interactive else None
        if saved:
            tty.setraw(0)
        try:
            threading.Thread(target=_copy_input, args=(process,), daemon=True).start()
            return process.wait(timeout=threading.TIMEOUT_MAX)
        finally:
            if saved:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _copy_input(process: Process) -> None:
    while data := os.read(0, CHUNK):
        process.write(data)
    process.close_input()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run", "--", *argv] if argv:
            return run_here(argv, interactive=False)
        case ["shell", *argv] if os.isatty(0):
            return run_here(argv or ["bash"], interactive=True)
    print(
        "Usage: rig.py run -- COMMAND…, or on a terminal rig.py shell [COMMAND…]", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
