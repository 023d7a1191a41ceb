"""`pyvmm run --vsock` as a user meets it, with a guest that has no driver."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from command import PROMPT, Running, complaint, pyvmm

from pyvmm import Machine, Vsock

EXIT = b"exit 4\r"  # a command of the built-in guest, for status 9


def test_the_path_is_there_while_the_machine_is(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with Running("--memory", "16M", "--vsock", f"3,uds={path}") as running:
        running.expect(PROMPT)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
        running.write(EXIT)
        assert running.wait() == 9
    assert not path.exists()


def test_a_path_in_use_is_named_with_the_reason(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "v"))
        other.listen()
        done = pyvmm("run", "--memory", "16M", "--vsock", f"3,uds={tmp_path / 'v'}", stdin=EXIT)
    assert done.returncode == 1
    assert "must not be in use by another program" in complaint(done)


@pytest.mark.parametrize(
    ("vsock", "status", "wrong"),
    [
        ("2", 2, "The CID of a guest must be a number from 3 to 4294967294, not 2"),
        ("guest", 2, "A vsock must be CID[,uds=PATH][,vhost=auto|on|off], not 'guest'"),
        ("3,uds=none/v", 1, "none/v cannot be listened on: No such file or directory"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(vsock: str, status: int, wrong: str) -> None:
    done = pyvmm("run", "--memory", "16M", "--vsock", vsock, stdin=EXIT)
    assert done.returncode == status
    assert wrong in complaint(done)


@pytest.mark.skipif(os.path.exists("/dev/vhost-vsock"), reason="there is /dev/vhost-vsock")
def test_a_kernel_that_cannot_is_named_with_the_cure() -> None:
    done = pyvmm("run", "--memory", "16M", "--vsock", "3,vhost=on", stdin=EXIT)
    assert done.returncode == 1
    assert "load the kernel's module vhost_vsock" in complaint(done)


def test_a_machine_that_cannot_be_opened_leaves_no_path(tmp_path: Path) -> None:
    path = tmp_path / "v"
    taken = Vsock("second", 4, path)
    machine = Machine(memory="16M", devices=(Vsock("first", 3, path), taken))
    with pytest.raises(Exception, match="must not be in use"):
        machine.open()
    assert not path.exists()
