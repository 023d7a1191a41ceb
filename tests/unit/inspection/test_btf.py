from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.inspection.btf import DEPTH_MAX, Btf
from tests.fakes.btf import BtfWriter


def example() -> BtfWriter:
    btf = BtfWriter()
    number = btf.int("int", 4)
    char = btf.int("char", 1)
    text = btf.array(char, 16)
    btf.enum("color", ["red", "green"])
    inner = btf.struct("inner", 8, [("first", number, 0), ("second", number, 4)])
    alias = btf.typedef("inner_t", inner)
    nameless = btf.struct("", 8, [("left", number, 0), ("right", number, 4)], union=True)
    btf.struct(
        "outer",
        48,
        [("head", number, 0), ("in", alias, 8), ("", nameless, 16), ("comm", text, 24)],
    )
    return btf


@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("outer", 0),
        ("outer.head", 0),
        ("outer.in", 8),
        ("outer.in.second", 12),
        ("inner.second", 4),
    ],
)
def test_a_member_is_found_by_its_path(path, offset):
    assert Btf(example().data()).offset(path) == offset


def test_members_of_a_nameless_union_are_the_structures_own():
    assert Btf(example().data()).offset("outer.right") == 20


def test_sizes_are_those_of_what_an_alias_stands_for():
    btf = Btf(example().data())
    assert btf.size("outer.in") == 8
    assert btf.size("outer.comm") == 16
    assert (btf.count("outer.comm"), btf.element("outer.comm")) == (16, 1)
    assert (btf.count("outer.head"), btf.element("outer.head")) == (1, 4)


@pytest.mark.parametrize("path", ["nothing", "outer.nothing", "outer.head.deeper", "color"])
def test_what_is_not_there_is_named(path):
    btf = Btf(example().data())
    with pytest.raises(LookupError, match=path):
        btf.offset(path)
    assert not btf.has(path)


def test_a_pointer_is_eight_bytes_and_leads_nowhere():
    btf = BtfWriter()
    pointer = btf.pointer(3)
    btf.struct("node", 8, [("next", pointer, 0)])
    assert Btf(btf.data()).size("node.next") == 8
    assert not Btf(btf.data()).has("node.next.next")


def test_types_that_lead_in_circles_are_refused():
    btf = BtfWriter()
    btf.typedef("one", 2)
    btf.typedef("other", 1)
    btf.struct("s", 8, [("m", 1, 0), ("", 4, 0)])
    deep = Btf(btf.data())
    with pytest.raises(ValueError, match="nowhere"):
        deep.size("s.m")
    with pytest.raises(ValueError, match="nowhere"):
        deep.offset("s.missing")


def test_arrays_in_arrays_without_end_are_refused():
    btf = BtfWriter()
    for number in range(2, DEPTH_MAX + 3):
        btf.array(number, 2)
    btf.struct("s", 8, [("m", 1, 0)])
    with pytest.raises(ValueError, match="without a size"):
        Btf(btf.data()).size("s.m")


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", bytes(24), b"\x9f\xeb\x01\0" + b"\xff" * 60])
def test_what_is_no_btf_is_refused_or_empty(data):
    try:
        assert not Btf(data).has("outer")
    except ValueError as error:
        assert "BTF" in str(error)  # noqa: PT017


def test_types_that_are_cut_off_are_left_out():
    data = bytearray(example().data())
    (size,) = struct.unpack_from("<I", data, 12)
    for shorter in range(size):
        struct.pack_into("<I", data, 12, shorter)
        for path in ("outer.in.second", "outer.right", "inner.second"):
            assert not Btf(bytes(data)).has(path) or path == "inner.second"


@given(at=st.integers(0, 400), what=st.binary(min_size=1, max_size=8))
def test_damage_raises_nothing_else(at, what):
    data = bytearray(example().data())
    data[at : at + len(what)] = what
    try:
        btf = Btf(bytes(data))
        for path in ("outer.in.second", "outer.right", "outer.comm"):
            btf.size(path)
            btf.element(path)
    except (LookupError, ValueError):
        pass
