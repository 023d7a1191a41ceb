from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyvmm import Machine
from pyvmm.endpoint import Endpoint
from pyvmm.events import BalloonChanged, BlockError, Event, Stopped
from pyvmm.loop import Loop, Timer
from pyvmm.qmp.client import Client
from pyvmm.qmp.server import Qmp


class Clock(Loop):
    """A loop whose time passes when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], object]] = []

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.due.append(callback)
        return Timer(callback)

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Recorder:
    """A client."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.event = self.told.append

    def leave(self) -> None:
        pass

    def take(self) -> list[Any]:
        """What was told since the last time, by its data."""
        told = [event.get("data", event["event"]) for event in self.told]
        self.told.clear()
        return told


class Setting:
    """A front end with one client, on a machine of which there are only the events."""

    def __init__(self, path: Path) -> None:
        self.loop = Clock()
        self.client = Recorder()
        self.listeners: list[Callable[[Event], object]] = []

        def listen(listener: Callable[[Event], object]) -> Callable[[], None]:
            self.listeners.append(listener)
            return self.listeners.clear

        machine = SimpleNamespace(loop=self.loop, listen=listen)
        self.qmp = Qmp(cast(Machine, machine), Endpoint(path=str(path)))
        self.qmp._clients = [cast(Client, self.client)]

    def tell(self, *events: Event) -> None:
        for event in events:
            self.listeners[0](event)

    def close(self) -> None:
        self.qmp.close()
        assert not self.listeners
        self.loop.close()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path / "qmp")
    yield setting
    setting.close()


def sizes(*actual: int) -> list[BalloonChanged]:
    return [BalloonChanged(one) for one in actual]


def test_what_a_guest_can_cause_is_told_once_an_interval_with_the_last_state(
    setting: Setting,
) -> None:
    setting.tell(*sizes(1, 2, 3))
    assert setting.client.take() == [{"actual": 1}]
    setting.loop.pass_time()
    assert setting.client.take() == [{"actual": 3}]
    setting.tell(*sizes(4))
    assert setting.client.take() == []
    setting.loop.pass_time()
    assert setting.client.take() == [{"actual": 4}]
    setting.loop.pass_time()
    assert not setting.loop.due
    setting.tell(*sizes(5))
    assert setting.client.take() == [{"actual": 5}]


def test_one_disk_does_not_keep_back_the_errors_of_another(setting: Setting) -> None:
    setting.tell(*(BlockError(name, "read", "bad", False) for name in ("vda", "vdb", "vda")))
    assert [data["device"] for data in setting.client.take()] == ["vda", "vdb"]


def test_what_the_host_does_is_told_each_time_with_its_time(setting: Setting) -> None:
    setting.tell(*[Stopped("paused")] * 3)
    stamp = setting.client.told[0]["timestamp"]
    assert stamp["seconds"] > 1_700_000_000
    assert 0 <= stamp["microseconds"] < 1_000_000
    assert setting.client.take() == ["STOP"] * 3
