"""What a disk promises: after a FLUSH has completed, killing the VMM loses nothing before it."""

from __future__ import annotations

import multiprocessing
import os
import random
import struct
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

from conftest import EMULATED_CPU, TIMEOUT, program

from pyvmm import Disk, Linux, Machine

CYCLES = 20 if EMULATED_CPU else 200
SECTOR, SECTORS = 512, 64  # as guests/disk_io.c uses them


def run_writer(image: str, first: int, numbers: Connection) -> None:
    """Run the guest that writes numbers from `first` on; send those that it says are safe."""
    boot = Linux(program("disk_io"), cmdline=f"writer {first}")
    with Machine(boot=boot, memory="64M", devices=(Disk("vda", image),)) as machine:
        machine.start()
        while True:
            numbers.send(int(machine.serial.expect(b"\n", timeout=TIMEOUT)))


def stored(image: Path, number: int) -> int:
    """The number in the sector that `number` was written to: all of it holds one."""
    data = image.read_bytes()[number % SECTORS * SECTOR :][:SECTOR]
    (first, *others) = struct.unpack(f"<{SECTOR // 8}Q", data)
    assert set(others) == {first}
    return int(first)


def test_killing_the_vmm_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SECTORS * SECTOR))
    # A server that has imported everything, and forks: a start takes milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pyvmm.board", "pyvmm.virtio.native_blk", "pyvmm.backends.disk"]
    )
    chance = random.Random(1)
    last = 0
    for _ in range(CYCLES):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_writer, args=(os.fspath(image), last + 1, theirs))
        process.start()
        theirs.close()
        with closing(mine):
            for _ in range(chance.randint(1, 6)):
                assert mine.poll(TIMEOUT)
                last = mine.recv()
            process.kill()
            process.join()
            while True:  # what was on its way had completed, too
                try:
                    last = mine.recv()
                except EOFError:
                    break
        process.close()
        for number in range(max(1, last - SECTORS + 1), last + 1):
            found = stored(image, number)  # or a later one: the guest went on until it was killed
            assert found >= number
            assert found % SECTORS == number % SECTORS
