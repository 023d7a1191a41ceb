from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from pyvmm.errors import UsageError
from pyvmm.inspection.backtrace import Frame
from pyvmm.inspection.log import LogLine
from pyvmm.inspection.tasks import Task
from pyvmm.monitor.commands.kernel import Frames
from pyvmm.monitor.session import Session

LOG = [
    LogLine(0, 0, 5, "Linux version 6.1.0"),
    LogLine(1, 1_234_567_899, 6, "two\nlines \x1b[31mred"),
    LogLine(2, 12345_000_001_000, 3, "an error"),
]
SH = Task(
    pid=7, parent=1, state="S", cpu=1, resident=5 << 12, threads=2, kernel=False, name="s\x1bh"
)
KTHREADD = Task(
    pid=2, parent=0, state="I", cpu=0, resident=0, threads=1, kernel=True, name="kthreadd"
)


@pytest.fixture
def session():
    guest = SimpleNamespace(log=LOG, read_tasks=lambda check: [KTHREADD, SH])
    return Session(SimpleNamespace(guest=guest, paused=nullcontext))


def test_dmesg_looks_as_the_guests_own(session):
    assert str(session.execute("dmesg")).splitlines() == [
        "[    0.000000] Linux version 6.1.0",
        "[    1.234567] two",
        "[    1.234567] lines red",
        "[12345.000001] an error",
    ]


@pytest.mark.parametrize(
    ("level", "count"), [("err", 1), ("3", 1), ("notice", 2), ("7", 3), ("emerg", 0)]
)
def test_dmesg_shows_what_is_as_urgent_as_its_level(session, level, count):
    assert len(session.execute(f"dmesg {level}").data) == count


@pytest.mark.parametrize("level", ["8", "-1", "errors", "99999999999999999999"])
def test_a_level_that_is_none_is_refused(session, level):
    with pytest.raises(UsageError, match="It must be emerg or alert"):
        session.execute(f"dmesg {level}")


def test_a_log_without_times_is_shown_without(session):
    session.machine.guest.log = [LogLine(0, None, None, "early")]
    assert str(session.execute("dmesg err")) == "early"


def test_dmesg_gives_data(session):
    assert session.execute("dmesg").data[2] == {
        "seq": 2,
        "timestamp_ns": 12345_000_001_000,
        "level": 3,
        "text": "an error",
    }


def test_ps_is_a_table_that_shows_nothing_unprintable(session):
    shown = session.execute("ps")
    assert shown.data[0]["name"] == "[kthreadd]"
    assert shown.data[1]["KiB"] == 20
    assert "\x1b" not in str(shown)


def test_frames_say_what_is_a_guess_and_what_user_mode():
    frames = Frames(
        [
            (Frame(0xFFFFFFFF81000010, behind_call=False), "f+0x10/0x20"),
            (Frame(0xFFFFFFFF81000110, behind_call=True, sure=False), "g+0x10/0x20"),
            (Frame(0x401000, behind_call=False, user=True), None),
        ]
    )
    assert str(frames).splitlines() == [
        "#0   0xffffffff81000010 f+0x10/0x20",
        "#1   0xffffffff81000110 ? g+0x10/0x20",
        "#2   0x0000000000401000 in user mode",
    ]
    assert frames.data[1]["sure"] is False
