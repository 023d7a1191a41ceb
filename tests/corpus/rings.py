"""Rings as a driver must not make them, by hand: writes tests/corpus/rings/, one file each.

    python -m tests.corpus.rings

RINGS says what the device has to say of each; nothing for those that keep the rules, from which the
fuzzer (csrc/fuzz/ring_fuzz.c) starts as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from pyvmm.virtio import virtio_spec as spec
from tests.fakes.ringcase import ALLOW, HIGH, POP, PUMPED, PUSH, REGION, RingCase, poke, step

FILES = Path(__file__).parent / "rings"

SIZE = 4
RING, DRIVER, DEVICE, TABLE, BUFFER = 0, 0x40, 0x50, 0x80, 0x100
INDEX = DRIVER + 2
NEXT, WRITE, INDIRECT = spec.DESC_F_NEXT, spec.DESC_F_WRITE, spec.DESC_F_INDIRECT
ALL = spec.F_EVENT_IDX | spec.F_INDIRECT_DESC
SCRIPT = step(PUMPED, 3)
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1

Bad = tuple[str, str, RingCase]  # what is bad, what the device says of it, the ring
Descriptor = tuple[int, int, int, int]  # address, length, flags, next: for packed rings the id

ASK = (BUFFER, 16, NEXT, 1)
ANSWER = (BUFFER + 16, 16, WRITE, 0)


def entries(descriptors: list[Descriptor], packed: bool) -> bytes:
    return b"".join(
        struct.pack("<QIHH", address, length, *((last, flags) if packed else (flags, last)))
        for address, length, flags, last in descriptors
    )


def case(
    ring: list[Descriptor],
    driver: bytes,
    table: list[Descriptor],
    features: int,
    size: int,
    areas: tuple[int, int, int],
    script: bytes,
) -> RingCase:
    packed = bool(features & spec.F_RING_PACKED)
    image = bytearray(BUFFER)
    for at, content in (
        (RING, entries(ring, packed)),
        (DRIVER, driver),
        (TABLE, entries(table, packed)),
    ):
        image[at : at + len(content)] = content
    return RingCase(features, size, areas, script, bytes(image))


def split(
    *ring: Descriptor,
    index: int = 1,
    heads: tuple[int, ...] = (0,),
    table: list[Descriptor] | None = None,
    features: int = ALL,
    size: int = SIZE,
    areas: tuple[int, int, int] = (RING, DRIVER, DEVICE),
    script: bytes = SCRIPT,
) -> RingCase:
    driver = struct.pack(f"<HH{len(heads)}H", 0, index, *heads)
    return case(list(ring), driver, table or [], features, size, areas, script)


def packed(
    *ring: Descriptor,
    table: list[Descriptor] | None = None,
    features: int = ALL,
    size: int = SIZE,
    areas: tuple[int, int, int] = (RING, DRIVER, DEVICE),
    script: bytes = SCRIPT,
) -> RingCase:
    available = [(at, length, flags | spec.DESC_F_AVAIL, last) for at, length, flags, last in ring]
    features |= spec.F_RING_PACKED
    return case(available, b"", table or [], features, size, areas, script)


def common(ring: Callable[..., RingCase]) -> Iterator[Bad]:
    """What is bad in both formats; `ring` is split or packed."""
    yield "good", "", ring(ASK, ANSWER)
    yield "good-indirect", "", ring((TABLE, 32, INDIRECT, 0), table=[ASK, ANSWER])
    yield "good-empty-buffers", "", ring((BUFFER, 0, NEXT, 1), (U64_MAX, 0, 0, 0))
    yield "good-high-ram", "", ring((HIGH, REGION, NEXT, 1), ANSWER)

    yield "no-entries", "cannot have 0 entries", ring(ASK, size=0)
    yield "too-many-entries", "cannot have 2048 entries", ring(ASK, size=2048)
    yield "ring-misaligned", "no multiple of 16", ring(areas=(RING + 8, DRIVER, DEVICE))
    yield "ring-outside-ram", "not in RAM", ring(areas=(REGION, DRIVER, DEVICE))
    yield "ring-over-the-end-of-ram", "not in RAM", ring(areas=(REGION - 16, DRIVER, DEVICE))
    yield "driver-area-misaligned", "no multiple of", ring(areas=(RING, DRIVER + 1, DEVICE))
    yield "driver-area-outside-ram", "not in RAM", ring(areas=(RING, HIGH - 4, DEVICE))
    yield "device-area-misaligned", "no multiple of 4", ring(areas=(RING, DRIVER, DEVICE + 2))
    yield "device-area-at-the-last-address", "not in RAM", ring(areas=(RING, DRIVER, U64_MAX - 3))

    yield "buffer-outside-ram", "buffer is not in RAM", ring((REGION, 1, 0, 0))
    yield "buffer-over-the-end-of-ram", "buffer is not in RAM", ring((REGION - 1, 2, 0, 0))
    yield "buffer-below-high-ram", "buffer is not in RAM", ring((HIGH - 1, 2, WRITE, 0))
    yield "buffer-over-the-end-of-high-ram", "not in RAM", ring((HIGH + 1, REGION, 0, 0))
    yield "buffer-wraps-round", "buffer is not in RAM", ring((U64_MAX - 15, 32, WRITE, 0))
    yield "buffer-as-large-as-can-be", "buffer is not in RAM", ring((0, U32_MAX, WRITE, 0))
    yield "second-buffer-outside-ram", "not in RAM", ring(ASK, (HIGH + REGION, 1, WRITE, 0))
    yield (
        "readable-after-writable",
        "readable buffer after",
        ring((0, 1, WRITE | NEXT, 1), (BUFFER, 1, 0, 0)),
    )
    yield "longer-than-4-gib", "longer than 2^32 - 1", ring(ASK, (0, U32_MAX, WRITE, 0))

    table = (TABLE, 32, INDIRECT, 0)
    yield (
        "table-not-negotiated",
        "may not be here",
        ring(table, table=[ASK, ANSWER], features=spec.F_EVENT_IDX),
    )
    yield "table-and-more", "may not be here", ring((TABLE, 32, INDIRECT | NEXT, 1), ANSWER)
    yield "table-empty", "table has 0 bytes", ring((TABLE, 0, INDIRECT, 0))
    yield "table-of-odd-length", "table has 33 bytes", ring((TABLE, 33, INDIRECT, 0))
    yield "table-longer-than-the-queue", "has 80 bytes", ring((TABLE, 80, INDIRECT, 0))
    yield "table-outside-ram", "table is not in RAM", ring((REGION, 32, INDIRECT, 0))
    yield "table-over-the-end-of-ram", "not in RAM", ring((REGION - 16, 32, INDIRECT, 0))
    yield (
        "buffer-in-a-table-outside-ram",
        "not in RAM",
        ring(table, table=[ASK, (HIGH - 1, 1, 2, 0)]),
    )


def only_split() -> Iterator[Bad]:
    """What is bad in split rings, VIRTIO 1.2 §2.7."""
    table = (TABLE, 32, INDIRECT, 0)
    yield "no-power-of-two", "cannot have 3 entries", split(ASK, size=3)
    yield "index-too-far-ahead", "index 5 is too far ahead", split(ASK, ANSWER, index=5)
    yield "index-before-the-first", "is too far ahead", split(ASK, ANSWER, index=0xFFFF)
    back = SCRIPT + poke(INDEX, 0) + SCRIPT
    yield "index-goes-back", "index 0 is too far ahead", split(ASK, ANSWER, script=back)
    again = step(POP) + poke(INDEX, 5) + step(ALLOW)
    yield "more-than-fits-in-flight", "is too far ahead", split(ASK, ANSWER, script=again)
    yield "head-outside-the-table", "descriptor 4 is outside", split(ASK, ANSWER, heads=(4,))
    yield "head-far-outside-the-table", "is outside", split(ASK, heads=(0xFFFF,))
    yield "next-outside-the-table", "descriptor 4 is outside", split((0, 1, NEXT, 4))
    yield "loops-to-itself", "more than 4 descriptors", split((0, 1, NEXT, 0))
    yield "loops-through-two", "more than 4 descriptors", split(ASK, (0, 1, NEXT, 0))
    yield "loops-with-empty-buffers", "more than 4 descriptors", split((0, 0, NEXT, 0))
    nested = split(table, table=[(TABLE, 32, INDIRECT, 0)])
    yield "table-in-a-table", "may not be here", nested
    itself = split((RING, 64, INDIRECT, 0))
    yield "table-is-the-descriptor-table", "may not be here", itself
    yield "table-next-outside", "2 is outside", split(table, table=[(0, 1, NEXT, 2)])
    yield "table-loops", "more than 4 descriptors", split(table, table=[(0, 1, NEXT, 0)])
    after = split(ASK, (TABLE, 32, INDIRECT, 0), table=[ASK, ANSWER])
    yield "good-table-after-a-buffer", "", after


def only_packed() -> Iterator[Bad]:
    """What is bad in packed rings, VIRTIO 1.2 §2.8."""
    more = (BUFFER, 1, NEXT, 0)
    yield "chain-without-end", "not the driver's", packed(*[more] * 4)
    again = step(POP) + poke(RING + 14, NEXT | spec.DESC_F_USED) + step(POP)
    in_flight = packed(more, more, more, (BUFFER, 1, 0, 7), script=again)
    yield "chain-still-in-flight", "not the driver's", in_flight
    table = packed(more, (TABLE, 32, INDIRECT, 0), table=[ASK, ANSWER])
    yield "table-in-a-chain", "may not be here", table
    ignored = packed((TABLE, 32, INDIRECT, 9), table=[(BUFFER, 1, 0xFFF1, 99), ANSWER])
    yield "good-table-with-other-flags", "", ignored
    three = packed(*[(BUFFER, 1, 0, id) for id in range(3)], size=3, script=SCRIPT + step(PUSH))
    yield "good-three-entries", "", three


RINGS: dict[str, tuple[RingCase, str]] = {
    f"{name}-{what}": (made, reason)
    for name, rings in (
        ("split", (*common(split), *only_split())),
        ("packed", (*common(packed), *only_packed())),
    )
    for what, reason, made in rings
}

if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    for name, (made, _) in RINGS.items():
        (FILES / f"{name}.ring").write_bytes(made.pack())
