"""The names of `typing` that only type checkers need: importing it costs a start-up 3 ms of 40."""

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn, Protocol, Self, TypeAlias, dataclass_transform
else:
    Any = ClassVar = NoReturn = Protocol = Self = TypeAlias = object

    def dataclass_transform(**_: object) -> object:
        """Do nothing, as typing's."""
        return lambda kind: kind


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "NoReturn",
    "Protocol",
    "Self",
    "TypeAlias",
    "dataclass_transform",
]
