"""What the server is and can do. Source: QEMU, qapi/control.json and introspect.json."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any, Literal, NotRequired, TypedDict

from pyvmm.qmp import events
from pyvmm.qmp.client import NEGOTIATE, Client
from pyvmm.qmp.command import command
from pyvmm.qmp.errors import QmpError
from pyvmm.qmp.schema import Schema


class VersionTriple(TypedDict):
    """A version, number by number."""

    major: int
    minor: int
    micro: int


class VersionInfo(TypedDict):
    """Under QEMU's name, where clients look for it, is pyvmm's own version; `package` says so."""

    qemu: VersionTriple
    package: str


class CommandInfo(TypedDict):
    """A command that there is."""

    name: str


class EnumMember(TypedDict):
    """A value of an enum."""

    name: str


class ObjectMember(TypedDict):
    """A member of an object; one with a `default`, which is null, is optional."""

    name: str
    type: str
    default: NotRequired[Any]


class ObjectVariant(TypedDict):
    """What more an object has in one `case` of its tag."""

    case: str
    type: str


SchemaBuiltin = TypedDict(
    "SchemaBuiltin",
    {
        "meta-type": Literal["builtin"],
        "name": str,
        "json-type": Literal["string", "int", "boolean", "value"],
    },
)
SchemaEnum = TypedDict(
    "SchemaEnum",
    {
        "meta-type": Literal["enum"],
        "name": str,
        "members": list[EnumMember],
        "values": list[str],
    },
)
SchemaArray = TypedDict(
    "SchemaArray", {"meta-type": Literal["array"], "name": str, "element-type": str}
)
SchemaObject = TypedDict(
    "SchemaObject",
    {
        "meta-type": Literal["object"],
        "name": str,
        "members": list[ObjectMember],
        "tag": NotRequired[str],
        "variants": NotRequired[list[ObjectVariant]],
    },
)
SchemaCommand = TypedDict(
    "SchemaCommand",
    {"meta-type": Literal["command"], "name": str, "arg-type": str, "ret-type": str},
)
SchemaEvent = TypedDict(
    "SchemaEvent", {"meta-type": Literal["event"], "name": str, "arg-type": str}
)
SchemaInfo = SchemaBuiltin | SchemaEnum | SchemaArray | SchemaObject | SchemaCommand | SchemaEvent


def version() -> VersionInfo:
    """What the greeting says, too."""
    try:
        text = metadata.version("pyvmm")
    except metadata.PackageNotFoundError:  # run from its sources
        text = "0"
    major, minor, micro = (*map(int, re.findall(r"\d+", text)), 0, 0, 0)[:3]
    return {
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": f"pyvmm {text}, which is not QEMU",
    }


@command(NEGOTIATE)
def qmp_capabilities(client: Client, enable: list[str] = []) -> None:  # noqa: B006  not changed
    """End the negotiation, in which nothing is offered."""
    if enable:
        raise QmpError(f"Capability {enable[0]} is not offered")


@command("query-version")
def query_version(client: Client) -> VersionInfo:
    """Tell what the greeting told."""
    return version()


@command("query-commands")
def query_commands(client: Client) -> list[CommandInfo]:
    """List the names of all commands."""
    from pyvmm.qmp.commands import TABLE

    return [{"name": name} for name in TABLE]


@command("query-qmp-schema")
def query_qmp_schema(client: Client) -> list[SchemaInfo]:
    """Describe all commands and events, and their types."""
    from pyvmm.qmp.commands import TABLE

    schema = Schema()
    for one in TABLE.values():
        one.describe(schema)
    events.describe(schema)
    return list(schema.entries.values())  # type: ignore[arg-type]
