"""Machines of other processes: `pyvmm ps`, `stop`, `console` and `stat`, and what they rest on."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command import PATIENCE, Running, complaint, pyvmm

from pyvmm import RunningMachine, running
from pyvmm.errors import HostError
from pyvmm.registry.protocol import read_line

pytestmark = pytest.mark.usefixtures("directory")

PROMPT = b"> "
# Register before the first output.
AT_ONCE = "from pyvmm import lifecycle; lifecycle.REGISTER_SECONDS = -1"


def guest(*args: str, python: str = "") -> Running:
    """A guest at its prompt, that others can find."""
    run = Running("--memory", "16M", *args, python=python)
    run.expect(PROMPT)
    found(run)
    return run


def found(run: Running) -> RunningMachine:
    """Its entry, which is there soon after the start."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and run.process.poll() is None:
        for one in running():
            if one.pid == run.process.pid:
                return one
    raise AssertionError(f"It has not registered; its output is {run.rest()!r}")


def counter(families: list[dict[str, object]], name: str) -> float:
    """The sum of a family's numbers."""
    samples = [family["samples"] for family in families if family["name"] == name]
    return sum(value for _, value in samples[0])  # type: ignore[attr-defined]


# ---- life ----


def test_a_machine_is_listed_while_it_runs(directory: Path) -> None:
    with guest("--name", "web", "--cpus", "2") as run:
        (one,) = running()
        assert (one.name, one.pid, one.kernel) == ("web", run.process.pid, None)
        assert (one.memory, one.cpus, one.state) == (16 << 20, 2, "running")
        assert one.sockets == {"COM1": "stdio"}
        assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
        run.write(b"poweroff\r")
        assert run.wait() == 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("keys", [b"exit 7\r", b"crash\r", b"panic\r"])
def test_no_end_leaves_anything_behind(directory: Path, keys: bytes) -> None:
    with guest() as run:
        run.write(keys)
        run.wait()
    assert list(directory.iterdir()) == []


def test_a_killed_machine_is_not_listed_and_its_files_go(directory: Path) -> None:
    with guest() as run, guest("--name", "other") as other:
        run.signal(signal.SIGKILL)
        run.wait()
        assert len(list(directory.iterdir())) == 4
        assert running() == [found(other)]
        assert len(list(directory.iterdir())) == 2


def test_it_outlives_a_restart_of_its_guest() -> None:
    with guest() as run:
        run.write(b"reboot\r")
        run.expect(PROMPT)
        assert found(run).state == "running"


def test_a_table_of_two_machines_of_one_name_tells_them_apart() -> None:
    with guest("--name", "web") as one, guest("--name", "web") as two:
        lines = pyvmm("ps").stdout.decode().splitlines()
        assert lines[0].split() == ["NAME", "ID", "STATE", "CPUS", "MEMORY", "SINCE", "SOCKETS"]
        pids = [str(run.process.pid) for run in (one, two)]
        assert [line.split()[:5] for line in lines[1:]] == [
            ["web", pid, "running", "1", "16M"] for pid in pids
        ]
        assert "say which: " in complaint(pyvmm("stop", "web"))
        assert pyvmm("stop", "--force", pids[0]).returncode == 0
        assert one.wait() == 0
        assert pyvmm("stop", "--force", "web").returncode == 0
        assert two.wait() == 0


def test_programs_get_the_list_as_json() -> None:
    with guest("--name", "wëb/../\u20ac") as run:
        (one,) = json.loads(pyvmm("ps", "--json").stdout)
        assert one == {**found(run).asdict(), "state": "running"}
        assert one["name"] == "wëb/../\u20ac"


def test_a_machine_whose_process_is_stopped_has_no_known_state() -> None:
    with guest() as run:
        run.signal(signal.SIGSTOP)
        code = "from pyvmm.registry import protocol; protocol.ANSWER_SECONDS = 0.1"
        with Running(command="ps", python=code) as ps:
            ps.expect(b"unknown")


def test_what_is_not_there_is_said() -> None:
    done = pyvmm("stop", "web")
    assert (done.returncode, complaint(done)) == (
        2,
        "pyvmm: There is no machine 'web'; none is running",
    )


# ---- where it cannot register ----


@pytest.mark.parametrize("verbose", [True, False])
def test_a_machine_runs_all_the_same_where_it_cannot_register(
    directory: Path, verbose: bool
) -> None:
    directory.touch()
    with Running("--memory", "16M", *["-v"] * verbose, python=AT_ONCE) as run:
        run.expect(PROMPT)
        run.write(b"poweroff\r")
        assert run.wait() == 0
        run.rest()
        said = f"pyvmm: other programs cannot find this machine: {directory} cannot be opened: "
        assert run.output.count(said.encode()) == verbose


