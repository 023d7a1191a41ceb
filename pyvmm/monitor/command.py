"""A command is one function: its name is given, the rest is told by the function itself.

    @command("write", examples=["write $rsp 0x90 0x90"])
    def write(session: Session, address: Address, *data: Byte) -> Result:
        "Write bytes to memory at a virtual address."

Its parameters after the session are its arguments, in the order in which they are given; the
annotation of each, an Annotated[type, kind], says how it is read and completed; one with a default
may be left out, and one whose kind does not match is passed over. The docstring's first line is
the short help, the rest the long one. It returns a Result, or None if there is nothing to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_type_hints

from pyvmm.errors import UsageError
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.monitor.result import Result
    from pyvmm.monitor.session import Session


class Kind(Protocol):
    """How one kind of argument is written. Any thread."""

    metavar: str  # what stands for it in the usage, as ADDRESS
    whole_rest: bool  # whether it is all that is left of the line, spaces and all

    def matches(self, text: str) -> bool:
        """Whether `text` can be one at all; if not, an optional argument is passed over."""

    def parse(self, session: Session, text: str) -> Any:
        """Its value. Raises UsageError, which says what must be."""

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """What may stand in place of `text`, which is its beginning."""


class Argument(Value):
    """One argument of a command."""

    name: str
    kind: Kind
    required: bool
    repeated: bool
    default: Any = None


class Command(Value):
    """One command; it is called as its function is."""

    name: str
    function: Callable[..., Result | None]
    arguments: Sequence[Argument]
    examples: Sequence[str]
    shows: bool  # whether it can return something

    @property
    def help(self) -> str:
        """The first line of its help."""
        return self.long_help.partition("\n")[0]

    @property
    def long_help(self) -> str:
        """All of its help."""
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def usage(self) -> str:
        """How it is written."""
        words = [self.name]
        for argument in self.arguments:
            word = argument.kind.metavar + ("..." if argument.repeated else "")
            words.append(word if argument.required else f"[{word}]")
        return " ".join(words)

    def __call__(self, *args: Any, **more: Any) -> Result | None:
        """Run the function."""
        return self.function(*args, **more)


def command(
    name: str, *, examples: Sequence[str] = ()
) -> Callable[[Callable[..., Result | None]], Command]:
    """Make a Command of a function; see the module's docstring."""

    def make(function: Callable[..., Result | None]) -> Command:
        hints = get_type_hints(function, include_extras=True)
        arguments = []
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            _, kind = get_args(hints[parameter.name])
            repeated = parameter.kind is parameter.VAR_POSITIONAL
            required = parameter.default is parameter.empty and not repeated
            default = None if required or repeated else parameter.default
            arguments.append(Argument(parameter.name, kind, required, repeated, default))
        shows = hints["return"] is not type(None)
        return Command(name, function, tuple(arguments), tuple(examples), shows)

    return make


def parse_arguments(
    session: Session, command: Command, text: str
) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments that `text` gives. Raises UsageError."""
    try:
        return _parse(session, command, text.strip())
    except UsageError as error:
        raise UsageError(f"{error}; usage: {command.usage}") from None


def _parse(session: Session, command: Command, rest: str) -> tuple[list[Any], dict[str, Any]]:
    repeated: list[Any] = []
    named: dict[str, Any] = {}
    for argument in command.arguments:
        if argument.kind.whole_rest and rest:
            named[argument.name], rest = argument.kind.parse(session, rest), ""
        elif argument.repeated:
            words, rest = rest.split(), ""
            repeated = [argument.kind.parse(session, word) for word in words]
        else:
            word, _, after = rest.partition(" ")
            if word and (argument.required or argument.kind.matches(word)):
                named[argument.name], rest = argument.kind.parse(session, word), after.lstrip()
            elif argument.required:
                raise UsageError(f"{command.name} must be given {argument.kind.metavar}")
            else:
                named[argument.name] = argument.default
    if rest:
        raise UsageError(f"{command.name} must not be given {rest!r}")
    if repeated:  # what stands before it is positional then
        return [*named.values(), *repeated], {}
    return [], named
