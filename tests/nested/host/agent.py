"""Runs in the nested host: starts processes for the rig and carries their input and output.

It ends, and the nested host with it, when the rig closes its end.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import termios
from pathlib import Path

from wire import PORT, Frames, Kind, pack

CHUNK = 1 << 16


class Process:
    """One process with what it reads from and writes to: a terminal or two pipes."""

    def __init__(self, spec: dict) -> None:
        env = os.environ | spec["env"]
        options = {"cwd": spec["cwd"], "env": env}
        if spec["tty"]:
            self.output, terminal = os.openpty()
            self.input = os.dup(self.output)
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", *spec["tty"], 0, 0))
            files = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
            try:
                self.popen = subprocess.Popen(
                    ["setsid", "--ctty", *spec["argv"]], **files, **options
                )
            finally:
                os.close(terminal)
            return
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.popen = subprocess.Popen(spec["argv"], **pipes, **options, start_new_session=True)
        self.input = os.dup(self.popen.stdin.fileno())
        self.output = os.dup(self.popen.stdout.fileno())
        self.popen.stdin.close()
        self.popen.stdout.close()

    def close_input(self) -> None:
        if self.input >= 0:
            os.close(self.input)
        self.input = -1


class Agent:
    def __init__(self, port: int) -> None:
        self.port = port
        self.frames = Frames()
        self.processes: dict[int, Process] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(port, selectors.EVENT_READ)

    def run(self) -> None:
        self.send(Kind.READY, 0)
        while True:
            for key, _ in self.selector.select():
                if key.data is not None:
                    key.data()
                    continue
                data = os.read(self.port, CHUNK)
                if not data:
                    return
                for kind, number, payload in self.frames.feed(data):
                    self.handle(kind, number, payload)

    def send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        frame = memoryview(pack(kind, number, payload))
        while frame:
            frame = frame[os.write(self.port, frame) :]

    def handle(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.START:
            try:
                self.start(number, json.loads(payload))
            except OSError as error:
                self.send(Kind.OUTPUT, number, f"{error}\n".encode())
                self.send(Kind.EXIT, number, b"127")
            return
        process = self.processes.get(number)
        if process is None:  # it ended while this frame was on its way
            return
        if kind is Kind.SIGNAL:
            os.killpg(process.popen.pid, json.loads(payload))
        elif not payload:
            process.close_input()
        else:
            try:
                os.write(process.input, payload)
            except OSError:  # it reads no more
                process.close_input()

    def start(self, number: int, spec: dict) -> None:
        process = self.processes[number] = Process(spec)
        os.set_blocking(process.output, False)
        ended = os.pidfd_open(process.popen.pid)
        self.selector.register(process.output, selectors.EVENT_READ, lambda: self.copy(number))
        # Its end counts, not that of its output, which a child left behind may keep open.
        self.selector.register(ended, selectors.EVENT_READ, lambda: self.end(number, ended))

    def copy(self, number: int) -> bool:
        """Pass on some output; false if there is none now, or no more."""
        process = self.processes.get(number)
        if process is None:  # its end was seen before the rest of the same round
            return False
        try:
            data = os.read(process.output, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process closed the terminal
            data = b""
        if data:
            self.send(Kind.OUTPUT, number, data)
        elif process.output in self.selector.get_map():
            self.selector.unregister(process.output)
        return bool(data)

    def end(self, number: int, ended: int) -> None:
        while self.copy(number):
            pass
        process = self.processes.pop(number)
        self.selector.unregister(ended)
        if process.output in self.selector.get_map():
            self.selector.unregister(process.output)
        os.close(ended)
        os.close(process.output)
        process.close_input()
        self.send(Kind.EXIT, number, str(process.popen.wait()).encode())


def leave_first_cpu() -> None:
    """Let nothing that is started here run on CPU 0, where the emulator breaks VMRUN.

    On every CPU's XRSTOR it changes flags of CPU 0 without a lock (QEMU 10,
    target/i386/tcg/system/fpu_helper.c, cpu_clear_ignne). Among them is whether CPU 0 is in a
    guest with nested paging: when what it stored there itself is lost by that, the guest on it
    dies by a triple fault, or hangs.
    """
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {0})


def main() -> None:
    leave_first_cpu()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    (name,) = Path("/sys/class/virtio-ports").glob("*/name")
    assert name.read_text().strip() == PORT
    Agent(os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)).run()


if __name__ == "__main__":
    main()
