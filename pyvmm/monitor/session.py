"""One user of the monitor's commands."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.log import Log
from pyvmm.monitor.command import Argument, Command, parse_arguments
from pyvmm.monitor.result import Result

if TYPE_CHECKING:
    from pyvmm.inspection.symbols import Symbols
    from pyvmm.machine import Machine

log = Log(__name__)

NAME_WORDS_MAX = 3  # of a command, as `info page tables`


class Interrupted(PyvmmError):
    """The user has had enough of a command."""


class CommandFailed(PyvmmError):
    """A mistake in a command's code, which is the cause of this error."""


class Session:
    """What one user of a machine's commands has chosen. One thread at a time, but for `interrupt`.

    Not on a vCPU's or the loop's thread: commands may wait for those.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cpu = 0  # the vCPU whose registers and page tables count
        self._interrupted = threading.Event()

    @property
    def symbols(self) -> Symbols:
        """What gives the guest's addresses names; a command asks once, for it may take a search."""
        from pyvmm.inspection.names import symbols_of

        return symbols_of(self.machine)

    @property
    def commands(self) -> Mapping[str, Command]:
        """All commands by name."""
        from pyvmm.monitor.commands import TABLE

        return TABLE

    def execute(self, line: str) -> Result | None:
        """Run a command with its arguments; what it returns.

        Raises UsageError for what is no such, other PyvmmErrors where it fails, Interrupted.
        """
        self._interrupted.clear()
        return self.run(line)

    def run(self, line: str) -> Result | None:
        """Run a command as a part of another, which is interrupted together with it."""
        command, text = self.find(line)
        positional, named = parse_arguments(self, command, text)
        try:
            return command(self, *positional, **named)
        except PyvmmError:
            raise
        except Exception as error:
            log.exception("A mistake in the code of the command %s", command.name)
            raise CommandFailed(
                f"{command.name} failed by a mistake in its code: {error!r}"
            ) from error

    def find(self, line: str) -> tuple[Command, str]:
        """The command that a line begins with, and the rest of it. Raises UsageError.

        `x/4i` is `x /4i`.
        """
        word, slash, after = line.strip().partition("/")
        if slash and word in self.commands:
            return self.commands[word], f"/{after}"
        words = line.split()
        for count in range(min(len(words), NAME_WORDS_MAX), 0, -1):
            command = self.commands.get(" ".join(words[:count]))
            if command is not None:
                return command, line.split(None, count)[count] if len(words) > count else ""
        raise UsageError(self._unknown(" ".join(words[:2])))

    def _unknown(self, name: str) -> str:
        group = [command for command in self.commands if command.startswith(f"{name} ")]
        if name and group:
            return f"There is no command {name!r}, but {', '.join(group)}"
        close = difflib.get_close_matches(name, self.commands, 1) or difflib.get_close_matches(
            name.partition(" ")[0], self.commands, 1
        )
        if close:
            return f"There is no command {name!r}; did you mean {close[0]!r}?"
        return f"There is no command {name!r}; `help` lists those there are"

    def complete(self, text: str) -> tuple[int, list[str]]:
        """Where in `text` the word begins that may be completed, and what it may become."""
        names = [name for name in self.commands if name.startswith(text)]
        try:
            command, rest = self.find(text)
        except UsageError:
            return 0, names
        if not text.endswith(" ") and not rest:  # still at its name
            return 0, names
        arguments = list(command.arguments)
        while arguments and " " in rest and not arguments[0].kind.whole_rest:
            word, _, after = rest.partition(" ")
            if not word or _takes(arguments[0], word):
                rest = after
            if not arguments[0].repeated and word:
                del arguments[0]
        words: list[str] = []
        for argument in arguments:
            words += argument.kind.complete(self, rest)
            if argument.required or argument.repeated:
                break
        return len(text) - len(rest), words

    def interrupt(self) -> None:
        """Have the command that runs end soon. Any thread."""
        self._interrupted.set()

    def check(self) -> None:
        """Raise Interrupted if the user wants so; commands call it at least every 0.1 s."""
        if self._interrupted.is_set():
            raise Interrupted("Interrupted")


def _takes(argument: Argument, word: str) -> bool:
    """Whether `word` is for it, and not for one behind it."""
    return argument.required or argument.repeated or argument.kind.matches(word)
