"""gdb's protocol as a client speaks it that means no good, or does not know better."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TIMEOUT, machine
from debugging import Stops, debugged, symbol
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm import events
from pyvmm.gdb.packets import encode
from pyvmm.gdb.stub import HANDLERS, Stub


def packet(data: bytes) -> bytes:
    """As gdb sends it: only a stub may shorten runs."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


class Client:
    """A client that does as it is told, and no more."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(str(path))
        self._received = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def expect(self, data: bytes) -> None:
        """The next bytes are these."""
        while len(self._received) < len(data):
            more = self._socket.recv(1000)
            assert more, self._received
            self._received += more
        assert self._received[: len(data)] == data
        self._received = self._received[len(data) :]

    def ask(self, data: bytes) -> bytes:
        """The answer to a packet, with acknowledgements off."""
        self.send(packet(data))
        while b"#" not in self._received[:-2]:
            more = self._socket.recv(1000)
            assert more
            self._received += more
        answer, _, self._received = self._received.partition(b"#")
        self._received = self._received[2:]
        return answer.removeprefix(b"$")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def raw(path: Path) -> Iterator[Client]:
    client = Client(path)
    client.send(packet(b"QStartNoAckMode"))
    client.expect(b"+" + encode(b"OK"))
    yield client
    client.close()


def test_acknowledgements_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count"):
        client = Client(path)
        client.send(b"+$qC#00")
        client.expect(b"-")
        client.send(packet(b"qC"))
        client.expect(b"+" + encode(b"QC1"))
        client.send(b"-")
        client.expect(encode(b"QC1"))
        client.close()


def test_without_acknowledgements_nothing_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count"), raw(path) as client:
        client.send(b"-+-" + packet(b"qC"))
        client.expect(encode(b"QC1"))


def test_an_interrupt_stops_a_guest_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm, raw(path) as client:
        assert client.ask(b"?") == b"T02thread:1;"
        for resume in (b"vCont;c", b"c", b"vCont;C05:1;c"):
            client.send(packet(resume))
            client.send(b"\3")
            client.expect(encode(b"T02thread:1;"))
            assert vm.state == "paused"


def test_a_stop_by_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm, raw(path) as client:
        client.send(packet(b"vCont;c"))
        while vm.state != "running":
            pass
        vm.pause()
        client.expect(encode(b"T02thread:1;"))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", b""),
        (b"vMustReplyEmpty", b""),
        (b"qUnheardOf:x", b""),
        (b"!", b""),
        (b"qSupported:swbreak+;xmlRegisters=i386", None),
        (b"qAttached", b"1"),
        (b"T1", b"OK"),
        (b"T2", b"E03"),
        (b"Tx", b"E22"),
        (b"Hg2", b"E03"),
        (b"Hx1", b"E22"),
        (b"H", b"E22"),
        (b"m", b"E22"),
        (b"m0", b"E22"),
        (b"m-1,4", b"E22"),
        (b"m0x10,4", b"E22"),
        (b"m1000000000000,4", b"E14"),
        (b"mffffffffffffffff,ffffffffffffffff", b"E14"),
        (b"m8000,0", b""),
        (b"M8000,2:00", b"E22"),
        (b"M8000,1:0g", b"E22"),
        (b"M8000,2:0 01", b"E22"),
        (b"X8000,2:a", b"E22"),
        (b"X1000000000000,1:a", b"E14"),
        (b"p", b"E22"),
        (b"pffff", b"E22"),
        (b"P0=00", b"E22"),
        (b"P12=zz", b"E22"),
        (b"P12=3300", b"E22"),
        (b"P12=33000000", b"E05"),
        (b"G00", b"E22"),
        (b"Z", b"E22"),
        (b"Z9,0,1", b"E22"),
        (b"Z0,0", b"E22"),
        (b"Z2,0,0", b"E05"),
        (b"Z2,0,ffffffffffffffff", b"E05"),
        (b"Z2,ffffffffffffffff,8", b"E05"),
        (b"z0,1234,1", b"OK"),
        (b"vCont", b"E22"),
        (b"vCont;x", b"E22"),
        (b"vCont;c:9", b"E03"),
        (b"vCont;t", b"T02thread:1;"),
        (b"cx", b"E22"),
        (b"qXfer:features:read:target.xml:0", b"E22"),
        (b"qXfer:features:read:other.xml:0,10", b""),
        (b"qXfer:features:write:target.xml:0,10", b""),
        (b"qXfer:memory-map:read::ffffff,10", b"l"),
        (b"qRcmd,zz", b"E22"),
        (b"qThreadExtraInfo,9", b"E03"),
    ],
)
def test_rubbish_is_answered_and_does_no_harm(
    tmp_path: Path, data: bytes, answer: bytes | None
) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm, raw(path) as client:
        found = client.ask(data)
        assert answer is None or found == answer
        assert client.ask(b"qC") == b"QC1"
        client.close()
        assert not vm.debugger.points


def test_a_client_that_vanishes_leaves_no_breakpoint(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm:
        resumed = Stops(vm, events.Resumed)
        for _ in range(3):
            with raw(path) as client:
                assert client.ask(b"Z0,%x,1" % symbol("tick")) == b"OK"
                client.send(packet(b"c"))
                client.expect(encode(b"T05thread:1;"))
            resumed.wait()  # by it
            resumed.wait()  # once it is gone
            assert not vm.debugger.points


def test_there_is_one_client_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count"), raw(path) as client:
        other = Client(path)
        with pytest.raises(AssertionError):
            other.expect(b"+")
        other.close()
        assert client.ask(b"qC") == b"QC1"


def test_the_monitor_s_commands_are_gdb_s_too(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm, raw(path) as client:
        assert vm.memory.read(symbol("source"), 2) == b"a "
        command = f"xp /2bx {symbol('source'):#x}".encode().hex().encode()
        said = bytes.fromhex(client.ask(b"qRcmd," + command)[1:].decode()).decode()
        assert said.split()[-2:] == ["0x61", "0x20"]
        client.expect(encode(b"OK"))


ENDS = (b"k", b"vKill", b"D")  # which a client may well say
PACKETS = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.sampled_from([*map(str.encode, HANDLERS)]), st.binary(max_size=30)).map(b"".join),
    st.tuples(
        st.sampled_from([*map(str.encode, HANDLERS)]), st.from_regex(rb"[0-9a-f,;:=x-]{0,40}")
    ).map(b"".join),
)


def test_whatever_a_client_says_the_stub_has_an_answer() -> None:
    with machine("debug", "both", cpus=2) as vm:
        vm.pause()
        stub = Stub(vm, lambda data: None)

        @settings(max_examples=300, deadline=None)
        @given(PACKETS.filter(lambda data: not data.startswith(ENDS)))
        def ask(data: bytes) -> None:
            answer = stub.answer(data)
            assert answer is None or isinstance(answer, bytes)

        ask()
        stub.let_go()
        assert not vm.debugger.points
