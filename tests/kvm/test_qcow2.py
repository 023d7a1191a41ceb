"""`pyvmm run --disk image.qcow2`: qemu-storage-daemon comes and goes with the machine."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from command import PATIENCE, PROMPT, Running, complaint, pyvmm

PROGRAM = "qemu-storage-daemon"
EXIT = b"exit 4\r"  # a command of the built-in guest, for status 9

pytestmark = [
    pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed ({package})")
    for program, package in ((PROGRAM, "qemu-system-common"), ("qemu-img", "qemu-utils"))
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    return path


def run(disk: object, stdin: bytes = EXIT, **more: object) -> subprocess.CompletedProcess[bytes]:
    return pyvmm("run", "--memory", "16M", "--disk", str(disk), stdin=stdin, **more)


def daemon_of(process: int) -> int:
    """The process ID of its daemon."""
    children = Path(f"/proc/{process}/task").glob("*/children")
    (child,) = (word for path in children for word in path.read_text().split())
    return int(child)


def wait_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "the daemon outlives pyvmm"
    os.close(pidfd)


@pytest.mark.parametrize("options", ["", ",ro", ",snapshot", ",cache=none", ",iops=100,bps=1M"])
def test_a_machine_runs_with_a_qcow2_disk(image: Path, options: str) -> None:
    done = run(f"{image}{options}")
    assert (done.returncode, done.stderr) == (9, b"")


def test_the_format_comes_from_the_name_or_the_option(image: Path, tmp_path: Path) -> None:
    odd = image.rename(tmp_path / "disk.img")
    assert b"not in qcow2 format" not in run(odd).stderr  # a raw disk that happens to look so
    assert run(f"{odd},format=qcow2").returncode == 9
    raw = tmp_path / "raw.qcow2"
    raw.write_bytes(bytes(1 << 20))
    done = run(raw)
    assert done.returncode == 1
    assert complaint(done) == f"pyvmm: {raw}: Image is not in qcow2 format"


@pytest.mark.parametrize(
    ("options", "status", "wrong"),
    [
        ("serial=S1", 2, "serial cannot be set for a qcow2 disk"),
        ("werror=stop", 2, "werror cannot be set for a qcow2 disk"),
        ("packed=on", 2, "packed cannot be set for a qcow2 disk"),
    ],
)
def test_what_the_daemon_decides_cannot_be_set(
    image: Path, options: str, status: int, wrong: str
) -> None:
    done = run(f"{image},{options}")
    assert done.returncode == status
    assert wrong in complaint(done)


def test_an_image_in_use_is_one_clear_line(image: Path) -> None:
    with Running("--memory", "16M", "--disk", str(image)) as first:
        first.expect(PROMPT)
        done = run(image)
        assert done.returncode == 1
        assert complaint(done) == f"pyvmm: {image}: it must not be in use by another program"


def test_a_missing_daemon_is_named_with_its_package(image: Path, tmp_path: Path) -> None:
    done = run(image, env=os.environ | {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert complaint(done) == (
        "pyvmm: qemu-storage-daemon must be installed; it is in Debian's package qemu-system-common"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_daemon_ends_with_pyvmm(image: Path, number: signal.Signals) -> None:
    with Running("--memory", "16M", "--disk", str(image)) as running:
        running.expect(PROMPT)
        pidfd = os.pidfd_open(daemon_of(running.process.pid))
        running.process.send_signal(number)
        running.process.wait()
    wait_end(pidfd)


def test_a_socket_without_a_back_end_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for _ in range(2):
        done = run(f"vhost-user:{path}")
        assert done.returncode == 1
        assert f"A vhost-user back end must listen at {path}" in complaint(done)
        with socket.socket(socket.AF_UNIX) as stale:
            path.unlink(missing_ok=True)
            stale.bind(str(path))


def test_a_back_end_of_somebody_else_is_attached(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    node = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}"
    export = f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={path},writable=on"
    ready = tmp_path / "pid"
    command = [PROGRAM, "--blockdev", node, "--export", export, "--pidfile", ready, "--daemonize"]
    subprocess.run(command, check=True)
    try:
        for _ in range(2):
            assert run(f"vhost-user:{path}").returncode == 9
    finally:
        os.kill(int(ready.read_text()), signal.SIGTERM)
