"""Lines over a socket: what programs and pipes see of the monitor."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.monitor.plain import LINE_MAX, SIZE_MAX, Lines, Terminal, parse_terminal, serve_plain
from pyvmm.monitor.server import serve
from tests.fakes.monitored import PATIENCE, FakeMachine, Stopwatch, TestSession


class Client:
    """A client's socket, and the thread that serves the other end."""

    def __init__(self, session: TestSession, hello: str = "") -> None:
        self.socket, self._theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.outcome: list[object] = []
        self._thread = threading.Thread(target=self._serve, args=(session, hello))
        self._thread.start()

    def _serve(self, session: TestSession, hello: str) -> None:
        with self._theirs:
            try:
                self.outcome.append(serve_plain(session, self._theirs, hello))
            except OSError as error:
                self.outcome.append(error)

    def ask(self, text: str) -> str:
        """Send text, and read up to the next prompt."""
        self.socket.sendall(text.encode())
        answer = ""
        while not answer.endswith("(pyvmm) "):
            answer += self.socket.recv(4096).decode()
        return answer.removesuffix("(pyvmm) ")

    def rest(self) -> str:
        """Say that there is no more, and read all."""
        self.socket.shutdown(socket.SHUT_WR)
        text = b""
        while data := self.socket.recv(4096):
            text += data
        return text.decode()

    def join(self) -> object:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.outcome[0]

    def close(self) -> None:
        self.socket.close()
        self.join()


@pytest.fixture
def client(session: TestSession) -> Iterator[Client]:
    client = Client(session)
    yield client
    client.close()


def test_a_prompt_comes_at_once_and_after_each_answer(client: Client) -> None:
    assert client.ask("") == ""
    assert client.ask("info status\n") == "name:  fake\nstate: running\n"
    assert client.ask("stop\n") == ""
    assert client.ask("\n") == ""
    assert client.ask("stpo\r\n") == "Error: There is no command 'stpo'; did you mean 'stop'?\n"


def test_without_prompts_there_are_only_answers(session: TestSession) -> None:
    for hello, lines in (("prompt off", ""), ("", "prompt off\n")):
        client = Client(session, hello)
        client.socket.sendall(f"{lines}info status\nfail\nstop".encode())
        answers = client.rest().removeprefix("(pyvmm) ").splitlines()
        assert answers[:2] == ["name:  fake", "state: running"]
        assert answers[2].startswith("Error: fail failed by a mistake")
        assert len(answers) == 3
        client.close()


def test_a_last_line_without_a_newline_counts(client: Client, machine: FakeMachine) -> None:
    client.socket.sendall(b"stop\ncont")
    client.rest()
    assert machine.asked == ["pause", "resume"]


def test_what_a_guest_wrote_cannot_steer_a_terminal(client: Client) -> None:
    client.ask("")
    assert client.ask("evil\n") == "ab�2Jc�d�\n"


def test_a_live_result_is_shown_once(client: Client, watch: Stopwatch) -> None:
    client.ask("")
    assert client.ask("count\n") == "shown: 1\nstate: running\n"
    assert watch.shown == 1


def test_a_line_that_is_too_long_ends_the_client_alone(session: TestSession) -> None:
    client = Client(session)
    flood = threading.Thread(target=_flood, args=(client.socket,))
    flood.start()
    assert f"more than {LINE_MAX} bytes" in str(client.join())
    flood.join()
    client.close()


def _flood(client: socket.socket) -> None:
    try:
        for _ in range(100):
            client.sendall(b"x" * LINE_MAX)
    except OSError:
        pass


def test_a_client_that_goes_interrupts_its_command(session: TestSession, watch: Stopwatch) -> None:
    client = Client(session)
    client.ask("")
    client.socket.sendall(b"wait\n")
    assert watch.begun.wait(PATIENCE)
    client.close()
    assert watch.interrupted.is_set()


def test_the_end_of_the_machine_ends_the_client_and_its_command(machine: FakeMachine) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=serve, args=(machine, theirs))
        thread.start()
        assert ours.recv(100) == b"(pyvmm) "
        machine.finish()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not machine.watched


def test_a_terminal_is_told_apart_with_what_it_has_typed(session: TestSession) -> None:
    client = Client(session)
    client.socket.sendall(b"terminal 24 80 xterm-256color\ninfo st")
    assert client.join() == Terminal(24, 80, "xterm-256color", b"info st")
    client.close()


@pytest.mark.parametrize(
    ("line", "terminal"),
    [
        ("terminal 50 132 tmux", Terminal(50, 132, "tmux")),
        ("terminal 0 999999 x", Terminal(1, SIZE_MAX, "x")),
        ("terminal 50 132 a b", None),
        ("terminal -1 80 x", None),
        ("terminal", None),
    ],
)
def test_a_terminal_is_described_in_bounds(line: str, terminal: Terminal | None) -> None:
    assert parse_terminal(line) == terminal


class Pieces:
    """A socket that gives bytes in the pieces that a test chose."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [*filter(None, pieces), b""]

    def recv(self, size: int) -> bytes:
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b"\r\n", b"stop\n"])))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces).split(b"\n")
    expected = [line.decode("utf-8", "replace").strip() for line in whole]
    if not whole[-1]:
        del expected[-1]
    assert list(Lines(Pieces(pieces))) == expected  # type: ignore[arg-type]


@given(st.text())
def test_no_line_is_a_terminal_by_mistake(line: str) -> None:
    terminal = parse_terminal(line)
    assert terminal is None or (1 <= terminal.rows <= SIZE_MAX and line.startswith("terminal "))
