"""Disks: what they are and do, their sizes and snapshots."""

from __future__ import annotations

import os

from pyvmm.disk_config import Disk
from pyvmm.monitor.command import command
from pyvmm.monitor.device_kinds import ByteCount, Bytes, DiskDevice
from pyvmm.monitor.result import Cell, Result, Sections, Table
from pyvmm.monitor.session import Session
from pyvmm.virtio import blk_spec, virtio_spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.statistics import BlockStatistics, Operations


@command("info block")
def info_block(session: Session) -> Result:
    """Show the disks, and what was read, written, flushed and discarded.

    `ns` is how long the operations took in all. Of a disk that another process serves nobody
    counts them.
    """
    machine = session.machine
    configs = {one.name: one for one in machine.config.devices if isinstance(one, Disk)}
    disks = [one for one in machine.board.virtio.values() if one.ID == virtio_spec.ID_BLOCK]
    columns = ("disk", "image", "format", "size", "mode", "cache", "served by", "in flight")
    rows = [_row(disk, configs.get(disk.name)) for disk in disks]
    counted = ("disk", "kind", *Operations.fields[:2], "ns", *Operations.fields[3:])
    counts = [row for disk in disks for row in _counts(disk)]
    return Sections({"Disks": Table(columns, rows), "Operations": Table(counted, counts)})


def _row(disk: VirtioDevice, config: Disk | None) -> list[Cell]:
    sectors = int.from_bytes(disk.read_config()[:8], "little")
    done = disk.statistics()
    return [
        disk.name,
        os.fspath(config.path) if config else None,
        config.kind if config else None,
        Bytes(sectors * blk_spec.SECTOR),
        _mode(disk, config),
        "writeback" if disk.read_config()[blk_spec.CONFIG_WRITEBACK] else "writethrough",
        disk.data_path,
        done.in_flight if isinstance(done, BlockStatistics) else None,
    ]


def _mode(disk: VirtioDevice, config: Disk | None) -> str:
    if config is not None and config.snapshot:
        return "snapshot"
    return "ro" if disk.features & blk_spec.F_RO else "rw"


def _counts(disk: VirtioDevice) -> list[list[Cell]]:
    done = disk.statistics()
    if not isinstance(done, BlockStatistics):
        return []
    kinds = {kind: getattr(done, kind) for kind in BlockStatistics.fields}
    return [
        [disk.name, kind, *counts.asdict().values()]
        for kind, counts in kinds.items()
        if isinstance(counts, Operations)
    ]


@command("block resize", examples=["block resize vda 20G"])
def block_resize(session: Session, disk: DiskDevice, size: ByteCount) -> None:
    """Make a disk larger or smaller, and tell its driver.

    A file is made so long; what was beyond a smaller size is lost. A block device must have been
    resized on the host. A snapshot keeps the size of its image.
    """
    disk.resize(size)


@command("block commit", examples=["block commit vda"])
def block_commit(session: Session, disk: DiskDevice) -> None:
    """Write what a snapshot keeps into its image.

    The disk's requests wait meanwhile. What the guest has not written yet is not in it: `sync`
    there first.
    """
    disk.commit()
