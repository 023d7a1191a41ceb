"""The monitor as its user sees it: on screens, in pipes, and from afar."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import PATIENCE, Running, complaint, pyvmm
from tmux import Tmux

RUN = ("run", "--memory", "16M")
GREETING = "The monitor of pyvmm: `help` lists the commands, Ctrl-D leaves it"
TOOLBAR = " running · 1 vCPU · N exits/s · up TIME"
PROMPT = "(pyvmm)"
HELLO = ("pyvmm: hello from the guest. Try help.", ">")
SWITCH = ("C-a", "c")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's history is left alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """A guest, and where its monitor listens."""
    path = f"{tmp_path}/monitor"
    with Running("--memory", "16M", "--monitor", f"unix:{path}") as run:
        run.expect(b"> ")
        yield run, path


def test_ctrl_a_c_switches_between_the_guest_and_the_monitor() -> None:
    with Tmux(*RUN) as user:
        user.until_screen(*HELLO)
        user.keys(*SWITCH)
        screen = [*HELLO, GREETING, PROMPT, TOOLBAR]
        user.until_screen(*screen)
        user.keys("info st", "Tab")
        user.until_screen(*screen[:-2], "(pyvmm) info status", TOOLBAR)
        user.keys("Enter")
        screen[-2:] = ["(pyvmm) info status", "name:  pyvmm", "state: running", PROMPT]
        user.until_screen(*screen, TOOLBAR)
        user.keys(*SWITCH)
        user.until_screen(*screen)
        user.keys("echo seen", "Enter")
        screen += ["echo seen", "seen", ">"]
        user.until_screen(*screen)
        user.keys(*SWITCH, "stop", "Enter")
        screen += ["(pyvmm) stop", PROMPT]
        user.until_screen(*screen, TOOLBAR.replace("running", "paused"))
        user.keys("quit", "Enter")
        screen[-1:] = ["(pyvmm) quit"]
        user.until(lambda lines: lines[-2:] == ["status 0", "kept"])
        assert "The guest was ended from outside" in user.screen


def test_ctrl_c_ends_a_watch_and_never_the_machine() -> None:
    with Tmux(*RUN, "--monitor", "stdio") as user:
        user.until_screen(GREETING, PROMPT, TOOLBAR)
        user.keys("watch info status every 0.1 seconds", "Enter")
        watching = [GREETING, "(pyvmm) watch info status every 0.1 seconds"]
        user.until_screen(*watching, "name:  pyvmm", "state: running")
        user.keys("C-c")
        shown = [*watching, "name:  pyvmm", "state: running"]
        user.until_screen(*shown, PROMPT, TOOLBAR)
        user.keys("half a line", "C-c")
        user.until_screen(*shown, "(pyvmm) half a line", PROMPT, TOOLBAR)
        user.resize(60, 12)
        user.until(lambda lines: lines[-2:] == [PROMPT, TOOLBAR])
        user.keys("C-d")
        user.until(lambda lines: "Ctrl-A x       quit" in lines)
        user.keys("C-a", "x")
        user.until(lambda lines: lines[-2:] == ["status 0", "kept"])


def test_history_is_kept_between_runs(state: Path) -> None:
    for keys, line in [("info status", "(pyvmm) info status"), ("Up", "(pyvmm) info status")]:
        with Tmux(*RUN, "--monitor", "stdio", env={"XDG_STATE_HOME": str(state)}) as user:
            user.until_screen(GREETING, PROMPT, TOOLBAR)
            user.keys(keys)
            user.until_screen(GREETING, line, TOOLBAR)
            user.keys("Enter")
            user.until(lambda lines: "state: running" in lines)


def test_nothing_is_lost_by_switching_while_the_guest_writes() -> None:
    with Running("--memory", "16M", terminal=True) as run:
        run.expect(b"> ")
        for number in range(40):
            run.write(b"echo first%d\r" % number)
        run.write(b"\x01c")
        run.expect(b"(pyvmm)")
        for number in range(40):
            run.write(b"\x01cecho second%d\r\x01c" % number)
        run.write(b"info status\r")
        run.expect(b"running")
        run.write(b"\x01c" + b"echo third\r")
        run.expect(b"third\r\r\nthird\r\r\n")
        texts = [b"%s%d" % (word, n) for word in (b"first", b"second") for n in range(40)]
        written = b"".join(b"> echo %s\n%s\n" % (text, text) for text in texts)
        rest = iter(run.output)
        assert all(byte in rest for byte in written)  # in order, wherever the console came between


def test_a_pipe_gets_answers_and_nothing_else() -> None:
    done = pyvmm(*RUN, "--monitor", "stdio", stdin=b"info status\nstpo\nquit\n")
    assert done.stdout.decode().splitlines() == [
        "name:  pyvmm",
        "state: running",
        "Error: There is no command 'stpo'; did you mean 'stop'?",
    ]
    assert done.stderr == b""
    assert done.returncode == 0


def test_the_end_of_a_script_is_not_the_end_of_the_guest(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("info status")
    with open(script) as lines:
        done = pyvmm_from(lines.fileno())
    assert done == (b"name:  pyvmm\nstate: running\n", 0)


def pyvmm_from(stdin: int) -> tuple[bytes, int]:
    """What a run with its monitor in a pipe says until SIGINT, and its exit status."""
    import subprocess
    import sys

    command = [sys.executable, "-W", "ignore", "-m", "pyvmm", *RUN, "--monitor", "stdio"]
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.readline() + process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output += process.stdout.read()
        return output, process.wait(PATIENCE)


@pytest.mark.parametrize("where", ["{0}", "unix:{0}"])
def test_a_pipe_to_pyvmm_monitor(served: tuple[Running, str], where: str) -> None:
    run, path = served
    assert os.stat(path).st_mode & 0o777 == 0o600
    done = pyvmm("monitor", where.format(path), stdin=b"stop\ninfo status\ncont")
    assert done.stdout == b"name:  pyvmm\nstate: paused\n"
    assert (done.stderr, done.returncode) == (b"", 0)
    assert pyvmm("monitor", path, stdin=b"quit\n").returncode == 0
    assert run.wait() == 0


def test_a_program_that_knows_no_more_than_lines(served: tuple[Running, str]) -> None:
    run, path = served
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        client.sendall(b"info status\nquit\n")
        text = b""
        while data := client.recv(4096):
            text += data
    assert text.startswith(b"(pyvmm) name:  pyvmm\nstate: running\n(pyvmm) ")
    assert run.wait() == 0


@pytest.mark.parametrize(
    "line", ["info registers general", "info cpus", "x /4x 0x100000", "x /2i 0x100000", "backtrace"]
)
def test_a_screen_shows_what_a_pipe_gets(served: tuple[Running, str], line: str) -> None:
    _, path = served
    told = pyvmm("monitor", path, stdin=f"stop\n{line}\n".encode()).stdout.decode().splitlines()
    assert told
    with Tmux("monitor", path) as user:
        user.resize(120, 30)
        toolbar = TOOLBAR.replace("running", "paused")
        user.until_screen(GREETING, PROMPT, toolbar)
        user.keys(line, "Enter")
        user.until_screen(GREETING, f"{PROMPT} {line}", *told, PROMPT, toolbar)


def test_pyvmm_monitor_on_a_terminal(served: tuple[Running, str]) -> None:
    run, path = served
    with Tmux("monitor", path) as user:
        user.until_screen(GREETING, PROMPT, TOOLBAR)
        user.resize(50, 10)
        user.keys("info status", "Enter")
        user.until(lambda lines: "state: running" in lines and lines[-1] == TOOLBAR)
        run.write(b"poweroff\r")
        user.until(lambda lines: lines[-2:] == ["status 0", "kept"])
        assert "The guest powered itself off" in user.screen
    assert run.wait() == 0


@pytest.mark.parametrize("way", ["Ctrl-D", "Ctrl-A x", "SIGTERM", "SIGHUP", "killed"])
def test_every_way_out_of_pyvmm_monitor_restores_the_terminal(
    served: tuple[Running, str], way: str
) -> None:
    run, path = served
    with Running(path, command="monitor", terminal=True) as user:
        user.expect(b"(pyvmm)")
        user.expect(b"up ")
        assert user.settings_now != user.settings
        match way:
            case "Ctrl-D":
                user.write(b"\x04")
            case "Ctrl-A x":
                user.write(b"\x01x")
            case "killed":
                run.signal(signal.SIGKILL)
            case _:
                user.signal(signal.Signals[way])
        assert user.wait() == (130 if way.startswith("SIG") else 0)
        assert user.settings_now == user.settings
        assert user.rest().endswith(b"\x1b[?2004l")


@pytest.mark.parametrize("keys", [b"quit\r", b"\x01x"])
def test_every_way_out_of_the_monitor_restores_the_terminal(keys: bytes) -> None:
    with Running("--memory", "16M", terminal=True) as run:
        run.expect(b"> ")
        run.write(b"\x01c")
        run.expect(b"up ")
        run.write(keys)
        assert run.wait() == 0
        assert run.settings_now == run.settings
        assert b"\x1b[?2004l" in run.rest()


@pytest.mark.parametrize(
    ("args", "status", "reason"),
    [
        (("run", "--monitor", "stdio", "--serial", "stdio"), 2, "or monitor can be on stdio"),
        (("run", "--monitor", "stdio", "--console", "hvc0=stdio"), 2, "or monitor can be on stdio"),
        (("run", "--monitor", "frob"), 2, "--monitor must be unix:PATH or tcp:HOST:PORT"),
        (("run", "--monitor", "tcp:x:y"), 2, "--monitor must be unix:PATH or tcp:HOST:PORT"),
        (("run", "--monitor", "unix:/" + "x" * 108), 2, "at most 107 bytes"),
        (("run", "--monitor", "unix:/dev/null"), 1, "must be a socket or not exist"),
        (("monitor", "/none/x"), 1, "No monitor answers at unix:/none/x: No such file"),
        (("monitor", "tcp:1"), 1, "No monitor answers at tcp:127.0.0.1:1"),
        (("monitor", "tcp:x:y:z"), 2, "WHERE must be unix:PATH or tcp:HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    args: tuple[str, ...], status: int, reason: str
) -> None:
    done = pyvmm(*args)
    assert reason in complaint(done)
    assert done.returncode == status


def test_what_is_no_monitor_is_noticed(tmp_path: Path) -> None:
    path = f"{tmp_path}/other"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Running(path, command="monitor") as run:
            client, _ = listener.accept()
            with client:
                client.sendall(b"220 mail.example.org")
            assert run.wait() == 1
            run.expect(b"What answers must be a monitor of pyvmm")
