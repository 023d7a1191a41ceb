"""A machine: a value until it is opened, then a board with threads that run it.

Thread `vcpuN` runs vCPU N; one thread, the loop's, owns changes of the machine's state. That is the
caller of `run`, or a thread of its own after `start`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pyvmm import ends
from pyvmm.backends.chardev import Chardev, open_chardev
from pyvmm.board import Board, Callbacks
from pyvmm.config import MachineConfig
from pyvmm.consolelog import ConsoleLog
from pyvmm.ends import End
from pyvmm.errors import UsageError
from pyvmm.kvm import Vcpu
from pyvmm.log import Log
from pyvmm.loop import Loop, start_thread
from pyvmm.memory import GuestMemory
from pyvmm.runloop import Gate, end_of, run_vcpu
from pyvmm.timeline import Timeline
from pyvmm.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.backends.buffer import Buffer
    from pyvmm.diagnosis import Report
    from pyvmm.virtio.device import VirtioDevice

log = Log(__name__)


class Machine:
    """One virtual machine. Unless a method says otherwise, any thread may call it.

        with Machine(memory="512M", boot=Linux("vmlinuz")) as vm:
            vm.start()
            print(vm.wait())

    Methods that need the machine open raise UsageError if it is not.
    """

    def __init__(self, config: MachineConfig | None = None, **settings: Any) -> None:
        """Take the fields of MachineConfig, as a value or by name. Nothing is opened.

        Raises UsageError for settings that no host could make.
        """
        try:
            self.config = (config or MachineConfig()).replace(**settings)
        except TypeError as error:
            raise UsageError(str(error)) from None
        self.config.check()
        self.timeline = Timeline()
        self._board: Board | None = None
        self._lock = threading.Condition()
        self._end: End | None = None
        self._wanted: End | None = None
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    # ---- opening and closing ----

    def open(self, progress: Callable[[str], object] | None = None) -> None:
        """Make the board and load the kernel; `progress` gets a text when that takes long.

        Raises UsageError, HostError or ImageError; nothing is left open then.
        """
        if self._board is not None:
            raise UsageError("The machine is open already")
        with ExitStack() as stack:
            self.loop = Loop()
            stack.callback(self.loop.close)
            self.lines: dict[str, Chardev] = {}  # the host's ends of serial ports and consoles

            def open_line(name: str, kind: str) -> Chardev:
                line = open_chardev(kind, self.loop, self.quit)
                stack.callback(line.close)
                self.lines[name] = line
                return line

            backends = [open_line(f"COM{n}", kind) for n, kind in enumerate(self.config.serial, 1)]
            self._console = ConsoleLog(len(backends))
            callbacks = Callbacks(
                power_off=lambda: self._request(ends.PoweredOff()),
                reset=lambda: self._request(ends.Reset()),
                debug_exit=lambda status: self._request(ends.DebugExit(status)),
                exited=lambda status: self._request(ends.Exited(status)),
                panicked=lambda: self._request(ends.GuestPanic(self._console.panic, "pvpanic")),
                output=self._on_output,
                open_line=open_line,
                stop=self._stop,
            )
            board = Board(self.config, self.loop, backends, callbacks, progress)
            stack.callback(board.close)
            self._gate = Gate(board.vcpus)
            self._stack = stack.pop_all()
        self._end = self._wanted = self._error = None
        self._paused = False
        self._looking = 0  # how many are inside `paused`
        self._stops: dict[object, str] = {}  # the reasons of devices that have stopped the guest
        self._board = board
        self.timeline = Timeline()
        self.timeline.mark("ready")

    def close(self) -> None:
        """Stop the guest, if it runs, and release everything; who waits for its end gets Quit.

        Not on a thread of the machine, nor while another is in `run`.
        """
        if self._board is None:
            return
        self.quit()
        self._gate.end()
        for thread in self._threads:
            if thread.name == "loop":
                self.loop.stop()
            thread.join()
        if self._end is None:  # the loop did not run, or had no time for it
            self._finish(ends.Quit())
        self._threads.clear()
        self._board = None
        self._stack.close()

    def __enter__(self) -> Machine:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def board(self) -> Board:
        """Every part of the open machine."""
        if self._board is None:
            raise UsageError("The machine is not open")
        return self._board

    # ---- running ----

    def start(self) -> None:
        """Let the guest run, with the event loop on a thread of its own."""
        self._start_vcpus()
        self._threads.append(start_thread("loop", self._run_loop))

    def run(self) -> End:
        """Let the guest run, with the event loop on the calling thread, until it ends."""
        self._start_vcpus()
        try:
            self.loop.run()
        finally:
            self._gate.shut()
        return self.wait()

    def wait(self, timeout: float | None = None) -> End:
        """Wait for the guest's end, at most `timeout` seconds.

        Raises TimeoutError, UsageError before the start, or the error that stopped the machine: of
        a reboot, or of a device model.
        """
        with self._lock:
            if not self._threads and self._end is None:
                raise UsageError("The machine must be started before its end can be waited for")
            if not self._lock.wait_for(lambda: self._end or self._error, timeout):
                raise TimeoutError(f"The guest still runs after {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._end is not None
        return self._end

    @property
    def state(self) -> str:
        """`closed`, `ended`, `running` or `paused`, which a machine also is before its start."""
        if self._board is None:
            return "closed"
        if self._end is not None:
            return "ended"
        return "running" if self._gate.opened else "paused"

    def pause(self) -> None:
        """Stop every vCPU between two instructions, and wait until that is so.

        Not on a vCPU's or the loop's thread.
        """
        _ = self.board
        with self._lock:
            self._paused = True
            self._gate.shut()
        self._gate.wait_parked()

    def resume(self) -> None:
        """Let the vCPUs go on once nobody is inside `paused`; one that has ended stays stopped.

        Also one that a device has stopped.
        """
        _ = self.board
        with self._lock:
            self._paused = False
            self._stops.clear()
            self._go_on()

    @property
    def stopped_by(self) -> str | None:
        """The reason for which a device has stopped the guest, as a full disk, if one has."""
        return next(iter(self._stops.values()), None)

    def _stop(self, reason: str) -> Callable[[], None]:
        """Stop every vCPU, without waiting for it, until what this returns is called."""
        stop = object()
        log.warning("The machine is paused: %s", reason)
        with self._lock:
            self._stops[stop] = reason
            self._gate.shut()

        def go_on() -> None:
            with self._lock:
                if self._stops.pop(stop, None) is not None:
                    self._go_on()

        return go_on

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause within a `with`, whatever others do meanwhile; a machine that was paused stays so.

        Not on a vCPU's thread.
        """
        _ = self.board
        with self._lock:
            self._looking += 1
            self._gate.shut()
        self._gate.wait_parked()
        try:
            yield
        finally:
            with self._lock:
                self._looking -= 1
                self._go_on()

    def power_button(self) -> None:
        """Press the power button; a guest that listens powers itself off."""
        self.board.acpi_pm.power_button()

    def reset(self) -> None:
        """Start the guest again as after power-on, without waiting for it."""
        _ = self.board
        self._request(ends.Reset())

    def quit(self) -> None:
        """End the guest at once, without waiting for it."""
        if self.state in ("running", "paused"):
            self._request(ends.Quit())

    # ---- looking inside ----

    @property
    def memory(self) -> GuestMemory:
        """The guest's RAM."""
        return self.board.memory

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """The vCPUs, whose state can be had while they stand still.

        Raises UsageError while they run.
        """
        if self.state == "running":
            raise UsageError("The machine must be paused to look at its vCPUs")
        return self.board.vcpus

    def device(self, name: str) -> VirtioDevice:
        """The device of that name. Raises UsageError if there is none."""
        try:
            return self.board.virtio[name]
        except KeyError:
            raise UsageError(f"This machine has no device {name!r}") from None

    @property
    def serial(self) -> Buffer:
        """The first serial port that is a `buffer`: expect() and write()."""
        from pyvmm.backends.buffer import Buffer

        _ = self.board
        for name, line in self.lines.items():
            if isinstance(line, Buffer) and name.startswith("COM"):
                return line
        raise UsageError("No serial port of this machine is a `buffer`")

    def quit_after(self, seconds: float) -> None:
        """End the guest at once in `seconds`, unless it has ended by then."""
        _ = self.board
        self.loop.call_at(self.loop.now() + seconds, self.quit)

    def exit_counts(self) -> list[dict[str, int]]:
        """For each vCPU, its exits by kind; also while it runs."""
        return [vcpu.exit_counts() for vcpu in self.board.vcpus]

    @property
    def end(self) -> End | None:
        """How the guest's run ended, or None while it has not."""
        return self._end

    @property
    def console(self) -> bytes:
        """The last output of the serial ports, some ten KiB of it."""
        return self._console.text

    def diagnose(self) -> Report:
        """Say in words why the guest died, or, if it runs, where it is; it stands still meanwhile.

        Not on a vCPU's thread.
        """
        from pyvmm.postmortem import diagnose_machine

        return diagnose_machine(self)

    def mark_init(self) -> None:
        """Add to the timeline when Linux started init, as its own log in memory tells."""
        from pyvmm.postmortem import init_time

        when = init_time(self)
        if when is not None:
            self.timeline.mark_at("init", when)

    # ---- threads ----

    def _start_vcpus(self) -> None:
        vcpus = self.board.vcpus
        with self._lock:
            if self._threads:
                raise UsageError("The machine has been started already")
            self._paused = False
            self.timeline.mark("entered")
            # A request from before goes first.
            if not (self._wanted or self._looking or self._stops):
                self._gate.open()
        for vcpu in vcpus:
            thread = start_thread(f"vcpu{vcpu.index}", self._run_vcpu, vcpu)
            self._threads.append(thread)

    def _may_run(self) -> bool:
        """Whether nothing keeps the vCPUs from running; with the lock held."""
        kept = self._paused or self._looking or self._stops
        ended = self._wanted or self._end or self._error
        return bool(self._threads) and not (kept or ended)

    def _go_on(self) -> None:
        """Open the gate after a pause if nothing speaks against it; with the lock held."""
        if self._may_run() and not self._gate.opened:
            for vcpu in self.board.vcpus:
                vcpu.kvmclock_paused()
            self._gate.open()

    def _run_loop(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self._fail(error)

    def _run_vcpu(self, vcpu: Vcpu) -> None:
        board = self.board
        vcpu.enter_thread()
        while self._gate.enter():
            try:
                end = end_of(vcpu.index, run_vcpu(vcpu, board.pio, board.mmio))
                if end is not None:
                    self._request(end)
            except BaseException as error:
                self._fail(error)
            finally:
                self._gate.leave()
        vcpu.leave_thread()

    def _request(self, end: End) -> None:
        """Have the loop end the run, or reset the machine.

        What is asked for first counts, but for a reset, which must not swallow the user's wish.
        """
        with self._lock:
            wanted = self._wanted
            overrules = isinstance(wanted, ends.Reset) and isinstance(end, ends.Quit)
            if self._end is not None or (wanted is not None and not overrules):
                return
            self._wanted = end
        self._gate.shut()
        self.loop.call_soon(self._do_request)

    def _do_request(self) -> None:
        """On the loop's thread, with every vCPU on its way to the gate."""
        end = self._wanted
        if end is None or self._end is not None:  # done with the request that this one overruled
            return
        self._gate.wait_parked()
        self.board.drain()
        for device in self.board.virtio.values():
            device.finish()
        message = self._console.panic
        if message and not isinstance(end, ends.GuestPanic):
            end = ends.GuestPanic(message, "console")
        if isinstance(end, ends.Reset) and not self.config.no_reboot:
            self._reboot(end)
        else:
            self._finish(end)

    def _reboot(self, asked: End) -> None:
        try:
            self.board.reset()
        except BaseException as error:
            self._fail(error)
            return
        with self._lock:
            if self._wanted is not asked:
                return
            self._wanted = None
            if self._may_run():
                self._gate.open()

    def _finish(self, end: End) -> None:
        self.timeline.mark("ended")
        with self._lock:
            self._end = end
            self._lock.notify_all()
        self._end_output()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()
        self._gate.shut()
        self._end_output()

    def _end_output(self) -> None:
        """Tell the back ends, and the loop if it is the caller's of `run`."""
        for line in self.lines.values():
            line.ended()
        if not any(thread.name == "loop" for thread in self._threads):
            self.loop.stop()

    def _on_output(self, port: int, data: bytes) -> None:
        """What serial port number `port` sends; with its lock held."""
        self.timeline.mark("first serial byte")
        if self._console.add(port, data):
            self._request(ends.GuestPanic(self._console.panic, "console"))
