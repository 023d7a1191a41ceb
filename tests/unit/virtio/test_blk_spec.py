"""The block device's facts against the kernel's header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.virtio import blk_spec as spec

HEADER = Path("/usr/include/linux/virtio_blk.h")


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is not installed")
    return HEADER.read_text()


def defined(header: str, name: str) -> int:
    found = re.search(rf"#define\s+VIRTIO_BLK_{name}\s+(\w+)", header)
    assert found, name
    return int(found[1], 0)


def test_feature_bits(header: str) -> None:
    for name, value in vars(spec).items():
        if name.startswith("F_"):
            assert value == 1 << defined(header, name), name


def test_request_types_and_status(header: str) -> None:
    for name, value in vars(spec).items():
        if name.startswith(("T_", "S_")):
            assert value == defined(header, name), name
    assert defined(header, "ID_BYTES") == spec.ID_SIZE
    assert defined(header, "WRITE_ZEROES_FLAG_UNMAP") == spec.SEGMENT_UNMAP


SIZES = {"__u8": 1, "__virtio16": 2, "__le16": 2, "__virtio32": 4, "__le32": 4, "__virtio64": 8}
SIZES["__le64"] = 8


def fields(header: str, name: str) -> dict[str, int]:
    """Offset of each field of a packed structure, and its end as ``""."""
    body = header.split(f"struct {name} {{")[1].split("\n}")[0]
    offsets, at = {}, 0
    for kind, field, count in re.findall(r"^\s+(__\w+) (\w+)(?:\[(\d)\])?;", body, re.MULTILINE):
        offsets[field] = at
        at += SIZES[kind] * int(count or 1)
    return offsets | {"": at}


def test_structures(header: str) -> None:
    config = fields(header, "virtio_blk_config")
    assert config["wce"] == spec.CONFIG_WRITEBACK
    assert config["max_secure_erase_sectors"] == spec.CONFIG.size
    assert fields(header, "virtio_blk_outhdr")[""] == spec.HEADER.size
    assert fields(header, "virtio_blk_discard_write_zeroes")[""] == spec.SEGMENT.size


def test_every_field_of_the_configuration_is_where_the_header_has_it(header: str) -> None:
    packed = spec.CONFIG.pack(*range(1, 17))
    names = [
        *("capacity", "size_max", "seg_max", "blk_size", "physical_block_exp", "alignment_offset"),
        *("min_io_size", "opt_io_size", "wce", "num_queues", "max_discard_sectors"),
        *("max_discard_seg", "discard_sector_alignment", "max_write_zeroes_sectors"),
        *("max_write_zeroes_seg", "write_zeroes_may_unmap"),
    ]
    offsets = fields(header, "virtio_blk_config")
    assert [packed[offsets[name]] for name in names] == list(range(1, 17))
