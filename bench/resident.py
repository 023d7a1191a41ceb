"""How much memory a VMM holds resident beyond its guest's, with a tiny guest that idles."""

from __future__ import annotations

import sys

from measure import Report, Running, Subject, beyond_guest_ram, in_turn
from start import IN_PROCESS, TINY, in_process, subjects


def resident(subject: Subject) -> float:
    """MiB, once the guest has written its byte."""
    with Running(subject) as running:
        running.until(b"S")
        return beyond_guest_ram(running.process.pid)


def measure(missing: dict[str, str]) -> list[Report]:
    """A VMM alone, and what each further machine in one process adds."""
    able = [subject for subject in subjects() if subject.name.split()[0] not in missing]
    samples, broken = in_turn(able, resident)
    idle = Subject("Machine()", [sys.executable, str(IN_PROCESS), "idle", TINY])
    further, unable = in_process(idle)
    return [
        Report("resident beyond guest RAM", "MiB", samples, missing | broken),
        Report("each further idle machine in a process", "MiB", further, unable, "Machine()"),
    ]
