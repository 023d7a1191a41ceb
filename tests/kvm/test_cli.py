"""`pyvmm` as a user and a careless or hostile one meets it: exit statuses, output, bad input."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, PATIENCE, Running, complaint, program, pyvmm

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *COMMAND)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


def namespace(script: str) -> tuple[str, ...]:
    """The command after `script`, which may mount what it likes: nobody else sees it."""
    return ("unshare", "-m", "sh", "-c", f'{script}; exec "$@"', "sh", *COMMAND)


# ---- exit statuses and output ----


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("poweroff", 0),
        ("reboot", 0),
        ("crash", 3),
        ("panic", 4),
        ("exit 0", 1),
        ("exit 1", 3),
        ("exit 127", 255),
        ("exit 128", 1),
    ],
)
def test_the_exit_status_tells_how_the_guest_ended(command: str, status: int) -> None:
    done = pyvmm("run", "--no-reboot", "--memory", "16M", stdin=f"{command}\r".encode())
    assert done.returncode == status
    assert f"> {command}\r\n".encode() in done.stdout
    assert (b"RIP" in done.stderr) == (command in ("crash", "panic"))


def test_output_is_whole_for_a_reader_who_comes_after_the_end() -> None:
    text, count = b"x" * 60, 100
    with Running("--memory", "16M") as run:
        fcntl.fcntl(run.output_fd, fcntl.F_SETPIPE_SZ, 4096)
        run.write((b"echo " + text + b"\r") * count + b"exit 4\r")
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for us to read
            run.process.wait(3)
        for _ in range(count):
            run.expect(b"\r\n" + text + b"\r\n")
        run.expect(b"exit 4\r\n")
        assert run.wait() == 9


def test_a_reader_who_goes_early_does_not_end_the_guest() -> None:
    shell = '(printf "help\\rexit 20\\r" | "$@"; echo $? >&2) | head -c 5'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *COMMAND, "run", "--memory", "16M"],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.stdout == b"pyvmm"
    assert done.stderr.splitlines()[-1] == b"41"
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files_do_no_harm(closed: str) -> None:
    shell = f'"$@" {closed}'
    arguments = ["run", program("hello"), "--memory", "16M"]
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *COMMAND, *arguments], capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 33
    assert (b"hello" in done.stdout) == (" >" not in f" {closed}")
    assert done.stderr == b""


def test_input_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"echo from a file\rpoweroff\r")
    with open(tmp_path / "input", "rb") as file:
        done = subprocess.run(
            [*COMMAND, "run", "--memory", "16M"], stdin=file, capture_output=True, timeout=PATIENCE
        )
    assert done.returncode == 0
    assert b"\r\nfrom a file\r\n" in done.stdout


@pytest.mark.parametrize("output", ["stdout", "stderr"])
def test_a_full_disk_for_the_output_is_no_traceback(output: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "run", "--memory", "16M"],
            input=b"crash\r",
            timeout=PATIENCE,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {output: full},
        )
    assert done.returncode == 3
    assert b"Traceback" not in (done.stderr or b"")


def test_a_report_that_nobody_reads_is_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "inspect", program("hello")],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "No space left on device" in complaint(done)


def test_the_timeline_is_text_and_json() -> None:
    done = pyvmm("run", program("hello"), "--memory", "16M", "--timeline")
    *text, data = done.stderr.decode().splitlines()
    times = json.loads(data)["timeline_ms"]
    assert [line.split("  ")[0] for line in text] == list(times)
    assert times.pop("init") is None
    assert list(times.values()) == sorted(times.values())


def test_com1_and_com2_go_where_they_are_told(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = pyvmm(
        *("run", program("hello"), "--memory", "16M"),
        *("--serial", f"file:{one}", "--serial", f"unix:{two}"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (33, b"", b"")
    assert one.read_bytes().startswith(b"hello")
    assert not two.exists()


def test_a_pty_is_announced_by_its_port() -> None:
    done = pyvmm("run", program("hello"), "--memory", "16M", "--serial", "stdio", "--serial", "pty")
    assert done.returncode == 33
    assert complaint(done).startswith("pyvmm: COM2 is on /dev/pts/")


def test_options_win_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "vm.toml"
    config.write_text(
        f'kernel = "{program("hello")}"\nappend = "from the file"\nmemory = "16M"\ncpus = 2\n'
        f'serial = ["stdio", "none"]\nno_reboot = true\nname = "test"\ncpu = "host"\n'
        f'kaslr = false\nentry = "auto"\nhugepages = false\nprealloc = true\n'
    )
    assert b"hello from the file" in pyvmm("run", "--config", str(config)).stdout
    done = pyvmm("run", "--config", str(config), "--append", "from an option")
    assert b"hello from an option" in done.stdout


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("", "The command must be run or ps or"),
        ("frobnicate", "or doctor or inspect, not 'frobnicate'"),
        ("run --frobnicate", "--frobnicate"),
        ("run --memory 0", "at least 1M"),
        ("run --memory 1", "at least 1M"),
        ("run --memory=-1", "'-1'"),
        ("run --memory 5X", "'5X'"),
        ("run --memory 3.5G", "'3.5G'"),
        ("run --memory 100000T", "This host allows"),
        ("run --cpus 0", "at least 1 CPU, not 0"),
        ("run --cpus=-1", "at least 1 CPU, not -1"),
        ("run --cpus abc", "'abc'"),
        ("run --cpus 100000", "CPUs, not 100000"),
        ("run --cpu 486", "'486'"),
        ("run --cpu host,-avx2,+nosuch", "'nosuch'"),
        ("run --serial tcp:1", "'tcp:1'"),
        ("run --serial file:", "'file:'"),
        ("run --serial buffer", "'buffer'"),
        ("run --serial stdio --serial stdio", "Only one serial port or console can be on stdio"),
        ("run --serial none --serial none --serial none", "has 2 serial ports, not 3"),
        ("run --name=", "1 to 64 printable characters"),
        ("run --initrd x", "no initrd"),
        ("run --append x", "no append"),
        ("run --entry efi", "'efi'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: str, reason: str) -> None:
    done = pyvmm(*arguments.split())
    assert reason in complaint(done)
    assert done.returncode == 2


def make(path: Path) -> None:
    """Every kind of file that is no kernel, in the directory `path`."""
    packed = gzip.compress(Path(program("hello")).read_bytes())
    elf = bytearray(Path(program("hello")).read_bytes())
    short = bytes(elf[:100])
    elf[18] = 183  # e_machine: AArch64
    files = {
        "empty": b"",
        "text": b"hello\n",
        "short": short,
        "arm": bytes(elf),
        "cut.gz": packed[: len(packed) // 2],
        "bad.gz": packed[:-8] + bytes(8),
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    (path / "directory").mkdir()
    os.mkfifo(path / "fifo")


NO_FILE = [
    ("nosuch", "No such file"),
    ("empty", "is empty"),
    ("directory", "is a directory"),
    ("fifo", "is a device or pipe"),
    ("/dev/null", "is a device or pipe"),
    ("/dev/zero", "is a device or pipe"),
]
NO_KERNEL = [
    ("text", "is no bzImage, ELF or Multiboot image"),
    ("short", "is truncated"),
    ("arm", "for another machine"),
    ("cut.gz", "has damaged gzip data"),
    ("bad.gz", "has damaged gzip data"),
]


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [("", *case) for case in NO_FILE + NO_KERNEL] + [("--initrd", *case) for case in NO_FILE],
)
def test_a_wrong_file_is_named_with_the_reason(
    tmp_path: Path, option: str, name: str, reason: str
) -> None:
    make(tmp_path)
    path, cache = str(tmp_path / name), tmp_path / "cache"
    arguments = [program("hello"), option, path] if option else [path]
    done = pyvmm("run", *arguments, env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    assert done.returncode == 1
    assert path in complaint(done)
    assert reason in complaint(done)
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file:{}/none/x", "cannot be written: No such file"),
        ("file:{}", "cannot be written: Is a directory"),
        ("unix:{}/none/x", "cannot be listened on: No such file"),
        ("unix:{}/" + "x" * 108, "too long"),
        ("unix:{}/file", "must be a socket or not exist"),
        ("unix:{}/used", "must not be in use"),
    ],
)
def test_a_serial_line_that_cannot_be_made_is_named(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(tmp_path / "used"))
        used.listen()
        done = pyvmm("run", "--serial", kind.format(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in complaint(done)
    assert reason in complaint(done)


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("memory = ", 2, "is no TOML"),
        ("frobnicate = 1", 2, "'frobnicate' is none of"),
        ("cpus = '2'", 2, "cpus cannot be '2'"),
        ("cpus = true", 2, "cpus cannot be True"),
        ("memory = 1.5", 2, "memory cannot be 1.5"),
        ("initrd = [1]", 2, "initrd must be a list of strings"),
        ("cpus = 0", 2, "at least 1 CPU"),
        ("memory = -4096", 2, "at least 1M"),
        ('kernel = "a\\u0000b"', 1, "null byte"),
        ('serial = "file:a\\u0000b"', 2, "must be one of"),
    ],
)
def test_a_wrong_setting_in_the_file_is_named(
    tmp_path: Path, text: str, status: int, reason: str
) -> None:
    config = tmp_path / "vm.toml"
    config.write_text(text)
    done = pyvmm("run", "--config", str(config))
    assert reason in complaint(done)
    assert done.returncode == status


@needs_root
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_without_the_right_to_dev_kvm_the_cure_is_named(command: str) -> None:
    if os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    done = pyvmm(command, command=NOBODY)
    assert done.returncode == 1
    assert "usermod -aG kvm" in (complaint(done) if command == "run" else done.stdout.decode())


@needs_root
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mount -t tmpfs none /dev && mknod /dev/null c 1 3", "/dev/kvm is not there"),
        ("mount --bind /etc/hostname /dev/kvm", "is not the device of KVM"),
    ],
)
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_without_dev_kvm_one_line_says_so(script: str, reason: str, command: str) -> None:
    if subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    done = pyvmm(command, command=namespace(script))
    assert done.returncode == 1
    assert reason in (complaint(done) if command == "run" else done.stdout.decode())


@needs_root
@pytest.mark.parametrize("options", ["size=4k", "ro"])
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, options: str) -> None:
    packed = tmp_path / "hello.gz"
    packed.write_bytes(gzip.compress(Path(program("hello")).read_bytes()))
    cache = tmp_path / "cache"
    cache.mkdir()
    script = f"mount -t tmpfs -o {options} none {cache}"
    if subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    done = pyvmm(
        *("run", str(packed), "--memory", "16M"),
        command=namespace(script),
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    assert done.returncode == 33
    assert done.stdout.startswith(b"hello")
