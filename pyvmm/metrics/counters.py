"""All that can be counted of a machine, as families of numbers.

Their names, without `pyvmm_` and `_total`, follow Prometheus's conventions: base units, and what
the numbers of one family are of in labels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from pyvmm.errors import KvmError
from pyvmm.kvm.statistics import Statistics
from pyvmm.machine import Machine
from pyvmm.value import Value

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; of times in /proc
NANOSECOND = 1e-9
STATES = ("running", "paused", "ended")
# proc(5), /proc/PID/stat: the fields behind the command's name, which ends with a parenthesis.
UTIME, STIME, RSS, GUEST_TIME = 11, 12, 21, 40

KVM_TIME = "_ns"  # how the names of KVM's times end
NOW = "in_flight"  # the one number of a device that falls again

Sample = tuple[Mapping[str, str], float]  # labels and a number


class Family(Value):
    """One thing that is counted; a `total` only grows, and begins anew with the process."""

    name: str
    help: str
    total: bool
    samples: Sequence[Sample]


class Counters:
    """The counters of an open machine. Any thread but a vCPU's or the loop's."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._kvm: dict[str, Statistics] | None = None  # by vCPU

    def close(self) -> None:
        """Let KVM's go; nobody reads any more."""
        self._stack.close()

    def read(self) -> list[Family]:
        """All of them now. The first time stops the vCPUs for a moment.

        Raises UsageError once the machine is closed.
        """
        machine = self._machine
        with self._lock:
            if self._kvm is None:
                self._kvm = self._open_kvm()
            return [
                *_about(machine),
                *_process(),
                *_exits(machine),
                *_times(machine),
                *_kvm(self._kvm),
                *_devices(machine),
                *_interrupts(machine),
            ]

    def _open_kvm(self) -> dict[str, Statistics]:
        """KVM's own of each vCPU; none where it has none (before Linux 5.14)."""
        machine = self._machine
        try:
            with machine.paused():
                return {
                    str(vcpu.index): self._stack.enter_context(Statistics(vcpu))
                    for vcpu in machine.board.vcpus
                }
        except KvmError:
            return {}


def _about(machine: Machine) -> Iterator[Family]:
    config = machine.config
    yield Family("info", "The machine", False, [({"name": config.name}, 1)])
    states = [({"state": state}, float(machine.state == state)) for state in STATES]
    yield Family("state", "1 for the state that it is in", False, states)
    yield _one("memory_bytes", "The guest's memory", config.memory_size)
    yield _one("vcpus", "Its vCPUs", config.cpus)


def _process() -> Iterator[Family]:
    fields = _stat("/proc/self/stat")
    resident = fields[RSS] * os.sysconf("SC_PAGE_SIZE")
    yield _one("resident_bytes", "Memory that the process has, the guest's included", resident)
    used = sum(os.times()[:2])
    yield _one("cpu_seconds", "CPU time of the process, the guest's included", used, total=True)


def _exits(machine: Machine) -> Iterator[Family]:
    for name, help, counts in (
        ("exits", "Exits from the guest that KVM left to pyvmm", machine.exit_counts()),
        (
            "exits_answered",
            "Those of the exits that C answered without Python",
            [vcpu.answered_counts() for vcpu in machine.board.vcpus],
        ),
    ):
        samples = [
            ({"vcpu": str(index), "kind": kind}, float(count))
            for index, kinds in enumerate(counts)
            for kind, count in kinds.items()
        ]
        yield Family(name, help, True, samples)


def _times(machine: Machine) -> Iterator[Family]:
    samples: list[Sample] = []
    for index, thread in enumerate(machine.vcpu_threads()):
        try:
            fields = _stat(f"/proc/self/task/{thread}/stat")
        except OSError:  # it has ended
            continue
        # The user's time contains the guest's (proc(5), guest_time).
        times = {
            "guest": fields[GUEST_TIME],
            "user": fields[UTIME] - fields[GUEST_TIME],
            "system": fields[STIME],
        }
        for mode, ticks in times.items():
            samples.append(({"vcpu": str(index), "mode": mode}, ticks * TICK))
    yield Family("vcpu_seconds", "CPU time of the vCPUs' threads", True, samples)


def _kvm(statistics: Mapping[str, Statistics]) -> Iterator[Family]:
    samples: dict[tuple[str, bool], list[Sample]] = {}
    for vcpu, source in statistics.items():
        for counter in source.read():
            key = counter.name, counter.total
            samples.setdefault(key, []).append(({"vcpu": vcpu}, counter.value))
    for (name, total), of_all in samples.items():
        what = f"What KVM calls {name} among its statistics of a vCPU"
        if name.endswith(KVM_TIME):  # which Counter has made seconds
            name = f"{name.removesuffix(KVM_TIME)}_seconds"
        yield Family(f"kvm_{name}", what, total, of_all)


def _devices(machine: Machine) -> Iterator[Family]:
    samples: dict[str, list[Sample]] = {}
    for device in machine.board.virtio.values():
        statistics = device.statistics()
        for name, value in () if statistics is None else _numbers(statistics):
            samples.setdefault(name, []).append(({"device": device.name}, value))
    for name, of_all in samples.items():
        words = name.replace("_", " ")
        total = not name.endswith(NOW)
        yield Family(f"device_{name}", f"Of each virtio device: {words}", total, of_all)


def _interrupts(machine: Machine) -> Iterator[Family]:
    board = machine.board
    signalled = [
        ({"device": device.name}, float(device.interrupts))
        for device in board.virtio.values()
        if device.interrupts is not None
    ]
    yield Family("device_interrupts", "Interrupts of its queues", True, signalled)
    raised = [
        ({"gsi": str(gsi), "devices": ", ".join(names)}, float(line.raised))
        for gsi, (line, names) in board.wired.items()
    ]
    yield Family("interrupt_lines", "How often an interrupt line was driven high", True, raised)


def _numbers(statistics: Value, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a device's statistics, with the names of all that they stand in."""
    for name, value in statistics.asdict().items():
        if isinstance(value, Value):
            yield from _numbers(value, f"{prefix}{name}_")
        elif name == "nanoseconds":
            yield f"{prefix}seconds", value * NANOSECOND
        else:
            yield prefix + name, value


def _one(name: str, help: str, value: float, *, total: bool = False) -> Family:
    return Family(name, help, total, [({}, value)])


def _stat(path: str) -> list[int]:
    """The fields of a file of proc(5) that are numbers, as the constants above count them."""
    with open(path, "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return [0, *map(int, fields[1:])]
