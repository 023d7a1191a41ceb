"""The types of what commands take and give: Python's, checked and described as QAPI's.

    bool, int, str          themselves; an int has 64 bits
    Literal["a", "b"]       an enum; Annotated[str, OneOf(...)] where the values are a table's
    list[X]                 an array
    a TypedDict             an object
    A | B                   a union of objects, told apart by the first member, a Literal of each
    Any                     anything

Source: QEMU, docs/devel/qapi-code-gen, and qapi/introspect.json for the description.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pyvmm.qmp.errors import QmpError
from pyvmm.value import Value

INTEGERS = range(-(1 << 63), 1 << 64)  # of QAPI's int, and of its size, which clients send too

# Each builtin: its name, its "json-type", and what it is called in errors.
BUILTINS: Mapping[Any, tuple[str, str, str]] = {
    str: ("str", "string", "string"),
    int: ("int", "int", "integer"),
    bool: ("bool", "boolean", "boolean"),
    Any: ("any", "value", "value"),
}
EMPTY = "empty"  # the object without members


class OneOf:
    """Marks a str that must be one of `values`; `name` is the enum's."""

    def __init__(self, name: str, values: Collection[str]) -> None:
        self.name = name
        self.values = values


class Member(Value):
    """A member of an object."""

    kind: Any
    required: bool


@cache
def members_of(kind: Any) -> dict[str, Member]:
    """The members of a TypedDict by name."""
    return {
        name: Member(get_args(hint)[0], False)
        if get_origin(hint) is NotRequired
        else Member(hint, True)
        for name, hint in get_type_hints(kind, include_extras=True).items()
    }


def values_of(kind: Any) -> OneOf | None:
    """The enum that `kind` is, if it is one."""
    if get_origin(kind) is Literal:
        return OneOf("|".join(get_args(kind)), get_args(kind))
    if get_origin(kind) is Annotated and isinstance(get_args(kind)[1], OneOf):
        return get_args(kind)[1]  # type: ignore[no-any-return]
    return None


@cache
def variants_of(kind: Any) -> tuple[str, dict[str, Any]]:
    """The name of a union's tag, and its objects by the values of that."""
    objects = get_args(kind)
    tag = next(iter(members_of(objects[0])))
    return tag, {get_args(members_of(one)[tag].kind)[0]: one for one in objects}


def is_union(kind: Any) -> bool:
    """Whether `kind` is a union of objects."""
    return get_origin(kind) in (Union, UnionType)


# ---- checking ----


def check(kind: Any, value: Any, name: str) -> None:
    """Raise QmpError unless `value`, which is called `name`, is of `kind`."""
    enum = values_of(kind)
    if enum is not None:
        _check_builtin(str, value, name)
        if value not in enum.values:
            raise QmpError(f"Parameter '{name}' does not accept value '{value}'")
    elif kind in BUILTINS:
        _check_builtin(kind, value, name)
    elif get_origin(kind) is list:
        if not isinstance(value, list):
            raise QmpError(_wrong_type(name, "array"))
        for at, element in enumerate(value):
            check(get_args(kind)[0], element, f"{name}[{at}]")
    elif not isinstance(value, dict):
        raise QmpError(_wrong_type(name, "object"))
    elif is_union(kind):
        tag, variants = variants_of(kind)
        if tag not in value:
            raise QmpError(f"Parameter '{name}.{tag}' is missing")
        check(Annotated[str, OneOf(tag, variants)], value[tag], f"{name}.{tag}")
        check_members(members_of(variants[value[tag]]), value, f"{name}.")
    else:
        check_members(members_of(kind), value, f"{name}.")


def check_members(members: Mapping[str, Member], value: Mapping[str, Any], prefix: str) -> None:
    """Raise QmpError unless `value` has `members` and no others."""
    for name, member in members.items():
        if name in value:
            check(member.kind, value[name], prefix + name)
        elif member.required:
            raise QmpError(f"Parameter '{prefix}{name}' is missing")
    for name in value:
        if name not in members:
            raise QmpError(f"Parameter '{prefix}{name}' is unexpected")


def _check_builtin(kind: Any, value: Any, name: str) -> None:
    if kind is Any:
        return
    if type(value) is not kind:  # a bool is an int for isinstance
        raise QmpError(_wrong_type(name, BUILTINS[kind][2]))
    if kind is int and value not in INTEGERS:
        raise QmpError(f"Parameter '{name}' must have 64 bits")
    if kind is str and not all(c.isprintable() or c.isspace() for c in value):
        raise QmpError(f"Parameter '{name}' must have printable characters only")


def _wrong_type(name: str, expected: str) -> str:
    return f"Invalid parameter type for '{name}', expected: {expected}"


# ---- describing ----


class Schema:
    """Entries of query-qmp-schema, each type once, after all that use it were described."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, **entry: Any) -> str:
        """Have an entry, unless there is one of that name; the name."""
        self.entries.setdefault(name, {"name": name, **entry})
        return name

    def type_name(self, kind: Any) -> str:
        """The name of `kind`, which has an entry from now on."""
        if kind in (None, NoneType):
            return self.object_name(EMPTY, {})
        if kind in BUILTINS:
            name, json_type, _ = BUILTINS[kind]
            return self.add(name, **{"meta-type": "builtin", "json-type": json_type})
        enum = values_of(kind)
        if enum is not None:
            members = [{"name": value} for value in enum.values]
            values = list(enum.values)
            return self.add(enum.name, **{"meta-type": "enum", "members": members}, values=values)
        if get_origin(kind) is list:
            element = self.type_name(get_args(kind)[0])
            return self.add(f"[{element}]", **{"meta-type": "array", "element-type": element})
        if is_union(kind):
            return self._union_name(kind)
        return self.object_name(kind.__name__, members_of(kind))

    def object_name(self, name: str, members: Mapping[str, Member], **more: Any) -> str:
        """The same for an object with `members`; without any it is always the same."""
        name = name if members or more else EMPTY
        if name not in self.entries:
            self.add(name, **{"meta-type": "object", "members": []}, **more)  # if it has itself
            self.entries[name]["members"] = [
                {"name": key, "type": self.type_name(member.kind)}
                | ({} if member.required else {"default": None})
                for key, member in members.items()
            ]
        return name

    def _union_name(self, kind: Any) -> str:
        tag, variants = variants_of(kind)
        name = "|".join(one.__name__ for one in variants.values())
        cases = [
            {"case": value, "type": self.object_name(one.__name__, _others(one, tag))}
            for value, one in variants.items()
        ]
        enum = Annotated[str, OneOf(f"{name}.{tag}", variants)]
        return self.object_name(name, {tag: Member(enum, True)}, tag=tag, variants=cases)


def _others(kind: Any, tag: str) -> dict[str, Member]:
    return {name: member for name, member in members_of(kind).items() if name != tag}
