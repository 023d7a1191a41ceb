"""Small values that match only their own kind."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T", bound=type)


def distinct(kind: T) -> T:
    """Make a NamedTuple equal only to its own kind, and true even without fields.

    A dataclass would be both by itself, but costs a start-up 8 ms.
    """

    def equal(self: tuple[object, ...], other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)  # type: ignore[arg-type]

    kind.__eq__ = equal  # type: ignore[assignment]
    kind.__ne__ = lambda self, other: not equal(self, other)  # type: ignore[assignment]
    kind.__hash__ = lambda self: hash((type(self), *self))  # type: ignore[assignment]
    kind.__bool__ = lambda _: True  # type: ignore[attr-defined]
    return kind
