"""A machine: a value until it is opened, then a board with threads that run it.

How it is opened, started and ended is in lifecycle.py; here is how to steer it and look inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvmm import events
from pyvmm.errors import HostError, UsageError
from pyvmm.kvm import Vcpu
from pyvmm.lifecycle import Lifecycle
from pyvmm.log import Log
from pyvmm.loop import start_thread
from pyvmm.memory import GuestMemory
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from pyvmm.backends.buffer import Buffer
    from pyvmm.debugger import Debugger
    from pyvmm.diagnosis import Report
    from pyvmm.inspection.guest import Guest
    from pyvmm.monitor.result import Result
    from pyvmm.tracing.tracer import Tracer
    from pyvmm.virtio.device import VirtioDevice

log = Log(__name__)


class Machine(Lifecycle):
    """One virtual machine. Unless a method says otherwise, any thread may call it.

        with Machine(memory="512M", boot=Linux("vmlinuz")) as vm:
            vm.start()
            print(vm.wait())

    Methods that need the machine open raise UsageError if it is not.
    """

    _guest: Guest | None = None
    _tracer: Tracer | None = None

    # ---- steering it ----

    def power_button(self) -> None:
        """Press the power button; a guest that listens powers itself off."""
        self.board.acpi_pm.power_button()
        self._tell(events.PowerButton())

    def send_keys(self, keys: Sequence[str]) -> None:
        """Press keys of the guest's keyboard one after the other, then release them all.

        They have QEMU's names, as ctrl, alt, delete (pyvmm/devices/keyboard_spec.py). Raises
        UsageError for others, and while the guest takes none.
        """
        self.board.i8042.press(keys)

    def send_break(self, port: int = 1) -> None:
        """Send a break on serial port COM`port`. Raises UsageError if there is none, or no room."""
        from pyvmm.inputs import serial_port

        serial_port(self.board, port).send_break()

    def sysrq(self, key: str) -> None:
        """Have Linux obey the magic SysRq `key`, a letter or a digit.

        That is a break and the key on its serial console, or Alt-SysRq on the keyboard if it has
        none. Raises UsageError for what is no key, and while the guest takes none.
        """
        from pyvmm.inputs import sysrq

        sysrq(self.board, key)

    def nmi(self, cpu: int | None = None) -> None:
        """Send vCPU `cpu`, or every one, a non-maskable interrupt.

        Not on a vCPU's thread. Raises UsageError if there is no such vCPU.
        """
        vcpus = self.board.vcpus
        if cpu is not None and cpu not in range(len(vcpus)):
            raise UsageError(f"A vCPU must be 0 to {len(vcpus) - 1}, not {cpu}")
        with self.paused():  # KVM takes it between two runs only
            for vcpu in vcpus if cpu is None else [vcpus[cpu]]:
                vcpu.nmi()

    def command(self, line: str) -> Result | None:
        """Run a command of the monitor, as `info registers`; what it found, if it is for that.

        Not on a vCPU's or the loop's thread. Raises UsageError for what is no command, or any
        other PyvmmError.
        """
        from pyvmm.monitor.session import Session

        return Session(self).execute(line)

    def serve_monitor(self, client: socket.socket, hello: str) -> Callable[[], object]:
        """Serve the monitor on a connected socket, on a thread; the wait for its end.

        `hello` says what is at the other end: a line as of pyvmm/monitor/plain.py.
        """

        def serve() -> None:
            from pyvmm.monitor.server import serve_terminal  # which takes its time

            serve_terminal(self, client, hello)

        return start_thread("monitor", serve).join

    def _register(self) -> None:
        """Have the user's other processes find it, unless it has ended. The loop's thread."""
        if self._end is not None:
            return
        from pyvmm.registry.entry import Entry

        try:
            self._entry = Entry(self)
        except HostError as error:
            log.info("other programs cannot find this machine: %s", error)

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

    def exit_counts(self) -> list[dict[str, int]]:
        """For each vCPU, its exits by kind; also while it runs."""
        return [vcpu.exit_counts() for vcpu in self.board.vcpus]

    def vcpu_threads(self) -> list[int]:
        """The kernel's number of each vCPU's thread, gettid(2); empty before the start."""
        return [t.native_id or 0 for t in self._threads if t.name.startswith("vcpu")]

    @property
    def console(self) -> bytes:
        """The last output of the serial ports, some ten KiB of it."""
        return self._console.text

    def last_output(self, port: int) -> bytes:
        """The last output of serial port number `port`, some ten KiB of it."""
        return self._console.of_port(port)

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

    @property
    def guest(self) -> Guest:
        """The operating system in it: its symbols, log and tasks, found when they are asked for."""
        _ = self.board
        with self._lock:
            if self._guest is None:
                from pyvmm.inspection.guest import open_guest

                self._guest = open_guest(self)
                self._stack.callback(setattr, self, "_guest", None)
        return self._guest

    @property
    def debugger(self) -> Debugger:
        """The debugger of the open machine, made when it is first wanted."""
        from pyvmm.debugger import Debugger

        _ = self.board
        with self._lock:
            if self._debugger is None:
                self._debugger = Debugger(self)
                self._stack.callback(self._debugger.close)
            return self._debugger

    @property
    def tracer(self) -> Tracer:
        """What tells of the trace points of the open machine."""
        _ = self.board
        with self._lock:
            if self._tracer is None:
                from pyvmm.tracing.tracer import Tracer

                self._tracer = Tracer(self)
                self._stack.callback(self._end_tracer, self._tracer)
            return self._tracer

    def _end_tracer(self, tracer: Tracer) -> None:
        self._tracer = None
        tracer.close()
