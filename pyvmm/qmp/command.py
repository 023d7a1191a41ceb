"""A command is one function; the protocol's name is given, the rest is told by the function.

    @command("balloon")
    def balloon(client: Client, value: int) -> None:
        "Ask the guest to make do with `value` bytes."

Its parameters after the client are the arguments; those with a default may be left out. Their
names have dashes where Python's have underscores. The annotations are types of schema.py, and so is
what is returned, of which None is the empty object. It raises QmpError, or any other PyvmmError for
a GenericError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from pyvmm.qmp.schema import Member, Schema, check_members
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.qmp.client import Client


class Command(Value):
    """One command."""

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Member]
    result: Any  # its type

    def run(self, client: Client, arguments: Mapping[str, Any]) -> Any:
        """Carry it out; what it returns, as JSON has it. Raises PyvmmError."""
        check_members(self.arguments, arguments, "")
        given = {name.replace("-", "_"): value for name, value in arguments.items()}
        result = self.function(client, **given)
        return {} if result is None else result

    def describe(self, schema: Schema) -> None:
        """Add it to `schema`."""
        argument = schema.object_name(f"{self.name}-arguments", self.arguments)
        result = schema.type_name(self.result)
        schema.add(self.name, **{"meta-type": "command", "arg-type": argument, "ret-type": result})


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a Command of a function; see the module's docstring."""

    def make(function: Callable[..., Any]) -> Command:
        hints = get_type_hints(function, include_extras=True)
        arguments = {
            parameter.name.replace("_", "-"): Member(
                hints[parameter.name], parameter.default is parameter.empty
            )
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        }
        return Command(name, function, arguments, hints["return"])

    return make
