"""A worker: calls from other threads, and what a mistake in one of its callbacks costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm.worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("disk")
    yield worker
    worker.close()


def test_a_call_runs_on_the_thread_that_bears_its_name(worker: Worker) -> None:
    names: list[str] = []
    worker.call(lambda: names.append(threading.current_thread().name))
    assert names == ["disk"]


def test_a_call_on_its_own_thread_is_a_call(worker: Worker) -> None:
    done: list[int] = []
    worker.call(lambda: worker.call(lambda: done.append(1)))
    assert done == [1]


def test_what_a_call_raises_reaches_the_caller(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    worker.call(lambda: None)


def test_a_mistake_in_a_callback_is_logged_and_costs_nothing_else(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def both() -> None:  # in one round of the loop
        worker.loop.call_soon(lambda: 1 // 0)
        worker.loop.call_soon(lambda: done.append(1))

    worker.call(both)
    worker.call(lambda: None)
    assert done == [1]
    assert "A mistake in the code of disk" in caplog.text
    assert "ZeroDivisionError" in caplog.text
