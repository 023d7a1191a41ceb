"""What front ends and tracing cost a guest: its exits a second with and without them.

One machine runs all the time and is looked at in short windows, in one state after the other, so
that whatever else the host does meets every state alike. Each exit of the guest is a port access
that C answers: of the line status register, or a byte of output on its serial line. A user has the
console on a terminal, others have connected to every other front end, and nobody asks for anything.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from measure import ARTEFACTS, TREE, Report

if __name__ == "__main__":
    from pyvmm import Linux, Machine, cli
    from pyvmm.control import controlled
    from pyvmm.tracing.points import Selection
    from pyvmm.tracing.recording import Recording
    from pyvmm.tracing.sinks import open_sink

ROUNDS, WINDOWS = 20, 10
WINDOW, SETTLE = 0.2, 0.3  # seconds
CONNECT = 10.0  # seconds
READER, WRITER = "exits-endless.elf", "output-endless.elf"
NONE, FRONTS = "nothing", "every front end open and idle"
HALTS = {"gdb"}  # to connect stops the guest: these only listen

Table = tuple[str, str, dict[str, list[float]], dict[str, str], str]  # the fields of Report
States = dict[str, Callable[["Machine", Path], AbstractContextManager[object]]]


@contextmanager
def front_ends(machine: Machine, folder: Path) -> Iterator[None]:
    """All that `pyvmm run` can open, with a client each."""
    where = {name: f"unix:{folder}/{name}" for name in cli.CONTROL}
    with controlled(machine, where), ExitStack() as stack:
        for name in where.keys() - HALTS:
            if name == "monitor":
                stack.enter_context(console(where[name]))
            else:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(CONNECT)
                client.connect(f"{folder}/{name}")
        yield


@contextmanager
def console(where: str) -> Iterator[None]:
    """`pyvmm monitor` on a terminal, once it has shown its prompt; its output is read."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "pyvmm", "monitor", where]
    environment = os.environ | {"PYTHONPATH": str(TREE), "TERM": "xterm-256color"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    os.close(theirs)
    os.read(ours, 1)
    thread = threading.Thread(target=drain, args=(ours,))
    thread.start()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        thread.join()
        os.close(ours)


def drain(terminal: int) -> None:
    """Read what a terminal shows, until nobody has it any more."""
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        pass


@contextmanager
def traced(machine: Machine, format: str) -> Iterator[None]:
    """Every exit is told, in text or JSON."""
    tracer = machine.tracer
    output = tracer.add(Selection("exit.*"), open_sink(os.devnull, format, tracer.origin))
    yield
    tracer.remove(output)


@contextmanager
def recorded(machine: Machine) -> Iterator[None]:
    """Every exit is recorded."""
    machine.tracer.record(Recording(os.devnull))
    yield
    machine.tracer.record(None)


def exits_a_second(machine: Machine) -> float:
    """In one window."""
    begun, before = time.monotonic(), sum(machine.exit_counts()[0].values())
    time.sleep(WINDOW)
    seconds = time.monotonic() - begun
    return (sum(machine.exit_counts()[0].values()) - before) / seconds


def compare(guest: str, states: States) -> dict[str, list[float]]:
    """The samples of each state."""
    samples: dict[str, list[float]] = {name: [] for name in states}
    boot = Linux(str(ARTEFACTS / guest))
    with (
        tempfile.TemporaryDirectory() as folder,
        Machine(boot=boot, memory="64M", serial=("none",)) as machine,
    ):
        machine.start()
        for _ in range(ROUNDS):
            for name, state in states.items():
                with state(machine, Path(folder)):
                    time.sleep(SETTLE)
                    samples[name] += [exits_a_second(machine) for _ in range(WINDOWS)]
    return samples


def tables() -> Iterator[Table]:
    """All of them."""
    fronts: States = {NONE: lambda *_: nullcontext(), FRONTS: front_ends}
    unit = "exits/s"
    for guest, what in ((READER, "a guest that reads a port"), (WRITER, "a guest's serial line")):
        yield what, unit, compare(guest, fronts), {}, NONE
    off = "switched off"  # but in the first round, after it was on
    tracing: States = {
        off: lambda *_: nullcontext(),
        "recorded": lambda machine, _: recorded(machine),
        "as text": lambda machine, _: traced(machine, "text"),
        "as JSON": lambda machine, _: traced(machine, "json"),
    }
    yield "tracing of a guest that reads a port", unit, compare(READER, tracing), {}, off


def measure(missing: dict[str, str]) -> list[Report]:
    """What a process of its own finds out; nobody else is measured."""
    command = [sys.executable, __file__]
    environment = os.environ | {"PYTHONPATH": str(TREE)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [Report(*table) for table in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    print(json.dumps(list(tables())), flush=True)
