"""Frames as a network device's driver sends them: their headers checked, their flows told apart."""

from __future__ import annotations

from pyvmm.typed import TypeAlias
from pyvmm.virtio import net_spec as spec

Buffer: TypeAlias = bytes | bytearray | memoryview
WHOLE = bytes(spec.HEADER.size)  # the header of a frame that is whole and has its checksums
OVERHEAD = spec.ETHERNET_SIZE + spec.TAGS_MAX * spec.TAG_SIZE  # bytes beside a frame's payload


class BadFrame(Exception):
    """A frame that cannot be sent; the text is what is wrong with it, after `a frame that`."""


def check(header: bytes, length: int, features: int, mtu: int) -> bytes:
    """The header of a frame that the driver sends, reduced to what it may mean: §5.1.6.2.

    `length` is the frame's without it, `features` are those that the driver has accepted, `mtu` is
    the most that a frame carries (bytes). Raises BadFrame.
    """
    if len(header) < spec.HEADER.size or length < spec.ETHERNET_SIZE:
        raise BadFrame("is too short")
    flags, gso, header_length, segment, start, offset, _ = spec.HEADER.unpack(header)
    longest = (mtu if gso == spec.GSO_NONE else spec.GSO_MAX) + OVERHEAD
    if length > longest:
        raise BadFrame(f"has {length} bytes, more than {longest}")
    needs_checksum = flags & spec.HDR_F_NEEDS_CSUM
    if not needs_checksum and gso == spec.GSO_NONE:
        return WHOLE
    if not needs_checksum or not features & spec.F_CSUM:
        raise BadFrame("must have its checksum, or ask for it as negotiated")
    if start < spec.ETHERNET_SIZE or start + offset + spec.CHECKSUM_SIZE > length:
        raise BadFrame(f"has its checksum at {start} + {offset} of {length} bytes")
    if gso == spec.GSO_NONE:
        header_length = segment = 0
    else:
        needed = spec.GSO_FEATURES.get(gso)
        if needed is None or needed & ~features:
            raise BadFrame(f"is to be segmented in a way that was not negotiated, {gso:#x}")
        if not segment or header_length > length:
            raise BadFrame(f"has {header_length} bytes of headers, and segments of {segment}")
    return spec.HEADER.pack(needs_checksum, gso, header_length, segment, start, offset, 0)


def consistent(features: int) -> int:
    """`features` without those that lack another which they need (§5.1.3.1)."""
    for feature, others in spec.NEEDS_ONE_OF:
        if not features & others:
            features &= ~feature
    return features


def flow(frame: Buffer) -> int:
    """A number, 0 to 255, that the frames of both directions of one flow have in common."""
    kind = int.from_bytes(frame[spec.TYPE_OFFSET : spec.ETHERNET_SIZE], "big")
    return sum(frame[spec.IPV4_FLOW if kind == spec.TYPE_IPV4 else spec.IPV6_FLOW]) & 0xFF
