from __future__ import annotations

from pyvmm.inspection.names import NONE, function_at, short_name
from pyvmm.inspection.symbols import table

SYMBOLS = table([(0x1000, "Tstart"), (0x1040, "Tnext"), (0x1080, "")], {})


def test_a_name_has_its_distance_but_at_its_beginning():
    assert short_name(SYMBOLS, 0x1000) == "start"
    assert short_name(SYMBOLS, 0x1041) == "next+0x1"
    assert short_name(SYMBOLS, 0x900) is None


def test_a_function_is_found_from_within():
    assert function_at(SYMBOLS, 0x1044) == (0x1040, 0x40)
    assert function_at(SYMBOLS, 0x900) is None


def test_without_symbols_nothing_has_a_name():
    assert short_name(NONE, 0x1000) is None
    assert NONE.names("") == []
