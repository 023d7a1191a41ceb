"""Packets of gdb's remote serial protocol (gdb manual, appendix E.1): `$data#checksum`."""

from __future__ import annotations

import re
from collections.abc import Iterator

PACKET_SIZE = 0x4000  # bytes of data in a packet that a client may send
ACK, NAK = b"+", b"-"
ESCAPE, ESCAPE_XOR = ord("}"), 0x20
RUN_BIAS = 29  # of a repeat count as a character
RUN_MIN, RUN_MAX = 3, 97  # repetitions after the first character
RUN_UNUSABLE, RUN_INSTEAD = (6, 7), 5  # they would look like # and $

_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[#$}*]")
_RUN = re.compile(rb"(.)\1{%d,%d}" % (RUN_MIN, RUN_MAX), re.DOTALL)
_CHECKSUM = re.compile(rb"[0-9a-fA-F]{2}")
_BESIDES = re.compile(rb"[^$]+")


class Interrupt:
    """The client wants the target to stop: a byte 3 between packets."""


class Acknowledged:
    """The client has the last packet."""


class Refused:
    """The client wants the last packet again."""


class Broken:
    """A packet that was damaged or too long."""


Item = bytes | Interrupt | Acknowledged | Refused | Broken
_MARKS: dict[int, Item] = {3: Interrupt(), ord(ACK): Acknowledged(), ord(NAK): Refused()}


class Packets:
    """Takes a client's bytes apart, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[Item]:
        """What is complete: the data of packets, and what stands between them."""
        self._buffer += data
        while self._buffer:
            if found := _BESIDES.match(self._buffer):
                between = found[0]
                del self._buffer[: len(between)]
                yield from (_MARKS[byte] for byte in between if byte in _MARKS)
                continue
            end = self._buffer.find(b"#")
            if end < 0 and len(self._buffer) > 2 * PACKET_SIZE:  # each byte may be escaped
                del self._buffer[1:]
                self._too_long = True
            if end < 0 or len(self._buffer) < end + 3:
                return
            packet, checksum = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
            del self._buffer[: end + 3]
            # A $ within is the beginning of a packet whose predecessor was cut off.
            packet = packet[packet.rfind(b"$") + 1 :]
            too_long, self._too_long = self._too_long, False
            if too_long or not _CHECKSUM.fullmatch(checksum) or int(checksum, 16) != _sum(packet):
                yield Broken()
            else:
                yield _ESCAPED.sub(lambda found: bytes([found[1][0] ^ ESCAPE_XOR]), packet)


def encode(data: bytes) -> bytes:
    """A packet of ours, with its runs of equal characters shortened."""
    escaped = _TO_ESCAPE.sub(lambda found: bytes([ESCAPE, found[0][0] ^ ESCAPE_XOR]), data)
    body = _RUN.sub(_shortened, escaped)
    return b"$%b#%02x" % (body, _sum(body))


def _shortened(run: re.Match[bytes]) -> bytes:
    repeats = len(run[0]) - 1
    told = RUN_INSTEAD if repeats in RUN_UNUSABLE else repeats
    return run[1] + b"*" + bytes([told + RUN_BIAS]) + run[1] * (repeats - told)


def _sum(body: bytes) -> int:
    return sum(body) & 0xFF
