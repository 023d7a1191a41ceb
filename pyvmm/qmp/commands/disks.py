"""Disks. Source: QEMU, qapi/block-core.json."""

from __future__ import annotations

import os
from typing import Literal, TypedDict

from pyvmm.disk_config import Disk
from pyvmm.machine import Machine
from pyvmm.memory import parse_size
from pyvmm.qmp.client import Client
from pyvmm.qmp.command import command
from pyvmm.qmp.errors import DEVICE_NOT_FOUND, QmpError
from pyvmm.virtio import blk_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.statistics import BlockStatistics
from pyvmm.virtio.vhost_user_blk import VhostUserBlk

ImageInfo = TypedDict("ImageInfo", {"filename": str, "format": str, "virtual-size": int})
BlockdevCacheInfo = TypedDict(
    "BlockdevCacheInfo", {"writeback": bool, "direct": bool, "no-flush": bool}
)
BlockDeviceInfo = TypedDict(
    "BlockDeviceInfo",
    {
        "file": str,
        "node-name": str,
        "ro": bool,
        "drv": str,
        "backing_file_depth": int,
        "encrypted": bool,
        "detect_zeroes": Literal["off"],
        "bps": int,
        "bps_rd": int,
        "bps_wr": int,
        "iops": int,
        "iops_rd": int,
        "iops_wr": int,
        "image": ImageInfo,
        "cache": BlockdevCacheInfo,
        "write_threshold": int,
    },
)


class BlockInfo(TypedDict):
    """A disk; all its names are the device's."""

    device: str
    qdev: str
    type: Literal["unknown"]
    removable: bool
    locked: bool
    inserted: BlockDeviceInfo


class BlockDeviceStats(TypedDict):
    """What a disk has done: bytes, requests, nanoseconds, and requests that failed."""

    rd_bytes: int
    wr_bytes: int
    unmap_bytes: int
    rd_operations: int
    wr_operations: int
    flush_operations: int
    unmap_operations: int
    rd_total_time_ns: int
    wr_total_time_ns: int
    flush_total_time_ns: int
    unmap_total_time_ns: int
    failed_rd_operations: int
    failed_wr_operations: int
    failed_flush_operations: int
    failed_unmap_operations: int
    rd_merged: int
    wr_merged: int
    unmap_merged: int


BlockStats = TypedDict(
    "BlockStats", {"device": str, "qdev": str, "node-name": str, "stats": BlockDeviceStats}
)


@command("query-block")
def query_block(client: Client) -> list[BlockInfo]:
    """List the disks."""
    return [_describe(client.machine, disk) for disk in _disks(client.machine).values()]


@command("query-blockstats")
def query_blockstats(client: Client) -> list[BlockStats]:
    """List what the disks have done; those that another process serves are left out."""
    return [
        {"device": name, "qdev": name, "node-name": name, "stats": _stats(statistics)}
        for name, disk in _disks(client.machine).items()
        if isinstance(statistics := disk.statistics(), BlockStatistics)
    ]


@command("block_resize")
def block_resize(client: Client, size: int, device: str = "", node_name: str = "") -> None:
    """Make a disk `size` bytes; either name is its own."""
    disk = _disks(client.machine).get(device or node_name)
    if disk is None:
        raise QmpError(f"Device '{device or node_name}' not found", DEVICE_NOT_FOUND)
    disk.resize(size)


def _disks(machine: Machine) -> dict[str, Blk | VhostUserBlk]:
    return {
        name: device
        for name, device in machine.board.virtio.items()
        if isinstance(device, Blk | VhostUserBlk)
    }


def _describe(machine: Machine, disk: Blk | VhostUserBlk) -> BlockInfo:
    own = [one for one in machine.config.devices if one.name == disk.name]
    value = own[0] if isinstance(own[0], Disk) else Disk(disk.name)  # or it is a device as it is
    file = os.fspath(value.path)
    capacity = blk_spec.CAPACITY.unpack_from(disk.read_config())[0]
    return {
        "device": disk.name,
        "qdev": disk.name,
        "type": "unknown",
        "removable": False,
        "locked": False,
        "inserted": {
            "file": file,
            "node-name": disk.name,
            "ro": bool(disk.features & blk_spec.F_RO),
            "drv": value.kind,
            "backing_file_depth": int(value.snapshot),
            "encrypted": False,
            "detect_zeroes": "off",
            "bps": parse_size(value.bps),
            "bps_rd": 0,
            "bps_wr": 0,
            "iops": value.iops,
            "iops_rd": 0,
            "iops_wr": 0,
            "image": {
                "filename": file,
                "format": value.kind,
                "virtual-size": capacity * blk_spec.SECTOR,
            },
            "cache": {
                "writeback": disk.writeback,
                "direct": value.cache == "none",
                "no-flush": False,
            },
            "write_threshold": 0,
        },
    }


def _stats(done: BlockStatistics) -> BlockDeviceStats:
    return {
        "rd_bytes": done.read.bytes,
        "wr_bytes": done.write.bytes,
        "unmap_bytes": done.discard.bytes,
        "rd_operations": done.read.operations,
        "wr_operations": done.write.operations,
        "flush_operations": done.flush.operations,
        "unmap_operations": done.discard.operations,
        "rd_total_time_ns": done.read.nanoseconds,
        "wr_total_time_ns": done.write.nanoseconds,
        "flush_total_time_ns": done.flush.nanoseconds,
        "unmap_total_time_ns": done.discard.nanoseconds,
        "failed_rd_operations": done.read.errors,
        "failed_wr_operations": done.write.errors,
        "failed_flush_operations": done.flush.errors,
        "failed_unmap_operations": done.discard.errors,
        "rd_merged": 0,
        "wr_merged": 0,
        "unmap_merged": 0,
    }
