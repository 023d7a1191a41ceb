"""Frames as the driver of a network device sends them."""

from __future__ import annotations

import random

from pyvmm.virtio import net_spec as spec
from tests.fakes.driver import Driver

MAC = bytes.fromhex("525400000001")
HEADER = bytes(spec.HEADER.size)


def frame(length: int, seed: int = 0) -> bytes:
    """An Ethernet frame of `length` bytes for MAC, of a kind that nobody knows."""
    payload = random.Random(seed).randbytes(length - spec.ETHERNET_SIZE)
    return MAC + MAC[::-1] + b"\x88\xb5" + payload


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """`data` cut anyhow."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(5)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def send(queue: Driver, *readable: bytes, indirect: bool = False) -> None:
    """Send one frame; it comes back with nothing written."""
    token = queue.add(readable, indirect=indirect)
    queue.kick()
    (used,) = queue.wait()
    assert (used.token, used.length) == (token, 0)
