"""passt(1) at the other end of a stream."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.backends.stream import Stream
from pyvmm.backends.vhost_socket import VhostSocket
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from pyvmm.virtio.vhost_user_net import VhostUserNet
from tests.fakes.driver import Guest
from tests.fakes.ethernet import MAC, arp, ip4
from tests.unit.virtio.conftest import MakeGuest, make_guest

__all__ = ["make_guest"]

RX, TX = 0, 1


@contextmanager
def passt(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which listens, and its socket."""
    program = shutil.which("passt")
    if program is None:
        pytest.skip("no passt")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)  # passt gives up root's rights
        path = str(Path(directory) / "socket")
        command = [program, "--foreground", "--socket", path, *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("You can"):  # "... start qemu with:", as it listens now
                    break
            else:
                pytest.skip(f"passt {' '.join(options)} does not run here: {''.join(said[:1])}")
            yield process, path
        finally:
            process.kill()
            process.communicate()


def wait_link(guest: Guest, up: bool) -> None:
    while bool(guest.device.read_config()[6]) != up:
        guest.wait_config_changed()


def ask(guest: Guest) -> None:
    """Ask who has an address, and see that there is an answer."""
    guest.queues[RX].add(writable=[2000])
    guest.queues[RX].kick()
    guest.queues[TX].request([WHOLE, arp(1, ip4("0.0.0.0"), ip4("192.0.2.77"))])
    frame = guest.queues[RX].wait()[0].data[12:]
    assert frame[12:14] == b"\x08\x06"
    assert frame[28:32] == ip4("192.0.2.77")


def test_passt_answers_and_its_end_is_noticed(make_guest: MakeGuest) -> None:
    with passt() as (process, path):
        guest = make_guest(Net("eth0", Stream(path, reconnect=0.05), MAC))
        guest.start()
        wait_link(guest, True)
        ask(guest)
        process.kill()
        wait_link(guest, False)


def test_passt_moves_the_frames_itself(make_guest: MakeGuest) -> None:
    with passt("--vhost-user") as (_, path):
        guest = make_guest(VhostUserNet("eth0", VhostSocket(path), MAC))
        for _ in range(2):
            guest.start()
            ask(guest)
            guest.device.worker.call(guest.device.quiesce)
            guest.device.worker.call(guest.device.resume)
            ask(guest)
            guest.reset()
