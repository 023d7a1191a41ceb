"""The kinds of arguments that commands take. Those of one group of commands stand beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.monitor.session import Session


class Word:
    """Any word; the base of the other kinds."""

    metavar = "WORD"
    whole_rest = False

    def __init__(self, metavar: str = "") -> None:
        self.metavar = metavar or self.metavar

    def matches(self, text: str) -> bool:
        """See Kind."""
        return True

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        return text

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        return ()


class Rest(Word):
    """The rest of the line."""

    metavar = "TEXT"
    whole_rest = True


class Choice(Word):
    """One of a few words."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__("|".join(choices))
        self.choices = choices

    def matches(self, text: str) -> bool:
        """See Kind."""
        return text in self.choices

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        if text not in self.choices:
            raise UsageError(f"It must be {' or '.join(self.choices)}, not {text!r}")
        return text

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        return (choice for choice in self.choices if choice.startswith(text))


class Switch(Choice):
    """On or off, as a bool."""

    def __init__(self) -> None:
        super().__init__(("on", "off"))

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        return super().parse(session, text) == "on"


class Number(Word):
    """A whole number, decimal or with 0x."""

    metavar = "N"

    def matches(self, text: str) -> bool:
        """See Kind."""
        return text[:1].isdigit()

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        try:
            return int(text, 0)
        except ValueError:
            raise UsageError(f"{self.metavar} must be a number, not {text!r}") from None


class CpuNumber(Number):
    """A vCPU of the machine."""

    metavar = "CPU"

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        number = super().parse(session, text)
        cpus = session.machine.config.cpus
        if number not in range(cpus):
            raise UsageError(f"CPU must be 0 to {cpus - 1}, not {text}")
        return number

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        cpus = map(str, range(session.machine.config.cpus))
        return (cpu for cpu in cpus if cpu.startswith(text))


class File(Word):
    """A file of the host's."""

    metavar = "FILE"

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        folder, start = os.path.split(text)
        try:
            entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda e: e.name)
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith(start):
                yield os.path.join(folder, entry.name) + "/" * entry.is_dir()


class Line(Rest):
    """A command with its arguments."""

    metavar = "COMMAND"

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        start = len(text) - len(text.lstrip())
        at, words = session.complete(text[start:])
        return (text[: start + at] + word for word in words)


# What handlers write as annotations.
Cpu = Annotated[int, CpuNumber()]
Path = Annotated[str, File()]
OnOff = Annotated[bool, Switch()]
Text = Annotated[str, Rest()]
CommandLine = Annotated[str, Line()]
