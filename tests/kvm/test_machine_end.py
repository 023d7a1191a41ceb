"""How a machine's life can end for those who wait for it, and a machine that is used wrongly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from command import program

from pyvmm import Linux, Machine, ends
from pyvmm.errors import HostError, PyvmmError, UsageError

PATIENCE = 30.0  # seconds for what takes milliseconds: only a lost event takes longer
PROMPT = b"\r\n> "


class Waiting:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._outcome: list[object] = []
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self._outcome.append(call())
        except BaseException as error:
            self._outcome.append(error)

    @property
    def outcome(self) -> object:
        self._thread.join(PATIENCE)
        assert self._outcome, "the call never came back"
        return self._outcome[0]


@pytest.fixture
def built_in() -> Iterator[Machine]:
    """The built-in guest at its prompt."""
    with Machine(memory="16M") as vm:
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        yield vm


def test_who_expects_output_learns_that_the_guest_ended(built_in: Machine) -> None:
    waiting = Waiting(lambda: built_in.serial.expect(b"never", 2 * PATIENCE))
    built_in.serial.write(b"poweroff\r")
    assert "guest ended before the guest wrote b'never'" in str(waiting.outcome)
    assert str(waiting.outcome).endswith("its end is PoweredOff()")
    assert built_in.wait(PATIENCE) == ends.PoweredOff()


def test_output_from_before_the_end_can_still_be_expected(built_in: Machine) -> None:
    built_in.serial.write(b"echo last words\rpoweroff\r")
    built_in.wait(PATIENCE)
    assert built_in.serial.expect(b"last words\r\n", 0)


def test_closing_ends_the_wait_of_others() -> None:
    with Machine(memory="16M") as vm:
        vm.start()
        waiting = Waiting(vm.wait)
        expecting = Waiting(lambda: vm.serial.expect(b"never", 2 * PATIENCE))
        vm.serial.expect(PROMPT, PATIENCE)
    assert waiting.outcome == ends.Quit()
    assert isinstance(expecting.outcome, PyvmmError)
    assert vm.wait() == ends.Quit()


def test_a_wait_before_the_start_is_refused() -> None:
    vm = Machine(memory="16M")
    with pytest.raises(UsageError, match="must be started"):
        vm.wait()
    with vm, pytest.raises(UsageError, match="must be started"):
        vm.wait()


def test_a_second_start_is_refused(built_in: Machine) -> None:
    for start in (built_in.start, built_in.run):
        with pytest.raises(UsageError, match="started already"):
            start()


def test_a_second_open_is_refused_and_a_second_close_is_not() -> None:
    with Machine(memory="16M") as vm:
        with pytest.raises(UsageError, match="open already"):
            vm.open()
        vm.close()
        vm.close()


@pytest.mark.parametrize(
    "use",
    ["start", "run", "pause", "resume", "power_button", "reset", "exit_counts", "diagnose"],
)
def test_a_machine_that_is_not_open_refuses(use: str) -> None:
    vm = Machine(memory="16M")
    for _ in range(2):
        with pytest.raises(UsageError, match="not open"):
            getattr(vm, use)()
        with vm:
            pass


@pytest.mark.parametrize("request_name", ["quit", "reset"])
def test_what_is_asked_for_before_the_start_comes_first(request_name: str) -> None:
    with Machine(memory="16M") as vm:
        getattr(vm, request_name)()
        vm.start()
        if request_name == "quit":
            assert vm.wait(PATIENCE) == ends.Quit()
            assert not vm.run_state.running
        else:
            vm.serial.expect(PROMPT, PATIENCE)


def test_a_pause_before_the_start_does_not_outlive_it() -> None:
    with Machine(memory="16M") as vm:
        vm.pause()
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        vm.reset()
        vm.serial.expect(PROMPT, PATIENCE)


def test_a_quit_is_not_lost_to_a_reset_that_goes_on(built_in: Machine) -> None:
    """The loop is held where the reset begins, so that the quit comes between."""
    reset, held, go_on = built_in.board.reset, threading.Event(), threading.Event()

    def slow() -> None:
        held.set()
        assert go_on.wait(PATIENCE)
        reset()

    built_in.board.reset = slow  # type: ignore[method-assign]
    built_in.reset()
    assert held.wait(PATIENCE)
    built_in.quit()
    go_on.set()
    assert built_in.wait(PATIENCE) == ends.Quit()


def test_a_pause_holds_through_a_reset(built_in: Machine) -> None:
    reset, held, go_on = built_in.board.reset, threading.Event(), threading.Event()

    def slow() -> None:
        reset()
        held.set()
        assert go_on.wait(PATIENCE)

    built_in.board.reset = slow  # type: ignore[method-assign]
    built_in.reset()
    assert held.wait(PATIENCE)
    built_in.pause()
    go_on.set()
    with pytest.raises(TimeoutError):
        built_in.serial.expect(PROMPT, 0.2)
    assert built_in.state == "paused"
    built_in.resume()
    built_in.serial.expect(PROMPT, PATIENCE)


def test_nobody_can_resume_a_machine_that_another_looks_into(built_in: Machine) -> None:
    """A vCPU that runs keeps its registers from who asks for them, for ever if it spins."""
    with built_in.paused():
        built_in.resume()
        with built_in.paused():
            pass
        assert built_in.state == "paused"
    assert built_in.state == "running"


def test_a_fault_in_a_device_model_surfaces_in_wait(built_in: Machine) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("injected")

    built_in.board.rtc.read = broken
    expecting = Waiting(lambda: built_in.serial.expect(b"never", 2 * PATIENCE))
    built_in.serial.write(b"time\r")
    with pytest.raises(ZeroDivisionError, match="injected"):
        built_in.wait(PATIENCE)
    assert isinstance(expecting.outcome, PyvmmError)
    built_in.resume()
    assert built_in.state == "paused"


def test_a_fault_on_the_loops_thread_surfaces_in_wait(built_in: Machine) -> None:
    def broken() -> None:
        raise ZeroDivisionError("injected")

    built_in.loop.call_soon(broken)
    with pytest.raises(ZeroDivisionError, match="injected"):
        built_in.wait(PATIENCE)


def test_a_fault_on_the_loops_thread_surfaces_in_run() -> None:
    def broken() -> None:
        raise ZeroDivisionError("injected")

    with Machine(memory="16M") as vm:
        vm.loop.call_soon(broken)
        with pytest.raises(ZeroDivisionError, match="injected"):
            vm.run()
    assert vm.state == "closed"


def test_a_host_without_threads_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Machine(memory="16M") as vm:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HostError, match="no more threads"):
            vm.start()


def test_everybody_at_once_leaves_a_machine_that_can_be_quit() -> None:
    with Machine(boot=Linux(program("end"), cmdline="spin"), memory="16M", cpus=2) as vm:
        vm.start()
        vm.serial.expect(b"here\n", PATIENCE)

        def storm(call: Callable[[], object]) -> Callable[[], object]:
            return lambda: [call() for _ in range(50)]

        calls = (vm.pause, vm.resume, vm.reset, vm.pause, vm.resume, vm.power_button, vm.diagnose)
        for waiting in [Waiting(storm(call)) for call in calls]:
            assert isinstance(waiting.outcome, list), waiting.outcome
        vm.quit()
        assert vm.wait(PATIENCE) == ends.Quit()


def test_a_machine_opened_again_is_new() -> None:
    vm = Machine(memory="16M")
    outputs = []
    for _ in range(2):
        with vm:
            vm.start()
            outputs.append(vm.serial.expect(PROMPT, PATIENCE))
            assert vm.timeline.of("ended") is None
            vm.serial.write(b"poweroff\r")
            assert vm.wait(PATIENCE) == ends.PoweredOff()
            assert vm.timeline.of("ended") is not None
    assert outputs[0] == outputs[1]
