"""A result as formatted text: `str(result)`, with a style for each piece of it.

A piece is (style, text), as prompt_toolkit has them. What a guest can write into a result cannot
steer the terminal: control characters are taken out.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.monitor.result import Fields, Live, Result, Sections, Table, cell_text, lines_of
from pyvmm.printable import printable

NAME = "ansicyan"
TITLE = "bold"
ERROR = "ansired"
PLAIN = ""
NEWLINE = "\n"

Piece = tuple[str, str]


def render(result: Result) -> list[Piece]:
    """The pieces of a result, without a newline at their end. Any thread."""
    return [(style, safe(text)) for style, text in _pieces(result)]


def safe(text: str) -> str:
    """The same lines without control characters."""
    return "\n".join(map(printable, text.split("\n")))


def _pieces(result: Result) -> Iterator[Piece]:
    match result:
        case Fields(pairs):
            width = max(map(len, pairs), default=0) + 1
            for at, (name, cell) in enumerate(pairs.items()):
                value = f"{'':{width - len(name)}}{cell_text(cell)}".rstrip()
                yield from ((NAME, f"{NEWLINE if at else ''}{name}:"), (PLAIN, value))
        case Table():
            head, *rows = lines_of(result)
            yield (TITLE, head)
            for row in rows:
                yield (PLAIN, f"\n{row}")
        case Sections(sections):
            for at, (title, section) in enumerate(sections.items()):
                yield (TITLE, f"{2 * NEWLINE if at else ''}{title}\n")
                yield from _pieces(section)
        case Live(_, make):
            yield from _pieces(make())
        case _:
            yield (PLAIN, str(result))
