"""What every benchmark here does: run subjects in turn, time what they print, tabulate, keep."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Sample = TypeVar("Sample")
TREE = Path(__file__).resolve().parents[1]
ARTEFACTS = TREE / "build/bench"
RESULTS = TREE / "bench/results"
ROUNDS = 7
TIMEOUT = 120.0  # seconds until a subject counts as broken


class Broken(Exception):
    """A subject did not print what was expected; the text says what it did."""


@dataclass
class Subject:
    """What is measured: a program with its arguments, under the name it has in the table."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Running:
    """A subject from its exec to its kill; times are seconds since just before exec."""

    def __init__(self, subject: Subject) -> None:
        self.output = b""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            subject.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | subject.env,
            close_fds=False,  # exec by vfork: the cheapest start there is
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def until(self, pattern: bytes) -> float:
        """When `pattern` had appeared on standard output."""
        assert self.process.stdout is not None
        while re.search(pattern, self.output) is None:
            left = self.started + TIMEOUT - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                raise Broken(self._complaint(bool(ready)))
            self.output += data
        return time.monotonic() - self.started

    def _complaint(self, ended: bool) -> str:
        self.process.kill()
        _, errors = self.process.communicate()
        text = (errors or self.output).decode(errors="replace").replace(f"{TREE}/", "")
        said = text.strip().splitlines()
        return f"{'ended' if ended else 'hung'}: {said[-1] if said else 'without a word'}"


def time_to(subject: Subject, pattern: bytes) -> float:
    """Seconds from exec of a subject until it has printed `pattern`."""
    with Running(subject) as running:
        return running.until(pattern)


def in_turn(
    subjects: Sequence[Subject], sample: Callable[[Subject], Sample], rounds: int = ROUNDS
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Take one sample of every subject, `rounds` times; samples by name, and who is broken, how.

    Taking turns lets whatever else the machine does meet every subject alike.
    """
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    broken: dict[str, str] = {}
    for _ in range(rounds):
        for subject in subjects:
            if subject.name in broken:
                continue
            try:
                samples[subject.name].append(sample(subject))
            except Broken as error:
                broken[subject.name] = str(error)
                del samples[subject.name]
    return samples, broken


@dataclass
class Report:
    """One table: what was measured, in which unit, against which subject ratios are given."""

    title: str
    unit: str
    samples: dict[str, list[float]]
    skipped: dict[str, str]
    against: str = "pyvmm"

    def lines(self) -> list[str]:
        """The table for a person: medians [least-most] and the ratio to `against`."""
        width = max(map(len, [*self.samples, *self.skipped]), default=0)
        base = self.samples.get(self.against)
        out = [f"{self.title} ({self.unit})"]
        for name, values in sorted(self.samples.items(), key=lambda item: median(item[1])):
            ratio = f"{median(values) / median(base):6.2f}x" if base else ""
            spread = f"[{min(values):.4g}-{max(values):.4g}]"
            out.append(f"  {name:{width}}  {median(values):9.4g} {spread:>18} {ratio}")
        out += [f"  {name:{width}}  skipped: {why}" for name, why in self.skipped.items()]
        return out

    def as_json(self) -> dict[str, object]:
        """The same for programs, with every sample."""
        medians = {name: median(values) for name, values in self.samples.items()}
        return {
            "title": self.title,
            "unit": self.unit,
            "medians": medians,
            "samples": self.samples,
            "skipped": self.skipped,
        }


median = statistics.median


def keep(name: str, reports: Sequence[Report]) -> None:
    """Print the tables and write bench/results/NAME.json."""
    for report in reports:
        print("\n".join(report.lines()), "\n", flush=True)
    text = json.dumps(
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(),
            "reports": [report.as_json() for report in reports],
        },
        indent=1,
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def machine() -> dict[str, object]:
    """Where this was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    modules = Path("/sys/module")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kvm": [name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if (modules / name).exists()],
    }


def beyond_guest_ram(pid: int) -> float:
    """MiB of memory that a VMM holds resident beyond its guest's.

    Guest RAM is recognised by its size: no VMM here maps as much for itself, writable.
    """
    total, counted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
        if head:
            size = int(head[2], 16) - int(head[1], 16)
            counted = size < GUEST_RAM_LEAST or "w" not in head[3]
        elif counted and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


GUEST_RAM_LEAST = 64 << 20
