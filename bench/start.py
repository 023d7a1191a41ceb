"""How long from exec to the first byte that a tiny guest writes to its serial port."""

from __future__ import annotations

import json
import sys

from measure import ARTEFACTS, Report, Subject, in_turn, time_to
from peers import krun, pyvmm, qemu

IN_PROCESS = ARTEFACTS.parents[1] / "bench/in_process.py"
TINY = str(ARTEFACTS / "tiny.elf")


def subjects() -> list[Subject]:
    """Everything that can run the tiny guest on this machine."""
    return [
        pyvmm(TINY),
        qemu("microvm", TINY),
        krun(TINY),
        Subject("bare KVM loop in C", [str(ARTEFACTS / "bare_kvm"), TINY]),
    ]


def first_byte(subject: Subject) -> float:
    """Milliseconds."""
    return 1000 * time_to(subject, b"S")


def python_alone(subject: Subject) -> float:
    """Milliseconds until an interpreter has started and run one statement."""
    return 1000 * time_to(subject, b"P")


def measure(missing: dict[str, str]) -> list[Report]:
    """Both tables."""
    python = Subject("python3 -c pass", [sys.executable, "-c", "print('P', flush=True)"])
    able = [subject for subject in subjects() if subject.name.split()[0] not in missing]
    samples, broken = in_turn(
        [*able, python], lambda one: python_alone(one) if one is python else first_byte(one), 15
    )
    from_exec = Report("exec to a tiny guest's first byte", "ms", samples, missing | broken)
    machine = Subject("Machine()", [sys.executable, str(IN_PROCESS), "start", TINY])
    samples, broken = in_process(machine)
    return [
        from_exec,
        Report("Machine() to a tiny guest's first byte", "ms", samples, broken, "Machine()"),
    ]


def in_process(subject: Subject) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The samples that a process takes of itself and prints as JSON."""
    from measure import Broken, Running

    with Running(subject) as running:
        try:
            running.until(rb"\n")
        except Broken as error:
            return {}, {subject.name: str(error)}
        return {subject.name: json.loads(running.output)}, {}
