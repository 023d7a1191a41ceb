"""Small immutable records, cheap to define.

A frozen dataclass or a NamedTuple would do, but a start of pyvmm defines some thirty of them, for
which those generate and compile code: that costs it 4 ms of 40, and importing `dataclasses` 8 more.
"""

from __future__ import annotations

from pyvmm.typed import Any, ClassVar, NoReturn, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Value:
    """Fields are the annotations of bases and class, in order; what they are assigned are defaults.

    Two values are equal if they are of the same class and have equal fields.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.fields = tuple(dict.fromkeys((*cls.fields, *vars(cls).get("__annotations__", ()))))
        setattr(cls, "__match_args__", cls.fields)  # noqa: B010  type checkers have their own idea of it

    def __init__(self, *args: object, **more: object) -> None:
        values = self.__dict__
        values.update(zip(self.fields, args, strict=False))
        values.update(more)
        if more or len(args) != len(self.fields):
            self._check(len(args), more)

    def _check(self, positional: int, more: dict[str, object]) -> None:
        kind = type(self).__name__
        if positional > len(self.fields):
            raise TypeError(f"{kind} has {len(self.fields)} fields, not {positional}")
        for name in more:
            if name not in self.fields[positional:]:
                raise TypeError(f"{kind} cannot be given {name!r} here")
        for name in self.fields:
            if not hasattr(self, name):
                raise TypeError(f"{kind} must be given {name!r}")

    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.fields}

    def replace(self, **changes: object) -> Self:
        """The same with some fields changed. Raises TypeError for what is no field."""
        return type(self)(**self.asdict() | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.asdict() == other.asdict()

    def __hash__(self) -> int:
        return hash((type(self), *self.asdict().values()))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"A {type(self).__name__} does not change")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.asdict().items())
        return f"{type(self).__name__}({fields})"
