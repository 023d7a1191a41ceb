"""What the debug registers hold for breakpoints and watchpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import debug_spec as spec
from pyvmm.breakpoints import ACCESS, BREAK, WRITE, Point, pieces_of


def pieces(kind: str, address: int, length: int) -> list[tuple[int, int, int]]:
    return pieces_of(Point(kind, address, length, 0, None))


def test_a_breakpoint_is_one_byte_that_is_executed() -> None:
    assert pieces(BREAK, 0x1003, 1) == [(0x1003, spec.EXECUTE, 1)]


@given(st.integers(0, (1 << 64) - 16), st.integers(1, 15), st.sampled_from([WRITE, ACCESS]))
def test_a_watchpoint_is_aligned_pieces_that_cover_it(address: int, length: int, kind: str) -> None:
    found = pieces(kind, address, length)
    assert [at + n for at, _, size in found for n in range(size)] == list(
        range(address, address + length)
    )[: sum(size for _, _, size in found)]
    assert all(at % size == 0 for at, _, size in found)
    assert sum(size for _, _, size in found) == length or len(found) > spec.REGISTERS


def test_a_huge_watchpoint_is_not_taken_apart_to_its_end() -> None:
    assert len(pieces(WRITE, 0, 1 << 63)) == spec.REGISTERS + 1


@pytest.mark.parametrize(
    ("register", "access", "length", "bits"),
    [
        (0, spec.EXECUTE, 1, 0x0000_0002),
        (1, spec.WRITE, 4, 0x00D0_0008),
        (2, spec.ACCESS, 2, 0x0700_0020),
        (3, spec.WRITE, 8, 0x9000_0080),
    ],
)
def test_dr7_is_as_the_manual_has_it(register: int, access: int, length: int, bits: int) -> None:
    assert spec.dr7_bits(register, access, length) == bits
