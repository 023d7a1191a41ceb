"""passt(1) at the other end of a stream."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.stream import Stream
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import Guest
from tests.fakes.ethernet import MAC, arp, ip4

RX, TX = 0, 1


@pytest.fixture
def passt() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which is about to listen, and its socket."""
    program = shutil.which("passt")
    if program is None:
        pytest.skip("no passt")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)  # passt gives up root's rights
        path = str(Path(directory) / "socket")
        process = subprocess.Popen(
            [program, "--foreground", "--socket", path],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if path in line:  # "UNIX domain socket bound at ..."
                break
        else:
            pytest.skip(f"passt does not run here: {said}")
        yield process, path
        process.kill()
        process.communicate()


def test_passt_answers_and_its_end_is_noticed(passt: tuple[subprocess.Popen[str], str]) -> None:
    process, path = passt
    guest = Guest(Net("eth0", Stream(path, reconnect=0.05), MAC))
    guest.start()
    while not guest.device.read_config()[6]:
        guest.wait_config_changed()
    guest.queues[RX].add(writable=[2000])
    guest.queues[RX].kick()
    guest.queues[TX].request([WHOLE, arp(1, ip4("0.0.0.0"), ip4("192.0.2.77"))])
    data = guest.queues[RX].wait()[0].data[12:]
    process.kill()
    while guest.device.read_config()[6]:
        guest.wait_config_changed()
    guest.close()
    assert data[12:14] == b"\x08\x06"
    assert data[28:32] == ip4("192.0.2.77")
