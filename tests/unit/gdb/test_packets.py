"""Framing of gdb's packets, for a client that may send anything."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.gdb.packets import (
    PACKET_SIZE,
    Acknowledged,
    Broken,
    Interrupt,
    Item,
    Packets,
    Refused,
    encode,
)


def frame(body: bytes) -> bytes:
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def items(data: bytes) -> list[Item]:
    return list(Packets().feed(data))


def expand(reply: bytes) -> bytes:
    """What gdb makes of a reply: its runs at full length, then without escapes."""
    match = re.fullmatch(rb"\$(.*)#([0-9a-f]{2})", reply, re.DOTALL)
    assert match
    assert sum(match[1]) & 0xFF == int(match[2], 16)
    body = re.sub(
        rb"(.)\*(.)", lambda run: run[1] * (1 + run[2][0] - 29), match[1], flags=re.DOTALL
    )
    return re.sub(rb"\}(.)", lambda found: bytes([found[1][0] ^ 0x20]), body, flags=re.DOTALL)


@given(st.binary())
def test_what_is_sent_arrives(data: bytes) -> None:
    assert expand(encode(data)) == data


@given(st.binary(max_size=3), st.integers(1, 300))
def test_runs_arrive(data: bytes, count: int) -> None:
    reply = encode(data * count)
    assert expand(reply) == data * count
    assert all(byte not in b"#$" for byte in reply[1:-3])


def test_a_run_is_short() -> None:
    assert encode(b"0" * 98) == frame(b"0*~")


@given(st.lists(st.binary(max_size=40), min_size=1), st.data())
def test_packets_come_whole_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(
        frame(re.sub(rb"[#$}]", lambda m: b"}" + bytes([m[0][0] ^ 0x20]), body)) for body in bodies
    )
    packets = Packets()
    found: list[Item] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += packets.feed(stream[:size])
        stream = stream[size:]
    assert found == bodies


@given(st.binary(max_size=2000))
def test_rubbish_is_taken_apart_without_an_error(data: bytes) -> None:
    assert all(isinstance(item, Item) for item in items(data))
    packets = Packets()
    list(packets.feed(data + b"$#"))  # whatever was open is closed by this
    assert list(packets.feed(b"00" + frame(b"m0,1")))[-1] == b"m0,1"


@pytest.mark.parametrize(
    ("byte", "kind"), [(b"\3", Interrupt), (b"+", Acknowledged), (b"-", Refused)]
)
def test_what_stands_between_packets_is_told(byte: bytes, kind: type) -> None:
    first, packet, last = items(byte + frame(b"?") + byte)
    assert isinstance(first, kind)
    assert packet == b"?"
    assert isinstance(last, kind)


def test_an_interrupt_byte_within_a_packet_is_data() -> None:
    assert items(frame(b"X0,1:\3")) == [b"X0,1:\3"]


@pytest.mark.parametrize("packet", [b"$g#00", b"$g#zz", b"$g#6 ", b"$g#+7"])
def test_a_wrong_checksum_is_noticed(packet: bytes) -> None:
    (item,) = items(packet)
    assert isinstance(item, Broken)


def test_a_packet_that_was_cut_off_is_left_out() -> None:
    assert items(b"$m0,4" + frame(b"g")) == [b"g"]


def test_a_packet_without_an_end_takes_no_memory() -> None:
    packets = Packets()
    packets_in_one = 0
    list(packets.feed(b"$"))
    for _ in range(100):
        packets_in_one += len(list(packets.feed(b"A" * PACKET_SIZE)))
        assert len(packets._buffer) <= 3 * PACKET_SIZE
    assert packets_in_one == 0
    (item, after) = packets.feed(b"#00" + frame(b"g"))
    assert isinstance(item, Broken)
    assert after == b"g"
