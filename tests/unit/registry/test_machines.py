"""Finding the machines of other processes, where some have died and some do not answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import HostError, UsageError
from pyvmm.loop import start_thread
from pyvmm.registry import machines, protocol
from pyvmm.registry.machines import RunningMachine, find, running
from pyvmm.registry.protocol import LINE_MAX, read_line

FIELDS = {
    "own_process": True,
    "started": 1.0,
    "kernel": None,
    "memory": 1 << 20,
    "cpus": 1,
    "sockets": {},
}
NO_PID = (1 << 22) + 1  # beyond the largest that Linux gives


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory of entries."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "pyvmm").mkdir(0o700)
    return tmp_path / "pyvmm"


class FakeMachine:
    """An entry, and a control socket that says what it is told to."""

    def __init__(self, directory: Path, name: str, pid: int, said: bytes | None = None) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / f"{pid}.sock"))
        self.listener.listen()
        self.requests: list[str] = []
        (directory / f"{pid}.json").write_text(
            json.dumps({"name": name, "id": str(pid), "pid": pid, **FIELDS})
        )
        if said is not None:
            start_thread("fake", self._serve, said)

    def _serve(self, said: bytes) -> None:
        while True:
            client, _ = self.listener.accept()
            with client:
                if request := read_line(client):
                    self.requests.append(request)
                    client.sendall(said)


@pytest.fixture
def two(directory: Path) -> Iterator[None]:
    """Machines `web` and `mail`, as processes 1 and 2."""
    both = FakeMachine(directory, "web", 1), FakeMachine(directory, "mail", 2)
    yield
    for one in both:
        one.listener.close()


def test_without_a_directory_nothing_runs(directory: Path) -> None:
    directory.rmdir()
    assert running() == []


@pytest.mark.parametrize("text", ["web", "1"])
def test_a_machine_is_found_by_its_name_and_its_process(two: None, text: str) -> None:
    assert find(text) == RunningMachine("web", "1", 1, **FIELDS)


def test_a_machine_that_is_not_there_has_a_neighbour(two: None) -> None:
    with pytest.raises(UsageError) as caught:
        find("wen")
    said = str(caught.value)
    assert said.startswith("There is no machine 'wen'; did you mean 'web'? There are ")
    assert "web (1)" in said
    assert "mail (2)" in said


def test_a_name_like_no_other_lists_those_there_are(two: None) -> None:
    with pytest.raises(UsageError, match=r"no machine 'xyz'; there are .*web"):
        find("xyz")


def test_nothing_is_found_where_nothing_runs(directory: Path) -> None:
    with pytest.raises(UsageError, match="'web'; none is running"):
        find("web")


def test_two_of_one_name_are_told_apart_by_their_processes(directory: Path, two: None) -> None:
    third = FakeMachine(directory, "web", 3)
    with pytest.raises(UsageError, match="There are 2 machines 'web'; say which: "):
        find("web")
    assert find("3").pid == 3
    third.listener.close()


def test_what_a_killed_process_left_is_removed(directory: Path, two: None) -> None:
    FakeMachine(directory, "dead", NO_PID).listener.close()
    assert {one.name for one in running()} == {"web", "mail"}
    assert sorted(os.listdir(directory)) == ["1.json", "1.sock", "2.json", "2.sock"]


def test_an_entry_whose_number_another_process_has_is_no_machine(directory: Path) -> None:
    FakeMachine(directory, "dead", os.getpid()).listener.close()
    assert running() == []
    assert not (directory / f"{os.getpid()}.json").exists()


def test_what_was_left_half_made_is_removed_once_its_process_has_gone(directory: Path) -> None:
    for name in (f".{NO_PID}", f"{NO_PID}.sock", f"{NO_PID}.2.sock", f"{os.getpid()}.2.sock"):
        (directory / name).touch()
    assert running() == []
    assert os.listdir(directory) == [f"{os.getpid()}.2.sock"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1}', "\0", "9" * 100])
def test_a_file_that_is_no_entry_is_passed_over(directory: Path, two: None, text: str) -> None:
    (directory / "5.json").write_text(text)
    assert len(running()) == 2


def test_a_machine_says_why_not(directory: Path) -> None:
    fake = FakeMachine(directory, "web", 1, b"Not today\n")
    with pytest.raises(HostError, match=r"^Not today$"):
        find("web").connect("console")
    assert fake.requests == ["console"]


@pytest.mark.parametrize("said", [b"", b"x" * (LINE_MAX + 1)])
def test_a_machine_that_hangs_up_has_ended(directory: Path, said: bytes) -> None:
    FakeMachine(directory, "web", 1, said)
    with pytest.raises(HostError, match=r"web \(1\) has ended"):
        find("web").connect("console")


def test_an_answer_that_is_none_is_an_error(directory: Path) -> None:
    FakeMachine(directory, "web", 1, b"ok\n{")
    with pytest.raises(HostError, match=r"web \(1\) has not answered"):
        find("web").ask("stat")


def test_a_machine_that_is_stopped_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, two: None
) -> None:
    for module in (machines, protocol):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    with pytest.raises(HostError, match=r"web \(1\) does not answer"):
        find("web").connect("console")
    assert find("web").state == "unknown"


def test_a_machine_with_a_crowd_at_its_door_is_still_listed(directory: Path) -> None:
    fake = FakeMachine(directory, "web", 1)
    fake.listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(str(directory / "1.sock"))
    assert [one.name for one in running()] == ["web"]
    with pytest.raises(HostError, match="does not answer"):
        find("web").connect("stat")
    for one in (*waiting, fake.listener):
        one.close()


def test_what_follows_the_line_stays_in_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"ok\nmore")
        assert read_line(ours) == "ok"
        assert ours.recv(10) == b"more"


def test_a_line_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"sta")
        with pytest.raises(TimeoutError):
            read_line(ours)
