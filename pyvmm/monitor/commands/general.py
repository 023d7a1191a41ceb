"""The monitor itself: its help, and commands that are about commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pyvmm.errors import UsageError
from pyvmm.monitor.command import Command, command
from pyvmm.monitor.kinds import Line, Rest
from pyvmm.monitor.result import Fields, Live, Result, Sections, Text
from pyvmm.monitor.session import Session

EVERY = " every "
SECONDS = 1.0  # between two looks, if not given
SECONDS_MIN, SECONDS_MAX = 0.1, 3600.0


class Name(Rest):
    """The name of a command, or the word that several begin with."""

    metavar = "COMMAND"

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        return (name for name in session.commands if name.startswith(text))


class Watched(Line):
    """A command, and perhaps how often."""

    metavar = "COMMAND [every N seconds]"

    def parse(self, session: Session, text: str) -> object:
        """The command's line, and the seconds between two looks at what it shows."""
        line, every, seconds = text.rpartition(EVERY)
        line, interval = (line, _interval(seconds)) if every else (text, SECONDS)
        watched, _ = session.find(line)
        if not watched.shows:
            raise UsageError(f"What is watched must show something; {watched.name} does not")
        return line, interval


def _interval(text: str) -> float:
    try:
        seconds = float(text.removesuffix("seconds").removesuffix("second"))
    except ValueError:
        seconds = 0
    if SECONDS_MIN <= seconds <= SECONDS_MAX:
        return seconds
    raise UsageError(f"N must be {SECONDS_MIN:g} to {SECONDS_MAX:g} seconds, not {text!r}")


@command("help", examples=["help", "help watch", "help info"])
def help_(session: Session, name: Annotated[str, Name()] = "") -> Result:
    """List the commands, or explain one."""
    from pyvmm.monitor.commands import GROUPS

    if not name:
        groups = {
            title: [one for one in vars(module).values() if isinstance(one, Command)]
            for title, module in GROUPS.items()
        }
        return Sections({title: _list(commands) for title, commands in groups.items() if commands})
    group = [one for one in session.commands.values() if one.name.startswith(f"{name} ")]
    if group and name not in session.commands:
        return _list(group)
    found, rest = session.find(name)
    if rest:
        raise UsageError(f"There is no command {name!r}")
    examples = {"Examples": Text("\n".join(found.examples))} if found.examples else {}
    return Sections({found.usage: Text(found.long_help), **examples})


def _list(commands: Iterable[Command]) -> Fields:
    return Fields({one.name: one.help for one in commands})


@command("watch", examples=["watch info status", "watch info status every 0.5 seconds"])
def watch(session: Session, watched: Annotated[tuple[str, float], Watched()]) -> Result:
    """Show what a command shows again and again, until a key is pressed.

    The seconds are 0.1 to 3600, and 1 if not given. Where nothing can be redrawn, as in a pipe, it
    is shown once.
    """
    line, interval = watched

    def look() -> Result:
        return session.run(line) or Text("")

    return Live(interval, look)