def test_a_machine_runs_where_its_runtime_directory_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    with Running("--memory", "16M", python=AT_ONCE) as run:
        run.expect(PROMPT)
        run.write(b"exit 7\r")
        assert run.wait() == 15


# ---- start-up ----


def test_a_run_imports_nothing_of_the_front_ends(tmp_path: Path) -> None:
    names = tmp_path / "names"
    python = (
        "import atexit\n"
        f"atexit.register(lambda: open({str(names)!r}, 'w').write(' '.join(sys.modules)))"
    )
    with Running("--memory", "16M", python=python) as run:
        run.expect(PROMPT)
        while not list(tmp_path.glob("pyvmm/*.json")):
            assert run.process.poll() is None
        run.write(b"poweroff\r")
        assert run.wait() == 0
    modules = set(names.read_text().split())
    assert "pyvmm.registry.entry" in modules
    parts = {name.split(".")[1] for name in modules if name.startswith("pyvmm.")}
    assert not parts & {"monitor", "qmp", "gdb", "tracing", "inspection", "metrics", "debugger"}
    assert not modules & {"pyvmm.registry.services", "pyvmm.control", "pyvmm.endpoint"}
    assert not modules & {"socket", "json", "logging", "typing", "prompt_toolkit"}


# ---- stop ----


def test_a_guest_that_listens_powers_itself_off(listener: str) -> None:
    with Running(listener, "--memory", "16M", "--name", "web") as run:
        run.expect(b"!")
        found(run)
        done = pyvmm("stop", "web", "--timeout", "1000")
        assert (done.returncode, done.stderr) == (0, b"")
        assert run.wait() == 0


def test_a_guest_that_does_not_listen_is_ended_and_that_is_told() -> None:
    with guest("--name", "web") as run:
        done = pyvmm("stop", "web", "--timeout", "0.01")
        assert done.returncode == 1
        said = f"pyvmm: web ({run.process.pid}) did not power itself off within 0.01 seconds, and"
        assert complaint(done).startswith(said)
        assert run.wait() == 0


def test_force_does_not_ask(listener: str) -> None:
    with guest("--name", "web") as run:
        done = pyvmm("stop", "web", "--force")
        assert (done.returncode, done.stderr) == (0, b"")
        assert run.wait() == 0


@pytest.mark.parametrize("timeout", ["-1", "nan", "1e9"])
def test_an_impossible_timeout_is_refused_and_the_guest_goes_on(timeout: str) -> None:
    with guest() as run:
        said = complaint(pyvmm("stop", "pyvmm", f"--timeout={timeout}"))
        assert said.startswith("pyvmm: The timeout must be 0 to ")
        assert found(run).state == "running"


def test_the_machine_has_gone_once_stop_returns() -> None:
    with guest() as run:
        one = found(run)
        assert one.stop(0) == "Quit"
        assert running() == []
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        assert os.waitid(os.P_PID, run.process.pid, ended) is not None
        with pytest.raises(HostError, match="has ended"):
            one.connect("stat")


# ---- console ----


def test_a_console_shows_the_last_output_and_types() -> None:
    with guest("--name", "web") as run:
        run.write(b"echo before\r")
        run.expect(PROMPT)
        with Running("web", command="console") as console:
            console.expect(b"\r\nbefore\r\n> ")
            console.write(b"echo typed here\r")
            console.expect(b"\r\ntyped here\r\n> ")
            run.expect(b"\r\ntyped here\r\n> ")
            run.write(b"echo typed there\r")
            console.expect(b"\r\ntyped there\r\n> ")
            run.write(b"poweroff\r")
            assert console.wait() == 0


@pytest.mark.parametrize("kind", ["none", "pty", "file:{}/file", "unix:{}/socket", "stdio"])
def test_a_console_works_whatever_the_port_is_connected_to(tmp_path: Path, kind: str) -> None:
    options = ("--memory", "16M", "--name", "web", "--serial", kind.format(tmp_path))
    with Running(*options) as run:
        found(run)
        with Running("web", command="console") as console:
            console.expect(PROMPT)
            console.write(b"cpus\r")
            console.expect(b"1 CPU(s)")
            console.write(b"poweroff\r")
            assert run.wait() == 0


def test_on_a_terminal_keys_leave_and_the_guest_goes_on() -> None:
    with guest("--name", "web") as run:
        with Running("web", command="console", terminal=True) as console:
            console.expect(b"Ctrl-A x leaves")
            console.expect(PROMPT)
            assert console.settings_now != console.settings
            console.write(b"echo typed\r\x01h")
            console.expect(b"leave; the machine goes on")
            console.write(b"\x01x")
            console.expect(f"web ({run.process.pid}) goes on".encode())
            assert console.wait() == 0
            assert console.settings_now == console.settings
        run.expect(b"\r\ntyped\r\n> ")
        run.write(b"exit 7\r")
        assert run.wait() == 15


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_console_and_restores_the_terminal(number: signal.Signals) -> None:
    with guest("--name", "web") as run:
        with Running("web", command="console", terminal=True) as console:
            console.expect(PROMPT)
            console.signal(number)
            console.wait()
            assert console.settings_now == console.settings
        assert found(run).state == "running"


