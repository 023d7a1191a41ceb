"""What commands return: data, and the same as text for a person.

`str(result)` is plain text without a newline at its end; the console's rendering adds colour.
`data` of a result is made of what JSON has: it is what programs get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyvmm.value import Value


class Hex(int):
    """A number that people read in hexadecimal: an address, a register."""

    def __str__(self) -> str:
        return f"{int(self):#x}"


Cell = str | int | None  # a bool is on or off; None is shown as nothing


class Result(Value):
    """The root of all results."""

    @property
    def data(self) -> Any:
        """The same in dicts, lists, strings and numbers."""
        raise NotImplementedError


class Text(Result):
    """Lines as they are."""

    text: str

    @property
    def data(self) -> str:
        """See Result."""
        return self.text

    def __str__(self) -> str:
        return self.text


class Fields(Result):
    """Names, each with one value."""

    pairs: Mapping[str, Cell]

    @property
    def data(self) -> dict[str, Cell]:
        """See Result."""
        return dict(self.pairs)

    def __str__(self) -> str:
        width = max(map(len, self.pairs), default=0)
        return "\n".join(
            f"{name + ':':{width + 1}} {cell_text(cell)}".rstrip()
            for name, cell in self.pairs.items()
        )


class Table(Result):
    """Rows of cells under the columns' names; numbers stand at the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def data(self) -> list[dict[str, Cell]]:
        """See Result."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def __str__(self) -> str:
        return "\n".join(lines_of(self))


class Sections(Result):
    """Several results, each under a title."""

    sections: Mapping[str, Result]

    @property
    def data(self) -> dict[str, Any]:
        """See Result."""
        return {title: result.data for title, result in self.sections.items()}

    def __str__(self) -> str:
        return "\n\n".join(f"{title}\n{result}" for title, result in self.sections.items())


class Live(Result):
    """A result that is made anew every `interval` seconds, until the user has seen enough.

    A front end that cannot redraw shows it once.
    """

    interval: float
    make: Callable[[], Result]

    @property
    def data(self) -> Any:
        """See Result."""
        return self.make().data

    def __str__(self) -> str:
        return str(self.make())


def cell_text(cell: Cell) -> str:
    """A cell as a person reads it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "on" if cell else "off"
    return str(cell)


def lines_of(table: Table) -> list[str]:
    """The lines of a table, the columns' names first."""
    texts = [list(table.columns), *([cell_text(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [
        all(isinstance(row[at], int) and not isinstance(row[at], bool) for row in table.rows)
        for at in range(len(widths))
    ]
    return [
        "  ".join(
            f"{text:>{width}}" if at_right else f"{text:{width}}"
            for text, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]
