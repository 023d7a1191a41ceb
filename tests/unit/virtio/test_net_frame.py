"""The headers of the frames that a driver sends: what is let through, and what it then may mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.net_frame import WHOLE, BadFrame, check, consistent, flow

ALL = spec.HOST_OFFLOADS
MTU = 1500
CHECKSUM = spec.HDR_F_NEEDS_CSUM
TSO4, TSO6, UFO, USO = spec.GSO_TCPV4, spec.GSO_TCPV6, spec.GSO_UDP, spec.GSO_UDP_L4
ECN = spec.GSO_ECN


def header(
    flags: int = 0, gso: int = 0, length: int = 0, size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return spec.HEADER.pack(flags, gso, length, size, start, offset, 0)


GSO_4 = header(CHECKSUM, TSO4, 54, 1448, 34, 16)


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (WHOLE, 14),
        (WHOLE, MTU + 22),
        (header(CHECKSUM, start=34, offset=6), 42),  # its last two bytes
        (header(CHECKSUM, start=14, offset=0), 16),
        (GSO_4, 14 + 8 + 40 + 65535),
        (header(CHECKSUM, TSO4 | ECN, 54, 1448, 34, 16), 3000),
        (header(CHECKSUM, TSO6, 74, 1428, 54, 16), 3000),
        (header(CHECKSUM, TSO6 | ECN, 74, 1428, 54, 16), 3000),
        (header(CHECKSUM, UFO, 42, 1472, 34, 6), 3000),
        (header(CHECKSUM, USO, 42, 1472, 34, 6), 3000),
        (header(CHECKSUM, TSO4, 100, 1, 34, 16), 100),
    ],
)
def test_what_is_right_passes_as_it_is(head: bytes, length: int) -> None:
    assert check(head, length, ALL, MTU) == head


@pytest.mark.parametrize(
    ("head", "length", "features", "wrong"),
    [
        (b"", 0, ALL, "too short"),
        (WHOLE[:11], 100, ALL, "too short"),
        (WHOLE, 13, ALL, "too short"),
        (WHOLE, MTU + 23, ALL, "has 1523 bytes, more than 1522"),
        (header(CHECKSUM, start=34, offset=6), MTU + 23, ALL, "more than 1522"),
        (GSO_4, 14 + 8 + 40 + 65536, ALL, "more than 65597"),
        (header(CHECKSUM, start=34, offset=6), 60, 0, "as negotiated"),
        (header(CHECKSUM, start=34, offset=7), 42, ALL, "its checksum at 34 \\+ 7 of 42"),
        (header(CHECKSUM, start=13, offset=0), 60, ALL, "its checksum at 13"),
        (header(CHECKSUM, start=65535, offset=65535), 60, ALL, "its checksum at 65535"),
        (header(CHECKSUM, TSO4, 54, 1448, 34, 16), 51, ALL, "its checksum at"),
        (header(0, TSO4, 54, 1448, 34, 16), 3000, ALL, "must have its checksum"),
        (GSO_4, 3000, spec.F_CSUM, "not negotiated, 0x1"),
        (header(CHECKSUM, TSO4 | ECN, 54, 1448, 34, 16), 99, spec.F_CSUM | spec.F_HOST_TSO4, "0x8"),
        (header(CHECKSUM, ECN, 54, 1448, 34, 16), 3000, ALL, "not negotiated, 0x80"),
        (header(CHECKSUM, 2, 54, 1448, 34, 16), 3000, ALL, "not negotiated, 0x2"),
        (header(CHECKSUM, 6, 54, 1448, 34, 16), 3000, ALL, "not negotiated, 0x6"),
        (header(CHECKSUM, TSO4, 54, 0, 34, 16), 3000, ALL, "segments of 0"),
        (header(CHECKSUM, TSO4, 101, 1448, 34, 16), 100, ALL, "has 101 bytes of headers"),
    ],
)
def test_what_claims_more_than_there_is_does_not_pass(
    head: bytes, length: int, features: int, wrong: str
) -> None:
    with pytest.raises(BadFrame, match=wrong):
        check(head, length, features, MTU)


def test_what_means_nothing_is_left_out() -> None:
    unknown_flags = header(0xFE, length=9, size=9, start=9, offset=9)
    assert check(unknown_flags, 60, ALL, MTU) == WHOLE
    assert check(header(0xFF, 0, 9, 9, 34, 6), 60, ALL, MTU) == header(CHECKSUM, 0, 0, 0, 34, 6)
    assert check(GSO_4[:10] + b"\7\7", 3000, ALL, MTU) == GSO_4  # num_buffers


@given(st.binary(max_size=12), st.integers(0, 70000), st.integers(0, (1 << 64) - 1))
def test_no_header_points_past_its_frame(head: bytes, length: int, features: int) -> None:
    try:
        result = check(head, length, features, MTU)
    except BadFrame:
        return
    flags, gso, header_length, size, start, offset, buffers = spec.HEADER.unpack(result)
    assert 14 <= length <= 65597
    assert flags in (0, CHECKSUM)
    assert not buffers
    if flags:
        assert features & spec.F_CSUM
        assert start >= 14
        assert start + offset + 2 <= length
    if gso:
        assert flags
        assert size
        assert header_length <= length


def test_features_need_those_that_they_build_on() -> None:
    assert consistent(spec.HOST_OFFLOADS | spec.GUEST_OFFLOADS) == (
        spec.HOST_OFFLOADS | spec.GUEST_OFFLOADS
    )
    assert consistent(spec.HOST_OFFLOADS & ~spec.F_CSUM) == 0
    assert consistent(spec.GUEST_OFFLOADS & ~spec.F_GUEST_CSUM) == 0
    assert consistent(spec.F_GUEST_CSUM | spec.F_GUEST_ECN) == spec.F_GUEST_CSUM
    assert consistent(spec.F_MQ | spec.F_CTRL_RX | spec.F_MAC) == spec.F_MAC


@given(st.binary(min_size=36, max_size=36))
def test_both_directions_of_an_ipv6_flow_are_one(ends: bytes) -> None:
    start = bytes(12) + b"\x86\xdd" + bytes(8)
    one, other = ends[:16], ends[16:32]
    there, back = one + other + ends[32:], other + one + ends[34:36] + ends[32:34]
    assert flow(start + there) == flow(start + back)
    assert 0 <= flow(start + there) < 256


def test_a_frame_that_ends_early_has_a_flow_too() -> None:
    assert flow(bytes(14)) == 0
