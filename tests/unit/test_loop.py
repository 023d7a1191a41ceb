"""The event loop: descriptors, timers and calls from other threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.loop import WRITE, Loop


class TestLoop(Loop):
    """Its time goes on only when the test says so."""

    __test__ = False
    time = 100.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def loop() -> Iterator[TestLoop]:
    loop = TestLoop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def turn(loop: Loop) -> None:
    """Do all that is due now."""
    loop.call_soon(loop.stop)
    loop.run()


def test_calls_are_made_in_order_on_the_loops_thread(loop: TestLoop) -> None:
    calls: list[object] = []
    loop.call_soon(lambda: calls.append(1))
    loop.call_soon(lambda: calls.append(threading.get_ident()))
    turn(loop)
    assert calls == [1, threading.get_ident()]


def test_a_call_from_another_thread_wakes_the_loop(loop: TestLoop) -> None:
    caller = threading.Thread(target=lambda: loop.call_soon(loop.stop))
    caller.start()
    loop.run()
    caller.join()


def test_a_call_made_by_a_call_is_made_too(loop: TestLoop) -> None:
    loop.call_soon(lambda: loop.call_soon(loop.stop))
    loop.run()


def test_a_readable_descriptor_calls_back_until_it_is_read(
    loop: TestLoop, pipe: tuple[int, int]
) -> None:
    calls = []
    loop.watch(pipe[0], lambda: calls.append(1))
    turn(loop)
    assert calls == []
    os.write(pipe[1], b"x")
    turn(loop)
    turn(loop)
    assert len(calls) >= 2
    os.read(pipe[0], 1)
    calls.clear()
    turn(loop)
    assert calls == []


def test_a_writable_descriptor_calls_back(loop: TestLoop, pipe: tuple[int, int]) -> None:
    loop.watch(pipe[1], loop.stop, WRITE)
    loop.run()


def test_a_second_watch_takes_the_place_of_the_first(loop: TestLoop, pipe: tuple[int, int]) -> None:
    calls = []
    loop.watch(pipe[0], lambda: calls.append("first"))
    loop.watch(pipe[0], lambda: calls.append("second"))
    os.write(pipe[1], b"x")
    turn(loop)
    assert set(calls) == {"second"}


def test_an_unwatched_descriptor_calls_nobody(loop: TestLoop, pipe: tuple[int, int]) -> None:
    calls = []
    loop.watch(pipe[0], lambda: calls.append(1))
    loop.unwatch(pipe[0])
    loop.unwatch(pipe[0])
    os.write(pipe[1], b"x")
    turn(loop)
    assert calls == []


def test_a_callback_may_unwatch_another_that_is_ready_too(
    loop: TestLoop, pipe: tuple[int, int]
) -> None:
    """Both are reported by one wait; the second must not be called with what is gone."""
    calls: list[str] = []
    other = os.pipe()

    def first() -> None:
        calls.append("one")
        loop.unwatch(pipe[0])
        loop.unwatch(other[0])

    loop.watch(pipe[0], first)
    loop.watch(other[0], first)
    os.write(pipe[1], b"x")
    os.write(other[1], b"x")
    turn(loop)
    assert calls == ["one"]
    for end in other:
        os.close(end)


def test_a_file_cannot_be_watched(loop: TestLoop) -> None:
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        loop.watch(file.fileno(), loop.stop)


def test_timers_run_in_the_order_of_their_times_once_they_are_due(loop: TestLoop) -> None:
    calls = []
    loop.call_at(103.0, lambda: calls.append("late"))
    loop.call_at(101.0, lambda: calls.append("early"))
    loop.call_at(101.0, lambda: calls.append("early, but second"))
    turn(loop)
    assert calls == []
    loop.time = 102.0
    turn(loop)
    assert calls == ["early", "early, but second"]
    loop.time = 103.0
    turn(loop)
    assert calls[2:] == ["late"]


def test_a_cancelled_timer_does_not_run(loop: TestLoop) -> None:
    calls = []
    timer = loop.call_at(101.0, lambda: calls.append(1))
    timer.cancel()
    timer.cancel()
    loop.time = 102.0
    turn(loop)
    assert calls == []


def test_a_timer_wakes_the_loop_by_itself() -> None:
    loop = Loop()
    loop.call_at(loop.now(), loop.stop)
    loop.run()
    loop.close()


def test_an_earlier_timer_from_another_thread_is_not_slept_over() -> None:
    loop = Loop()
    far = loop.call_at(loop.now() + 3600, lambda: None)
    caller = threading.Thread(target=lambda: loop.call_at(loop.now(), loop.stop))
    caller.start()
    loop.run()
    caller.join()
    far.cancel()
    loop.close()


def test_stop_before_run_makes_it_return_at_once_and_it_can_run_again(loop: TestLoop) -> None:
    loop.stop()
    loop.run()
    turn(loop)


def test_closing_gives_both_descriptors_back() -> None:
    before = os.listdir("/proc/self/fd")
    Loop().close()
    assert os.listdir("/proc/self/fd") == before
