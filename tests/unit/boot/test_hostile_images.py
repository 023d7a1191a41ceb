"""Whatever an image says, loading and inspecting it ends, in bounds, with a clear error or none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.boot import image as boot
from pyvmm.boot import unpack
from pyvmm.boot.report import inspect
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory import GuestMemory
from tests.fakes import images
from tests.fakes.images import Load, multiboot_header

MIB = 1 << 20
HEADER_ENDS = (0x40, 0x100, 0x290, 0x1400)  # bytes: of ELF, Multiboot and bzImage, and beyond
IMAGES = {
    **{f"bzImage {kind}": images.bzimage(kind=kind) for kind in images.ALL_COMPRESSIONS},
    "vmlinux": images.vmlinux(),
    "PVH 32": images.elf([Load(b"x" * 99, MIB)], 0, bits=32, notes=images.pvh_note(MIB)),
    "Multiboot ELF": images.elf([Load(multiboot_header(3) + b"x", MIB)], MIB + 12, bits=32),
    "Multiboot flat": multiboot_header(1 << 16, MIB, MIB, 0, 2 * MIB, MIB + 32) + b"x" * 99,
    **{
        f"whole {kind}": images.compress(kind, images.vmlinux()) for kind in images.ALL_COMPRESSIONS
    },
}
VALUES = st.sampled_from(
    [0, 1, 2, 3, 0x7F, 0xFF, 0x200, 0x1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63]
) | st.integers(0, (1 << 64) - 1)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@st.composite
def mutated(draw: st.DrawFn, image: bytes) -> bytes:
    """`image` with some of its header's fields overwritten, and perhaps cut off."""
    data = bytearray(image)
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.sampled_from([1, 2, 4, 8]))
        end = min(len(data), draw(st.sampled_from(HEADER_ENDS)))
        at = draw(st.integers(0, end - size))
        data[at : at + size] = (draw(VALUES) & (1 << 8 * size) - 1).to_bytes(size, "little")
    if draw(st.booleans()):
        del data[draw(st.integers(1, len(data))) :]
    return bytes(data)


@pytest.fixture(scope="module")
def shared_memory() -> Iterator[GuestMemory]:
    ram = GuestMemory(40 * MIB)
    yield ram
    ram.close()


@pytest.mark.parametrize("name", IMAGES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_mutated_image_gives_an_image_error_or_boots(
    name: str,
    data: st.DataObject,
    shared_memory: GuestMemory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpack, "LIMIT", 16 * MIB)
    path = tmp_path / "image"
    path.write_bytes(data.draw(mutated(IMAGES[name])))
    before = open_descriptors()
    texts = []
    for options in ({}, {"kaslr": True}, {"protocol": "pvh"}, {"protocol": "linux"}):
        shared_memory.discard()
        try:
            entry = boot.load(path, shared_memory, cmdline="x", initrds=[path], **options)
            assert 0 <= entry.rip < 1 << 32
        except ImageError as error:
            texts.append(str(error))
        except UsageError:
            pass  # these options, or this command line, and not the file, are wrong
    try:
        assert inspect(path).lines()
    except ImageError as error:
        texts.append(str(error))
    assert all(str(path) in text and "\n" not in text for text in texts)
    assert open_descriptors() == before


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_cut_off_anywhere_never_fails_otherwise(
    name: str, shared_memory: GuestMemory, tmp_path: Path
) -> None:
    image, path = IMAGES[name], tmp_path / "image"
    for length in random.Random(name).sample(range(1, len(image)), 20):
        path.write_bytes(image[:length])
        shared_memory.discard()
        with suppress(ImageError):
            boot.load(path, shared_memory)