def test_a_console_on_a_terminal_says_that_the_machine_has_ended() -> None:
    with (
        guest("--name", "web") as run,
        Running("web", command="console", terminal=True) as console,
    ):
        console.expect(PROMPT)
        console.write(b"poweroff\r")
        console.expect(f"web ({run.process.pid}) has ended".encode())
        assert console.settings_now == console.settings


def test_what_a_console_types_before_it_leaves_is_not_lost() -> None:
    with guest("--name", "web") as run:
        words = "".join(f"echo {number:04}\r" for number in range(200)).encode()
        with found(run).connect("console") as console:
            console.sendall(words)
        for number in range(200):
            run.expect(f"\r\n{number:04}\r\n> ".encode())


def test_the_last_output_of_a_guest_reaches_its_consoles() -> None:
    with guest("--name", "web") as run, found(run).connect("console") as console:
        run.write(b"echo last\rexit 7\r")
        assert run.wait() == 15
        said = b"".join(iter(lambda: console.recv(1 << 16), b""))
        assert said.endswith(b"\r\nlast\r\n> exit 7\r\n")


def test_consoles_that_do_not_read_do_not_stall_the_guest() -> None:
    with guest("--name", "web") as run:
        consoles = [found(run).connect("console") for _ in range(3)]
        for _ in range(100):
            run.write(b"echo " + b"x" * 60 + b"\r")
            run.expect(PROMPT)
        for console in consoles:
            console.close()


# ---- counters ----


def test_counters_are_those_of_the_running_guest() -> None:
    with guest("--name", "web", "--cpus", "2") as run:
        before = found(run).statistics()
        run.write(b"cpus\r")
        run.expect(PROMPT)
        after = found(run).statistics()
        assert counter(after, "exits") > counter(before, "exits") > 0
        assert counter(after, "vcpus") == 2
        assert counter(after, "memory_bytes") == 16 << 20
        assert counter(after, "resident_bytes") > 1 << 20
        assert counter(after, "cpu_seconds") > 0


def test_counters_are_a_table_and_json() -> None:
    with guest("--name", "web", "--rng"):
        lines = pyvmm("stat", "web").stdout.decode().splitlines()
        assert lines[0].split() == ["COUNTER", "OF", "VALUE"]
        assert any(line.startswith("exits  ") and "vcpu=0" in line for line in lines)
        families = json.loads(pyvmm("stat", "web", "--json").stdout)
        assert {"name", "help", "total", "samples"} == set(families[0])


# ---- clients that are not ours ----

REQUESTS = [b"", b"\n", b"nonsense\n", b"stop\n", b"stop x\n", b"\xff\xfe\n", b"x" * 100_000]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda text: repr(text[:9]))
def test_a_client_that_asks_for_nothing_harms_nobody(directory: Path, request_: bytes) -> None:
    with guest() as run, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(directory / f"{run.process.pid}.sock"))
        with suppress(OSError):  # it listens no more
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            assert read_line(client) != "ok"
        assert found(run).state == "running"


# ---- the monitor ----


def test_a_machines_monitor_is_found_by_its_name() -> None:
    with guest("--name", "web"):
        done = pyvmm("monitor", "web", stdin=b"stop\ninfo status\n")
        assert done.returncode == 0
        assert b"paused" in done.stdout
        assert running()[0].state == "paused"


@pytest.mark.parametrize("form", ["unix:{}/m", "{}/m"])
def test_a_monitor_is_found_by_its_path(tmp_path: Path, form: str) -> None:
    with guest("--monitor", f"unix:{tmp_path}/m") as run:
        assert found(run).sockets == {"monitor": f"unix:{tmp_path}/m", "COM1": "stdio"}
        done = pyvmm("monitor", form.format(tmp_path), stdin=b"info status\n")
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"running" in done.stdout


def test_a_machine_speaks_qmp_to_who_asks_for_it() -> None:
    with (
        guest("--name", "web") as run,
        found(run).connect("qmp") as connection,
        connection.makefile("rw") as client,
    ):
        assert "QMP" in json.loads(client.readline())
        client.write('{"execute": "qmp_capabilities"} {"execute": "query-name"}')
        client.flush()
        assert json.loads(client.readline()) == {"return": {}}
        assert json.loads(client.readline()) == {"return": {"name": "web"}}
        run.write(b"poweroff\r")
        assert json.loads(client.readline())["event"] == "SHUTDOWN"
        assert run.wait() == 0


def test_a_monitor_that_is_not_there_is_a_machine_that_is_not() -> None:
    assert "no machine 'web'" in complaint(pyvmm("monitor", "web"))
