"""The kinds of arguments of the commands about memory and registers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pyvmm.errors import UsageError
from pyvmm.inspection import registers
from pyvmm.inspection.dump import LETTERS, SIZES, Format, parse_format
from pyvmm.inspection.expressions import evaluate
from pyvmm.inspection.views import registers_of
from pyvmm.monitor.kinds import Number, Word
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.monitor.session import Session

NAMES_MAX = 200  # symbols that are offered: a kernel has 100,000
_OPERAND = re.compile(r"[$A-Za-z_.][\w.$@]*$")  # what an expression may end with
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}|\?\?)+")


class AddressKind(Word):
    """An expression, whose registers are those of the session's vCPU."""

    metavar = "ADDRESS"

    def parse(self, session: Session, text: str) -> int:
        """See Kind."""

        def register(name: str) -> int:
            machine = session.machine
            with machine.paused():
                return registers_of(machine, session.cpu)[name]

        def symbol(name: str) -> int:
            try:
                return session.symbols.address(name)
            except LookupError:
                raise UsageError(
                    f"There is no symbol {name!r}; a register is written ${name}"
                ) from None

        return evaluate(text, register, symbol)

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        match = _OPERAND.search(text)
        if match is None:
            return []
        before, start = text[: match.start()], match[0]
        if start.startswith("$"):
            known = (f"${name}" for name in registers.names())
            return [before + name for name in known if name.startswith(start)]
        return [before + name for name in session.symbols.names(start)[:NAMES_MAX]]


class FormatKind(Word):
    """How `x` shows memory, as QEMU has it."""

    metavar = "/FORMAT"

    def matches(self, text: str) -> bool:
        """See Kind."""
        return text.startswith("/")

    def parse(self, session: Session, text: str) -> Format:
        """See Kind."""
        return parse_format(text)

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        if not self.matches(text) or text[-1] in SIZES:
            return []
        return [text + letter for letter in (SIZES if text[-1] in LETTERS else LETTERS)]


class ByteKind(Number):
    """A byte."""

    metavar = "BYTE"

    def parse(self, session: Session, text: str) -> int:
        """See Kind."""
        value = super().parse(session, text)
        assert isinstance(value, int)
        if not 0 <= value <= 0xFF:
            raise UsageError(f"BYTE must be 0 to 0xff, not {text}")
        return value


class RegisterKind(Word):
    """The name of a register, with or without its $."""

    metavar = "REGISTER"

    def parse(self, session: Session, text: str) -> str:
        """See Kind."""
        return registers.find(text.removeprefix("$")).name

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        start = text.removeprefix("$")
        return (f"${name}" for name in registers.TABLE if name.startswith(start))


class Search(Value):
    """What to look for, as a regular expression, and where: (address, length), or everywhere."""

    pattern: re.Pattern[bytes]
    length: int  # of what it matches, in bytes
    place: tuple[int, int] | None


class SearchKind(Word):
    """Bytes or a text, and perhaps a guest-physical range."""

    metavar = 'HEX|"TEXT" [ADDRESS LENGTH]'
    whole_rest = True

    def parse(self, session: Session, text: str) -> Search:
        """See Kind."""
        if text.startswith('"') and '"' in text[1:]:
            what, _, rest = text[1:].partition('"')
            pattern, length = re.escape(what.encode()), len(what.encode())
        else:
            what, _, rest = text.partition(" ")
            if not _HEX.fullmatch(what):
                raise UsageError(
                    f'What to find must be a text in "", or bytes as 0f0b or 0f??05, not {what!r}'
                )
            pairs = [what[at : at + 2] for at in range(0, len(what), 2)]
            pattern = b"".join(
                b"." if pair == "??" else re.escape(bytes.fromhex(pair)) for pair in pairs
            )
            length = len(pairs)
        if not length:
            raise UsageError("What to find must not be empty")
        return Search(re.compile(pattern, re.DOTALL), length, self._place(session, rest.split()))

    def _place(self, session: Session, words: list[str]) -> tuple[int, int] | None:
        if not words:
            return None
        if len(words) != 2:
            raise UsageError("Where to look must be an address and a length")
        address, length = (AddressKind().parse(session, word) for word in words)
        return address, length


# What handlers write as annotations.
Address = Annotated[int, AddressKind()]
OptionalAddress = Annotated[int | None, AddressKind()]
PhysicalAddress = Annotated[int, AddressKind("PHYSICAL")]
Amount = Annotated[int, AddressKind("VALUE")]
DumpFormat = Annotated[Format, FormatKind()]
Byte = Annotated[int, ByteKind()]
RegisterName = Annotated[str, RegisterKind()]
What = Annotated[Search, SearchKind()]
