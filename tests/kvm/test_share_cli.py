"""`pyvmm run --share` and `--rootfs`: virtiofsd comes and goes with the machine."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from command import PATIENCE, PROMPT, Running, complaint, program, pyvmm

from pyvmm.backends import daemon
from pyvmm.errors import HostError

EXIT = b"exit 4\r"  # a command of the built-in guest, for status 9

try:
    daemon.find("virtiofsd")
except HostError as error:
    pytestmark = pytest.mark.skip(str(error))


def run(*words: str, stdin: bytes = EXIT, **more: object):
    return pyvmm("run", "--memory", "16M", *words, stdin=stdin, **more)


@pytest.mark.parametrize("options", ["", ",ro"])
def test_a_machine_runs_with_a_share(tmp_path: Path, options: str) -> None:
    done = run("--share", f"{tmp_path}:tag{options}", "--share", f"{tmp_path}:other")
    assert (done.returncode, done.stderr) == (9, b"")


def test_shares_can_be_named_in_a_file(tmp_path: Path) -> None:
    config = tmp_path / "machine.toml"
    for value in (f'"{tmp_path}:tag"', f'["{tmp_path}:tag,ro", "{tmp_path}:other"]'):
        config.write_text(f'memory = "16M"\nshare = {value}\n')
        assert pyvmm("run", "--config", str(config), stdin=EXIT).returncode == 9


@pytest.mark.parametrize(
    ("words", "status", "wrong"),
    [
        (("--share", "dir"), 2, "A share must be DIR:TAG[,ro], not 'dir'"),
        (("--share", "missing:tag"), 1, "A shared directory must exist; missing is none"),
        (("--rootfs", "."), 2, "A root directory must have a KERNEL that starts from it"),
        (("--", "ls"), 2, "A command must have the --rootfs DIR that it is run in"),
        (("--rootfs", "/,rw,ro"), 2, "A root directory must be DIR[,ro|,rw]"),
    ],
)
def test_a_share_that_cannot_be_is_one_clear_line(
    words: tuple[str, ...], status: int, wrong: str
) -> None:
    done = run(*words)
    assert done.returncode == status
    assert wrong in complaint(done)


def test_a_missing_daemon_is_named_with_its_package(tmp_path: Path) -> None:
    script = "import pyvmm.backends.daemon as d; d.PRIVATE = ()"
    with Running("--share", f"{tmp_path}:tag", python=script) as running:
        running.expect(b"must be installed; it is in Debian's package qemu-system-common (12) or ")
        assert running.wait() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_daemon_ends_with_pyvmm(tmp_path: Path, number: signal.Signals) -> None:
    with Running("--memory", "16M", "--share", f"{tmp_path}:tag") as running:
        running.expect(PROMPT)
        children = Path(f"/proc/{running.process.pid}/task").glob("*/children")
        (child,) = (word for path in children for word in path.read_text().split())
        pidfd = os.pidfd_open(int(child))
        running.process.send_signal(number)
        running.process.wait()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "the daemon outlives pyvmm"
    os.close(pidfd)


@pytest.mark.parametrize("status", [0, 200])
def test_the_status_of_a_command_is_that_of_pyvmm(tmp_path: Path, status: int) -> None:
    """The guest is not Linux here, but tells a status as the init of a root directory does."""
    words = (program("end"), "--append", f"exited-{status}", "--rootfs", str(tmp_path))
    done = run(*words, "--", "true")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_command_that_is_interrupted_has_no_success(tmp_path: Path) -> None:
    words = ("--append", "spin", "--rootfs", str(tmp_path), "--console", "hvc0=pty", "--", "true")
    with Running("--memory", "16M", program("end"), *words) as running:
        running.expect(b"hvc0 is on /dev/pts/")
        running.signal(signal.SIGTERM)
        assert running.wait() == 130
