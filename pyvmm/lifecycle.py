"""The life of a machine: opened, started, stopped and resumed, reset, ended, closed.

Thread `vcpuN` runs vCPU N; one thread, the loop's, owns changes of the machine's state. That is the
caller of `run`, or a thread of its own after `start`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from pyvmm import ends, events
from pyvmm.backends.chardev import Chardev, open_chardev
from pyvmm.board import Board, Callbacks
from pyvmm.config import MachineConfig
from pyvmm.consolelog import ConsoleLog
from pyvmm.ends import End
from pyvmm.errors import UsageError
from pyvmm.kvm import Vcpu, exits
from pyvmm.loop import Loop, start_thread
from pyvmm.runloop import end_of, run_vcpu
from pyvmm.runstate import Hold, RunState
from pyvmm.timeline import Timeline
from pyvmm.typed import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

    from pyvmm.debugger import Debugger
    from pyvmm.registry.entry import Entry

REGISTER_SECONDS = 0.01  # after the start: the guest's first output goes before


class Lifecycle:
    """What Machine builds on: its parts, its threads and its end. Any thread, unless it says so."""

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
        self._listeners: list[Callable[[events.Event], object]] = []
        self._debugger: Debugger | None = None
        self._entry: Entry | None = None
        self.fronts: dict[str, str] = {}  # the front ends that it has, each with where it listens
        self.own_process = False  # whether the process is there for it alone, and ends with it

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
                line = open_chardev(kind, self.loop, self.quit, self.serve_monitor)
                stack.callback(line.close)
                self.lines[name] = line
                return line

            backends = [open_line(f"COM{n}", kind) for n, kind in enumerate(self.config.serial, 1)]
            self._console = ConsoleLog(len(backends))
            self.run_state = RunState(self._tell)
            self._unstarted = self.run_state.hold("not started")
            callbacks = Callbacks(
                power_off=lambda: self._request(ends.PoweredOff()),
                reset=lambda: self._request(ends.Reset()),
                debug_exit=lambda status: self._request(ends.DebugExit(status)),
                exited=lambda status: self._request(ends.Exited(status)),
                panicked=lambda: self._request(ends.GuestPanic(self._console.panic, "pvpanic")),
                output=self._on_output,
                open_line=open_line,
                stop=self.run_state.stop,
                tell=self._tell,
            )
            board = Board(self.config, self.loop, backends, callbacks, progress)
            stack.callback(board.close)
            self.run_state.vcpus = board.vcpus
            self._stack = stack.pop_all()
        self._end = self._wanted = self._error = None
        self._ending: Hold | None = None
        self._by_guest = False  # whether the guest asked for its end or reset
        self._debugger = None
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
        self.run_state.gate.end()
        for thread in self._threads:
            if thread.name == "loop":
                self.loop.stop()
            thread.join()
        if self._end is None:  # the loop did not run, or had no time for it
            self._finish(ends.Quit())
        self._unregister()  # if an error has stopped it
        self._threads.clear()
        self._board = None
        self._stack.close()

    def __enter__(self) -> Self:
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

    def serve_monitor(self, client: socket.socket, hello: str) -> Callable[[], object]:
        """See Machine."""
        raise NotImplementedError

    # ---- running ----

    def start(self, *, paused: bool = False) -> None:
        """Let the guest run, or stand `paused`, with the event loop on a thread of its own."""
        self._start_vcpus(paused)
        self._threads.append(start_thread("loop", self._run_loop))

    def run(self, *, paused: bool = False) -> End:
        """Let the guest run, with the event loop on the calling thread, until it ends."""
        self._start_vcpus(paused)
        try:
            self.loop.run()
        finally:
            self.run_state.hold("ended")
            self._unregister()  # if an error has stopped it
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
    def end(self) -> End | None:
        """How the guest's run ended, or None while it has not."""
        return self._end

    @property
    def state(self) -> str:
        """`closed`, `ended`, `running` or `paused`, which a machine also is before its start."""
        if self._board is None:
            return "closed"
        if self._end is not None:
            return "ended"
        return "running" if self.run_state.running else "paused"

    def pause(self) -> None:
        """Stop every vCPU between two instructions, and wait until that is so.

        Not on a vCPU's or the loop's thread.
        """
        _ = self.board
        self.run_state.pause()

    def resume(self) -> None:
        """Let the vCPUs go on once nobody is inside `paused`; one that has ended stays stopped.

        Also one that a device has stopped.
        """
        _ = self.board
        self.run_state.resume()

    def paused(self) -> AbstractContextManager[None]:
        """Pause within a `with`, whatever others do meanwhile; a machine that was paused stays so.

        Not on a vCPU's thread.
        """
        _ = self.board
        return self.run_state.paused()

    @property
    def stopped_by(self) -> str | None:
        """The reason for which a device has stopped the guest, as a full disk, if one has."""
        return self.run_state.stopped_by

    def reset(self) -> None:
        """Start the guest again as after power-on, without waiting for it."""
        _ = self.board
        self._request(ends.Reset(), by_guest=False)

    def quit(self, *, by_signal: bool = False) -> None:
        """End the guest at once, without waiting for it; `by_signal` if a signal asked for it."""
        if self.state in ("running", "paused"):
            self._request(ends.Quit(by_signal), by_guest=False)

    def quit_after(self, seconds: float, *, by_signal: bool = False) -> None:
        """End the guest at once in `seconds`, unless it has ended by then. See `quit`."""
        _ = self.board
        self.loop.call_at(self.loop.now() + seconds, lambda: self.quit(by_signal=by_signal))

    def listen(self, listener: Callable[[events.Event], object]) -> Callable[[], None]:
        """Have `listener` told of every event until what this returns is called.

        It is called on any thread, perhaps with a lock of the machine held: it must neither wait
        nor call the machine.
        """
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def stop() -> None:
            with self._lock:
                self._listeners = [one for one in self._listeners if one is not listener]

        return stop

    def _tell(self, event: events.Event) -> None:
        for listener in self._listeners:
            listener(event)

    # ---- threads ----

    def _start_vcpus(self, paused: bool) -> None:
        vcpus = self.board.vcpus
        with self._lock:
            if self._threads:
                raise UsageError("The machine has been started already")
            self.timeline.mark("entered")
            if paused:
                self.run_state.pause()
            else:
                self.run_state.resume()
            self._unstarted.release()
            for vcpu in vcpus:
                thread = start_thread(f"vcpu{vcpu.index}", self._run_vcpu, vcpu)
                self._threads.append(thread)
            self.loop.call_at(self.loop.now() + REGISTER_SECONDS, self._register)

    def _register(self) -> None:
        """See Machine."""
        raise NotImplementedError

    def _unregister(self) -> None:
        """On the loop's thread, or when it has stopped."""
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    def _run_loop(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self._fail(error)

    def _run_vcpu(self, vcpu: Vcpu) -> None:
        board = self.board
        vcpu.enter_thread()
        gate = self.run_state.gate
        while gate.enter(vcpu.index):
            try:
                debugger = self._debugger
                if debugger is None or debugger.prepare(vcpu):
                    exit = run_vcpu(vcpu, board.pio, board.mmio)
                    if debugger is not None and isinstance(exit, exits.Debug):
                        debugger.take(vcpu, exit)
                    elif (end := end_of(vcpu.index, exit)) is not None:
                        self._request(end)
            except BaseException as error:
                self._fail(error)
            finally:
                gate.leave()
        vcpu.leave_thread()

    def _request(self, end: End, *, by_guest: bool = True) -> None:
        """Have the loop end the run, or reset the machine.

        What is asked for first counts, but for a reset, which must not swallow the user's wish.
        """
        with self._lock:
            wanted = self._wanted
            overrules = isinstance(wanted, ends.Reset) and isinstance(end, ends.Quit)
            if self._end is not None or (wanted is not None and not overrules):
                return
            self._wanted = end
            self._by_guest = by_guest
            self._ending = self._ending or self.run_state.hold("ending")
        self.loop.call_soon(self._do_request)

    def _do_request(self) -> None:
        """On the loop's thread, with every vCPU on its way to the gate."""
        end = self._wanted
        if end is None or self._end is not None:  # done with the request that this one overruled
            return
        self.run_state.wait_parked()
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
            if self._wanted is not asked or self._ending is None:
                return
            self._wanted = None
            ending, self._ending = self._ending, None
        self._tell(events.Restarted(self._by_guest))
        ending.release()

    def _finish(self, end: End) -> None:
        self.timeline.mark("ended")
        with self._lock:
            self._end = end
            self._lock.notify_all()
        self._tell(events.Ended(end, self._by_guest))
        self._end_output(end)
        self._unregister()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()
        self.run_state.hold("failed")
        self._end_output(error)

    def _end_output(self, how: End | BaseException) -> None:
        """Tell the back ends, and the loop if it is the caller's of `run`."""
        for line in self.lines.values():
            line.ended(how)
        if not any(thread.name == "loop" for thread in self._threads):
            self.loop.stop()

    def _on_output(self, port: int, data: bytes) -> None:
        """What serial port number `port` sends; with its lock held."""
        self.timeline.mark("first serial byte")
        if self._console.add(port, data):
            self._request(ends.GuestPanic(self._console.panic, "console"))
