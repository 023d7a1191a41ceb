"""How many port reads a second a guest gets answered: in C, in Python, and by a bare loop in C."""

from __future__ import annotations

from measure import ARTEFACTS, Report, Running, Subject, in_turn
from peers import EXITS, pyvmm

C, PYTHON = str(ARTEFACTS / "exits-c.elf"), str(ARTEFACTS / "exits-python.elf")


def microseconds(subject: Subject) -> float:
    """Time of one exit: between the guest's two bytes."""
    with Running(subject) as running:
        begun = running.until(b"S")
        return 1e6 * (running.until(b"S.*E") - begun) / EXITS


def measure() -> list[Report]:
    """One table; the ratio is to the bare loop."""
    bare = "bare KVM loop in C"
    in_c = pyvmm(C)
    in_c.name = "pyvmm, published register"
    in_python = pyvmm(PYTHON)
    in_python.name = "pyvmm, Python device"
    subjects = [Subject(bare, [str(ARTEFACTS / "bare_kvm"), C]), in_c, in_python]
    samples, broken = in_turn(subjects, microseconds)
    return [Report("one port read by the guest", "µs", samples, broken, bare)]
