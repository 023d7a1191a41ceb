from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm import Machine
from pyvmm.qmp.client import Client
from pyvmm.qmp.commands import TABLE
from pyvmm.qmp.events import DATA
from pyvmm.qmp.outbox import WAITING_MAX
from pyvmm.qmp.schema import Schema
from pyvmm.qmp.server import Qmp
from tests.fakes import qapi

TIMEOUT = 20.0
DOCUMENT = Path(__file__).parents[3] / "docs/qmp.md"
CAPABILITIES = b'{"execute": "qmp_capabilities"}\n'
HARMLESS = ("query-status", "query-name", "query-uuid", "query-commands", "set_link", "memsave")


class Peer:
    """The other end of a client, of a machine that is not open."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(TIMEOUT)
        self._file = self.socket.makefile("rb")
        server = cast(Qmp, SimpleNamespace(machine=Machine(memory="16M", name="closed")))
        self.client = Client(server, theirs)
        self._theirs = theirs
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        self.greeting = self.read()

    def _serve(self) -> None:
        with self._theirs, suppress(OSError):  # the peer has gone
            self.client.serve()

    def read(self) -> Any:
        line = self._file.readline()
        assert line.endswith(b"\r\n")
        return json.loads(line)

    def ask(self, text: str | bytes) -> Any:
        self.socket.sendall(text if isinstance(text, bytes) else text.encode() + b"\n")
        return self.read()

    def close(self) -> None:
        self.socket.close()
        self._file.close()
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()


@pytest.fixture
def fresh() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def peer(fresh: Peer) -> Peer:
    assert fresh.ask(CAPABILITIES) == {"return": {}}
    return fresh


def error_of(answer: Any) -> tuple[str, str]:
    return answer["error"]["class"], answer["error"]["desc"]


def test_the_greeting_has_qemus_shape_and_says_that_it_is_not_qemu(fresh: Peer) -> None:
    version = fresh.greeting["QMP"]["version"]
    assert set(version["qemu"]) == {"major", "minor", "micro"}
    assert "pyvmm" in version["package"]
    assert "not QEMU" in version["package"]
    assert fresh.greeting["QMP"]["capabilities"] == []


def test_no_command_is_known_before_the_negotiation_and_no_other_after_it(fresh: Peer) -> None:
    kind, text = error_of(fresh.ask('{"execute": "query-status", "id": 7}'))
    assert kind == "CommandNotFound"
    assert "qmp_capabilities" in text
    offer = '{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
    assert error_of(fresh.ask(offer))[0] == "GenericError"
    assert fresh.ask(CAPABILITIES) == {"return": {}}
    assert error_of(fresh.ask(CAPABILITIES))[0] == "CommandNotFound"
    assert fresh.ask('{"execute": "query-name"}') == {"return": {"name": "closed"}}


def test_no_event_comes_before_the_negotiation(fresh: Peer) -> None:
    fresh.client.event({"event": "STOP"})
    assert fresh.ask(CAPABILITIES) == {"return": {}}
    assert "return" in fresh.ask('{"execute": "query-name"}')
    fresh.client.event({"event": "RESUME"})
    assert fresh.read() == {"event": "RESUME"}


@pytest.mark.parametrize("value", [1, "a", None, {"a": [1.5, None]}, [], 10**40, "\u20ac\\ud800"])
def test_an_id_comes_back_as_it_was(peer: Peer, value: Any) -> None:
    for command in ("query-name", "query-nothing"):
        answer = peer.ask(json.dumps({"execute": command, "id": value}))
        assert answer["id"] == value


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("[1]", "GenericError", "must be a JSON object"),
        ('"x"', "GenericError", "must be a JSON object"),
        ("{}", "GenericError", "lacks member 'execute'"),
        ('{"execute": 1}', "GenericError", "'execute' must be a string"),
        ('{"execute": "stop", "foo": 1}', "GenericError", "'foo' is unexpected"),
        ('{"exec-oob": "stop"}', "GenericError", "'exec-oob' is unexpected"),
        ('{"execute": "stop", "arguments": 1}', "GenericError", "must be an object"),
        ('{"execute": "stop", "arguments": {"x": 1}}', "GenericError", "'x' is unexpected"),
        ('{"execute": "nosuch"}', "CommandNotFound", "nosuch has not been found"),
        ("{]", "GenericError", "JSON parse error"),
    ],
)
def test_what_is_no_command_is_refused_as_qemu_does(
    peer: Peer, message: str, kind: str, text: str
) -> None:
    found, desc = error_of(peer.ask(message))
    assert found == kind
    assert text in desc
    assert "return" in peer.ask('{"execute": "query-name"}')


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("memsave", {"val": 1}, "'size' is missing"),
        ("memsave", {"val": "x", "size": 1, "filename": "f"}, "'val', expected: integer"),
        ("memsave", {"val": True, "size": 1, "filename": "f"}, "'val', expected: integer"),
        ("memsave", {"val": 1 << 64, "size": 1, "filename": "f"}, "64 bits"),
        ("memsave", {"val": 1, "size": 1, "filename": "f", "cpu-index": 1}, "must be 0 to 0"),
        ("pmemsave", {"val": -1, "size": 1, "filename": "f"}, "range"),
        ("pmemsave", {"val": 1, "size": 1, "filename": "a\0b"}, "printable"),
        ("set_link", {"name": "n", "up": 1}, "'up', expected: boolean"),
        ("send-key", {"keys": 1}, "'keys', expected: array"),
        ("send-key", {"keys": [1]}, "'keys[0]', expected: object"),
        ("send-key", {"keys": [{"data": 1}]}, "'keys[0].type' is missing"),
        ("send-key", {"keys": [{"type": "x", "data": 1}]}, "does not accept value 'x'"),
        ("send-key", {"keys": [{"type": "qcode", "data": "no"}]}, "does not accept value 'no'"),
        ("send-key", {"keys": [{"type": "number", "data": "1"}]}, "expected: integer"),
        ("dump-guest-memory", {"paging": False, "protocol": "fd:1"}, "file:PATH"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(
    peer: Peer, command: str, arguments: dict[str, Any], text: str
) -> None:
    kind, desc = error_of(peer.ask(json.dumps({"execute": command, "arguments": arguments})))
    assert kind == "GenericError"
    assert text in desc


def test_the_console_has_its_own_errors_as_text(peer: Peer) -> None:
    line = {"command-line": "inof status"}
    answer = peer.ask(json.dumps({"execute": "human-monitor-command", "arguments": line}))
    assert "info status" in answer["return"]
    assert answer["return"].endswith("\r\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda name, arguments: json.dumps(
                    {"execute": name, "arguments": arguments}
                ).encode(),
                st.sampled_from(HARMLESS),
                st.dictionaries(
                    st.sampled_from(["name", "up", "val", "size", "filename", "x"]),
                    st.none() | st.booleans() | st.integers() | st.text() | st.just([[]]),
                ),
            ),
        ),
        max_size=5,
    )
)
def test_whatever_is_sent_the_client_is_served_on(peer: Peer, pieces: list[bytes]) -> None:
    closing = b'\n"\n' + b"]" * sum(map(len, pieces))  # ends whatever had begun
    peer.socket.sendall(
        b"\n".join(pieces) + closing + b'\n{"execute": "query-uuid", "id": "end"}\n'
    )
    while (answer := peer.read()).get("id") != "end":
        assert answer.keys() & {"return", "error"}
    assert "return" in answer


def test_a_client_that_reads_no_events_is_let_go_and_nobody_waits_for_it(peer: Peer) -> None:
    assert "return" in peer.ask('{"execute": "query-name"}')
    event = {"event": "STOP", "data": "x" * 1000}
    for _ in range(WAITING_MAX * 3):
        peer.client.event(event)
    peer.thread.join(TIMEOUT)
    assert not peer.thread.is_alive()


def test_a_client_that_reads_no_answers_keeps_only_itself_from_more(peer: Peer) -> None:
    peer.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.socket.sendall(b'{"execute": "query-qmp-schema"}\n' * 100_000)
    assert len(peer.client._outbox._waiting) <= 1


def test_a_mistake_in_a_command_is_an_answer(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(client: Client) -> None:
        raise ZeroDivisionError

    command = TABLE["query-uuid"].replace(function=fail)
    monkeypatch.setitem(cast(dict[str, object], TABLE), "query-uuid", command)
    kind, text = error_of(peer.ask('{"execute": "query-uuid"}'))
    assert (kind, "log" in text) == ("GenericError", True)
    assert "return" in peer.ask('{"execute": "query-name"}')


def test_who_has_to_leave_does_so_with_the_command_that_runs(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def work(client: Client) -> None:
        begun.set()
        while True:
            client.session.check()

    command = TABLE["query-uuid"].replace(function=work)
    monkeypatch.setitem(cast(dict[str, object], TABLE), "query-uuid", command)
    peer.socket.sendall(b'{"execute": "query-uuid"} {"execute": "query-name"}')
    assert begun.wait(TIMEOUT)
    peer.client.leave()
    assert error_of(peer.read()) == ("GenericError", "Interrupted")
    assert peer.socket.recv(1) == b""


def test_the_schema_has_every_command_and_is_true_of_itself(peer: Peer) -> None:
    entries = peer.ask('{"execute": "query-qmp-schema"}')["return"]
    schema = qapi.Schema(entries)
    schema.check_result("query-qmp-schema", entries)
    assert schema.names("command") == set(TABLE)
    assert schema.names("event") == {
        *("STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "GUEST_PANICKED"),
        *("BLOCK_IO_ERROR", "BALLOON_CHANGE"),
    }
    for entry in entries:
        uses = [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
        uses += [member["type"] for member in entry.get("members", ()) if "type" in member]
        uses += [variant["type"] for variant in entry.get("variants", ())]
        assert set(uses) <= schema.entries.keys()


@pytest.mark.parametrize("name", sorted([*TABLE, *DATA]))
def test_the_document_has_every_command_and_event(name: str) -> None:
    assert f"`{name}`" in DOCUMENT.read_text()


def test_types_of_one_name_are_one_type() -> None:
    described: list[dict[str, Any]] = []

    class Recorder(Schema):
        def add(self, name: str, **entry: Any) -> str:
            described.append({"name": name, **entry})
            return super().add(name, **entry)

    schema: Callable[[], Schema] = Recorder
    one = schema()
    for command in TABLE.values():
        command.describe(one)
    for entry in described:
        if entry["meta-type"] in ("enum", "array", "builtin"):
            assert one.entries[entry["name"]] == entry
