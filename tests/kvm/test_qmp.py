"""QMP as the qemu.qmp library and its shells speak it, with small guests."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import PATIENCE, Running
from conftest import TIMEOUT, numbered_disk
from elftools.elf.elffile import ELFFile
from qemu.qmp import ExecuteError, QMPClient

from pyvmm import Disk, Machine, Net, events
from pyvmm.endpoint import Endpoint
from pyvmm.peripherals import Balloon, Console
from pyvmm.qmp.server import Qmp
from tests.fakes import qapi

MIB = 1 << 20
STOPPED = events.Stopped("paused")
SCRIPTS = Path(sys.executable).parent
CAPABILITIES = b'{"execute": "qmp_capabilities"}\n'
Talk = Callable[[QMPClient], Awaitable[None]]


class Quiet:
    """A network with nobody else in it."""

    def attach(self, receive: object) -> None:
        pass

    def send(self, frame: bytes) -> None:
        pass


@contextmanager
def served(path: Path, **settings: Any) -> Iterator[Machine]:
    """A machine that runs the built-in guest, with QMP at `path`."""
    with Machine(**{"memory": "32M", **settings}) as vm:
        qmp = Qmp(vm, Endpoint(path=str(path)))
        vm.start()
        vm.serial.expect(b"> ", timeout=TIMEOUT)
        try:
            yield vm
        finally:
            qmp.close()


def talk(path: Path, what: Talk) -> list[dict[str, Any]]:
    """Connect, do `what`, and go; the events until then, which are as the schema says."""

    async def run() -> list[dict[str, Any]]:
        client = QMPClient("test")
        await client.connect(str(path))
        schema = qapi.Schema(await client.execute("query-qmp-schema"))
        await what(client)
        await client.disconnect()
        events = [dict(event) for event in client.events.history]
        for event in events:
            schema.check_event(event)
            assert event.pop("timestamp")["seconds"] > 0
        return events

    return asyncio.run(asyncio.wait_for(run(), PATIENCE))


async def until(client: QMPClient, event: str) -> dict[str, Any]:
    """Wait for an event of that name."""
    while True:
        message = dict(await client.events.get())
        if message["event"] == event:
            return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


def devices(image: Path) -> tuple[Any, ...]:
    return (
        Disk("vda", numbered_disk(image), iops=5000),
        Net("eth0", mac="52:54:00:12:34:56", backend=Quiet()),
        Balloon(),
        Console("hvc0", "buffer"),
    )


def test_every_query_returns_what_the_schema_says(path: Path, tmp_path: Path) -> None:
    async def ask(client: QMPClient) -> None:
        schema = qapi.Schema(await client.execute("query-qmp-schema"))
        results = {}
        for command in await client.execute("query-commands"):
            name = command["name"]
            if name.startswith("query-"):
                results[name] = await client.execute(name)
                schema.check_result(name, results[name])
        assert results["query-status"] == {"running": True, "status": "running"}
        assert results["query-name"] == {"name": "asked"}
        assert results["query-kvm"] == {"enabled": True, "present": True}
        assert results["query-balloon"] == {"actual": 32 * MIB}
        assert results["query-memory-size-summary"]["base-memory"] == 32 * MIB
        threads = [cpu["thread-id"] for cpu in results["query-cpus-fast"]]
        assert len(set(threads)) == 2
        assert all(Path(f"/proc/self/task/{thread}").exists() for thread in threads)
        (disk,) = results["query-block"]
        assert disk["inserted"]["image"]["virtual-size"] == MIB
        assert disk["inserted"]["iops"] == 5000
        assert results["query-blockstats"][0]["stats"]["rd_operations"] == 0
        functions = results["query-pci"][0]["devices"]
        names = [function["qdev_id"] for function in functions]
        assert names == ["", "vda", "eth0", "balloon", "hvc0"]
        assert [line["label"] for line in results["query-chardev"]] == ["COM1", "hvc0"]

    with served(path, name="asked", cpus=2, devices=devices(tmp_path / "disk")):
        talk(path, ask)


def test_the_machine_is_steered_and_tells_every_client(path: Path) -> None:
    async def steer(client: QMPClient) -> None:
        other = QMPClient("other")
        await other.connect(str(path))
        await client.execute("stop")
        assert await other.execute("query-status") == {"running": False, "status": "paused"}
        await other.execute("cont")
        await client.execute("system_powerdown")
        await client.execute("system_reset")
        await until(other, "RESET")
        await client.execute("quit")
        await until(other, "SHUTDOWN")
        await until(client, "SHUTDOWN")
        assert await client.execute("query-status") == {"running": False, "status": "shutdown"}
        await other.disconnect()
        assert [event["event"] for event in other.events.history] == names

    names = ["STOP", "RESUME", "POWERDOWN", "RESET", "SHUTDOWN"]
    with served(path):
        told = talk(path, steer)
    assert [event["event"] for event in told] == names
    assert told[-2]["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert told[-1]["data"] == {"guest": False, "reason": "host-qmp-quit"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (b"poweroff", [("SHUTDOWN", "guest-shutdown")]),
        (b"crash", [("SHUTDOWN", "guest-reset")]),
        (b"panic", [("GUEST_PANICKED", None), ("SHUTDOWN", "guest-panic")]),
        (b"reboot", [("RESET", "guest-reset")]),
    ],
)
def test_what_the_guest_does_is_told(
    path: Path, command: bytes, expected: list[tuple[str, str | None]]
) -> None:
    with served(path) as vm:

        async def wait(client: QMPClient) -> None:
            vm.serial.write(command + b"\r")
            data = (await until(client, expected[-1][0]))["data"]
            assert data == {"guest": True, "reason": expected[-1][1]}

        told = talk(path, wait)
    assert [event["event"] for event in told] == [name for name, _ in expected]


def test_memory_is_saved_as_the_guest_sees_it(path: Path, tmp_path: Path) -> None:
    with served(path) as vm:
        address = 0x100000 + 4000

        async def save(client: QMPClient) -> None:
            place = {"val": address, "size": 9000}
            await client.execute("pmemsave", {**place, "filename": str(tmp_path / "p")})
            await client.execute("memsave", {**place, "filename": str(tmp_path / "v")})
            for bad in ({"val": 1 << 50, "size": 1}, {"val": address, "size": 64 * MIB}):
                for command in ("memsave", "pmemsave"):
                    with pytest.raises(ExecuteError):
                        await client.execute(command, {**bad, "filename": str(tmp_path / "bad")})
            core = {"paging": False, "protocol": f"file:{tmp_path / 'core'}"}
            await client.execute("dump-guest-memory", core)

        talk(path, save)
        expected = vm.memory.read(address, 9000)
    assert any(expected)
    assert (tmp_path / "p").read_bytes() == (tmp_path / "v").read_bytes() == expected
    assert not (tmp_path / "bad").exists()
    assert ELFFile(io.BytesIO((tmp_path / "core").read_bytes()))["e_type"] == "ET_CORE"


def test_devices_are_changed(path: Path, tmp_path: Path) -> None:
    async def refused(client: QMPClient, command: str, **arguments: Any) -> str:
        with pytest.raises(ExecuteError) as caught:
            await client.execute(command, arguments)
        kind: str = caught.value.error_class
        return kind

    async def change(client: QMPClient) -> None:
        await client.execute("block_resize", {"device": "vda", "size": 2 * MIB})
        (disk,) = await client.execute("query-block")
        assert disk["inserted"]["image"]["virtual-size"] == 2 * MIB
        await client.execute("set_link", {"name": "eth0", "up": False})
        await client.execute("balloon", {"value": 16 * MIB})
        keys = [{"type": "qcode", "data": "ctrl"}, {"type": "number", "data": 0xD3}]
        await client.execute("send-key", {"keys": keys})
        assert await refused(client, "block_resize", device="x", size=MIB) == "DeviceNotFound"
        assert await refused(client, "block_resize", device="vda", size=-1) == "GenericError"
        assert await refused(client, "set_link", name="vda", up=True) == "DeviceNotFound"
        assert await refused(client, "balloon", value=0) == "GenericError"
        number = [{"type": "number", "data": 0x7FFF}]
        assert await refused(client, "send-key", keys=number) == "GenericError"
        await client.execute("inject-nmi")

    with served(path, devices=devices(tmp_path / "disk")):
        talk(path, change)
    assert (tmp_path / "disk").stat().st_size == 2 * MIB
    with served(path):
        talk(path, no_balloon)


async def no_balloon(client: QMPClient) -> None:
    for command, arguments in (("query-balloon", {}), ("balloon", {"value": MIB})):
        with pytest.raises(ExecuteError) as caught:
            await client.execute(command, arguments)
        assert caught.value.error_class == "DeviceNotActive"


def test_clients_that_misbehave_harm_nobody(path: Path) -> None:
    with served(path) as vm:
        for rubbish in (
            b"[" * 10_000_000,
            b"x" * 100_000_000,
            b'{"execute": "qmp_',
            b"\0{]\n" * 99,
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(rubbish)
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(str(path))
        silent.sendall(CAPABILITIES)

        async def flood(client: QMPClient) -> None:
            for _ in range(3000):
                await client.execute("query-status")
                vm._tell(STOPPED)
            await client.execute("query-status")

        assert len(talk(path, flood)) == 3000
        silent.close()
        vm.serial.write(b"echo alive\r")
        vm.serial.expect(b"alive", timeout=TIMEOUT)


def test_the_socket_is_its_owners(path: Path) -> None:
    with served(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


# ---- the command ----


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    return data


@contextmanager
def running(path: Path, *args: str) -> Iterator[tuple[Running, socket.socket]]:
    """`pyvmm run`, and a client after its negotiation."""
    with Running("--memory", "32M", "--qmp", f"unix:{path}", *args) as process:
        process.expect(b"> ")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(CAPABILITIES)
            while not client.recv(1 << 16).endswith(b'{"return": {}}\r\n'):
                pass
            yield process, client


def test_quit_is_answered_and_the_end_told_before_the_connection_ends(path: Path) -> None:
    with running(path) as (_, client):
        client.sendall(b'{"execute": "quit", "id": "q"}\n')
        said = read_all(client)
    assert b'{"return": {}, "id": "q"}\r\n' in said
    assert b'"reason": "host-qmp-quit"' in said
    assert not path.exists()


def test_a_signal_is_told_as_one(path: Path) -> None:
    with running(path) as (process, client):
        process.process.send_signal(signal.SIGINT)
        assert b'"guest": false, "reason": "host-signal"' in read_all(client)


def test_qmp_shell_works_unchanged(path: Path) -> None:
    def shell(*args: str, lines: str) -> str:
        return subprocess.run(
            [sys.executable, str(SCRIPTS / "qmp-shell"), *args, str(path)],
            input=lines,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "HOME": str(path.parent)},
        ).stdout

    with running(path):
        said = shell("-H", lines="info status\n")
        assert "state: running" in said
        said = shell(lines="query-status\nstop\n\nquery-kvm\nquit\n")
        assert '{"return": {"running": true, "status": "running"}}' in said
        assert "'event': 'STOP'" in said
        assert '{"return": {"enabled": true, "present": true}}' in said


@pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux")
def test_qmp_tui_works_unchanged(path: Path) -> None:
    def tmux(*args: str) -> str:
        server = ["tmux", "-S", str(path.parent / "tmux"), *args]
        return subprocess.run(server, check=True, capture_output=True, text=True).stdout

    def until_shown(text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in (screen := tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, screen
            tmux("send-keys", "Down")  # it draws what has come when a key is pressed

    with running(path):
        command = [sys.executable, str(SCRIPTS / "qmp-tui"), str(path)]
        tmux("-f", os.devnull, "new-session", "-d", "-x", "100", "-y", "50", *command)
        try:
            until_shown("[Connected")
            tmux("send-keys", "-l", '{"execute": "query-kvm"}')
            tmux("send-keys", "M-Enter")
            until_shown('"present": true')
        finally:
            tmux("kill-server")
