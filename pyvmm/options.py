"""The command line: what pyvmm needs of argparse, in argparse's words.

Importing argparse, with the `re`, `enum` and `gettext` that it needs, is a quarter of a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pyvmm.errors import UsageError
from pyvmm.typed import Any, NoReturn

COLUMN = 22  # of the help texts
REST = "rest"  # the attribute for what comes after --


class Arguments:
    """What a command line says: an attribute for each option, None for those not given."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__ = values

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"The command has no option {name!r}")


class Option:
    """One option, or, where the name has no dash, a positional argument."""

    def __init__(
        self,
        *names: str,
        # Or append, store_true, count, optional: a value only after =, rest: all after a --.
        action: str = "store",
        metavar: str = "",
        help: str = "",
        type: Callable[[str], object] = str,
        choices: Sequence[str] = (),
        required: bool = False,
    ) -> None:
        self.names = names
        self.key = names[-1].lstrip("-").replace("-", "_") or REST
        self.positional = names[0][0] != "-"
        self.takes_value = action in ("store", "append")
        self.may_take_value = self.takes_value or action == "optional"
        self.metavar = metavar or "|".join(choices)
        self.required = required
        self._action = action
        self._help = help
        self._type = type
        self._choices = choices

    def add(self, values: dict[str, Any], text: str) -> None:
        """Note in `values` that it was given, with `text` if it takes one. Raises UsageError."""
        match self._action:
            case "store":
                values[self.key] = self._value(text)
            case "append":
                values[self.key] = [*(values[self.key] or ()), self._value(text)]
            case "optional":
                values[self.key] = self._value(text) if text else True
            case "store_true":
                values[self.key] = True
            case "count":
                values[self.key] = (values[self.key] or 0) + 1

    def _value(self, text: str) -> object:
        if self._choices and text not in self._choices:
            raise UsageError(f"{self.names[-1]} must be {' or '.join(self._choices)}, not {text!r}")
        try:
            return self._type(text)
        except ValueError:
            raise UsageError(f"{self.names[-1]} must be a number, not {text!r}") from None

    def line(self) -> str:
        """Its help."""
        what = self.metavar if self.positional else ", ".join(self.names)
        if (self.takes_value or self.key == REST) and not self.positional:
            what += f" {self.metavar}"
        elif self.may_take_value and not self.positional:
            what += f"[={self.metavar}]"
        return row(what, self._help)


class Command:
    """What one command takes."""

    def __init__(self, title: str, help: str, run: Callable[[Arguments], int]) -> None:
        self.help = help
        self._title = title
        self._run = run
        self._options: list[Option] = []
        self.add("-h", "--help", action="store_true", help="show this help and exit")

    def add(self, *names: str, **settings: Any) -> None:
        """Have an option, as Option describes it."""
        self._options.append(Option(*names, **settings))

    def parse(self, words: Sequence[str]) -> Arguments:
        """What `words` say. Raises UsageError; SystemExit once it has printed the help."""
        values: dict[str, Any] = {option.key: None for option in self._options}
        texts: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--" and REST in values:
                values[REST] = list(rest)
            elif word == "--":
                texts += rest
            elif word.startswith("--"):
                name, equals, text = word.partition("=")
                option = self._option(name)
                if equals and not option.may_take_value:
                    raise UsageError(f"{name} must not be given a value")
                option.add(values, text if equals else self._next(option, rest))
            elif word.startswith("-") and word != "-":
                for letter in word[1:]:
                    option = self._option(f"-{letter}")
                    option.add(values, self._next(option, rest))
            else:
                texts.append(word)
        if values.pop("help"):
            print(self.text())
            raise SystemExit(0)
        self._add_positional(values, texts)
        return Arguments(values | {"command": self._run})

    def _option(self, name: str) -> Option:
        for option in self._options:
            if name in option.names:
                return option
        raise UsageError(f"{self._title} must not be given {name}, which is no option of it")

    def _next(self, option: Option, rest: Iterator[str]) -> str:
        """The next word, if the option takes a value."""
        if not option.takes_value:
            return ""
        for word in rest:
            return word
        raise UsageError(f"{option.names[-1]} must be given a value, {option.metavar}")

    def _add_positional(self, values: dict[str, Any], texts: Sequence[str]) -> None:
        options = [option for option in self._options if option.positional]
        if len(texts) > len(options):
            raise UsageError(f"{self._title} must not be given {texts[len(options)]!r}")
        for option, text in zip(options, texts, strict=False):
            option.add(values, text)
        for option in options[len(texts) :]:
            if option.required:
                raise UsageError(f"{self._title} must be given {option.metavar}")

    def text(self) -> str:
        """The help."""
        positional = [option for option in self._options if option.positional]
        usage = " ".join(o.metavar if o.required else f"[{o.metavar}]" for o in positional)
        lines = [f"usage: {self._title} [OPTION...] {usage}".rstrip(), "", self.help, ""]
        return "\n".join(lines + [option.line() for option in self._options])


class Parser:
    """A program with commands."""

    def __init__(self, program: str, help: str) -> None:
        self._program = program
        self._help = help
        self._commands: dict[str, Command] = {}

    def command(self, name: str, help: str, run: Callable[[Arguments], int]) -> Command:
        """Have a command: `run` gets its Arguments and gives the exit status."""
        self._commands[name] = Command(f"{self._program} {name}", help, run)
        return self._commands[name]

    def parse_args(self, words: Sequence[str]) -> Arguments:
        """What `words` say; `command` in it is what to run with it.

        Raises UsageError; SystemExit once it has printed the help.
        """
        name, *rest = words or [""]
        if name in ("-h", "--help"):
            print(self.text())
            raise SystemExit(0)
        if name not in self._commands:
            said = f", not {name!r}" if name else ""
            raise UsageError(f"The command must be {' or '.join(self._commands)}{said}")
        return self._commands[name].parse(rest)

    def text(self) -> str:
        """The help."""
        lines = [f"usage: {self._program} COMMAND [OPTION...]", "", self._help, ""]
        return "\n".join(lines + [row(name, one.help) for name, one in self._commands.items()])


def row(what: str, help: str) -> str:
    """A line of help, or two if `what` is long."""
    gap = " " * (COLUMN - len(what)) if len(what) < COLUMN else "\n" + " " * (COLUMN + 2)
    return f"  {what}{gap}{help}".rstrip()
