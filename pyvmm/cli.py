"""The `pyvmm` command. It alone prints, installs signal handlers and decides the exit status."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from pyvmm.config import (
    ENTRIES,
    SERIAL_KINDS,
    TRANSPORTS,
    Linux,
    MachineConfig,
    check_serial,
    load_toml,
)
from pyvmm.ends import DebugExit, Exited, Quit
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.options import REST, Arguments, Parser
from pyvmm.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal

    from pyvmm.machine import Machine
    from pyvmm.peripherals import Peripheral
else:
    import _signal as signal  # `signal` is this with enums, which cost a start 2 ms

SETUP_ERROR, WRONG_USAGE = 1, 2
QUIET = "console=ttyS0 quiet"  # for a command: what the kernel says is for our report only
INTERRUPTED = 128 + signal.SIGINT  # as a shell tells of a program that a signal ended
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# The options that control.py opens a front end for.
CONTROL = ("gdb", "monitor", "qmp", "metrics")
POWER_OFF_SECONDS = 10  # what a guest has after SIGTERM pressed its power button
SAME_SIGNAL_SECONDS = 0.1  # timeout(1) sends its signal to the process, then to the whole group


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    gc.disable()  # until the machine runs: a start makes no garbage, and looking for it costs 3 ms
    _open_standard_files()
    try:
        args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        status = int(args.command(args))
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _complain(error, WRONG_USAGE)
    except PyvmmError as error:
        return _complain(error, SETUP_ERROR)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # If it is our output that cannot be written, Python must not try it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SETUP_ERROR if isinstance(error, BrokenPipeError) else _complain(error, SETUP_ERROR)


def _open_standard_files() -> None:
    """Have no file of ours become standard input, output or error where the caller closed them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _complain(error: Exception, status: int) -> int:
    _tell(f"pyvmm: {error}")
    return status


def _tell(text: str) -> None:
    """Write to standard error; if that cannot be, the guest and the exit status matter more."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def _parser() -> Parser:
    parser = Parser("pyvmm", "Run an unmodified x86-64 operating system on KVM.")
    add = parser.command("run", "run a guest; without a KERNEL, the built-in one", _run).add
    add("kernel", metavar="KERNEL", help="bzImage, vmlinux or Multiboot image")
    add("--initrd", action="append", metavar="FILE", help="may be repeated")
    add("--append", metavar="STR", help="the kernel's command line [console=ttyS0]")
    add("--memory", metavar="SIZE", help="as 512M or 4G [512M]")
    add("--cpus", type=int, metavar="N", help="[1]")
    add("--cpu", metavar="MODEL", help="host, or host,-FEATURE,... [host]")
    add("--disk", action="append", metavar="PATH[,...]", help="vda, vdb, ...: see docs/disks.md")
    add("--net", action="append", metavar="KIND[,...]", help="eth0, ...: see docs/networks.md")
    add("--vsock", metavar="CID[,...]", help="sockets to the guest: see docs/networks.md")
    add("--share", action="append", metavar="DIR:TAG[,ro]", help="mount -t virtiofs TAG /mnt")
    add("--rootfs", metavar="DIR[,ro|,rw]", help="the root file system [changes stay in memory]")
    add("--serial", action="append", metavar="KIND", help=f"COM1, COM2: {', '.join(SERIAL_KINDS)}")
    add("--no-reboot", action="store_true", help="end when the guest resets itself")
    add("--kaslr", action="store_true", help="let a bzImage unpack itself")
    add("--entry", choices=ENTRIES, help="the boot protocol, where an image has several [auto]")
    add("--hugepages", action="store_true", help="RAM from the hugetlb pool")
    add("--prealloc", action="store_true", help="allocate all RAM at once")
    add("--console", action="append", metavar="NAME=KIND", help="hvc0, hvc1, ... or named ports")
    add("--rng", action="optional", metavar="RATE", help="random numbers, RATE bytes a second")
    add("--balloon", action="optional", metavar="SIZE", help="leave the guest SIZE of its memory")
    add("--transport", choices=TRANSPORTS, help="of virtio devices [pci]")
    add("--monitor", metavar="WHERE", help="stdio, unix:PATH or tcp:HOST:PORT: see docs/monitor.md")
    add("--config", metavar="FILE.toml", help="the same settings from a file; options win")
    add("--name", metavar="NAME", help="[pyvmm]")
    add("--trace", action="append", metavar="PATTERN[,...]", help="as exit.*: see docs/tracing.md")
    add("--qmp", metavar="WHERE", help="unix:PATH or tcp:HOST:PORT: see docs/qmp.md")
    add("--gdb", metavar="[HOST:]PORT|unix:PATH", help="listen for gdb: see docs/gdb.md")
    add("-S", action="store_true", help="begin stopped, until gdb or the monitor lets it go on")
    add("--metrics", metavar="WHERE", help="Prometheus's, at unix:PATH or tcp:HOST:PORT")
    add("--timeline", action="store_true", help="print at the end when what was reached")
    add("-v", "--verbose", action="count", help="log more; twice: everything")
    add("--", action="rest", metavar="COMMAND...", help="run it in --rootfs, and give its status")

    add = parser.command("ps", "list the machines that run", _of_others("ps")).add
    add("--json", action="store_true", help="for programs")
    add = parser.command("stop", "have a machine power itself off", _of_others("stop")).add
    add("name", metavar="NAME", required=True, help="or its ID, as `pyvmm ps` lists it")
    add("--timeout", type=float, metavar="S", help="end it after so many seconds [10]")
    add("--force", action="store_true", help="end it at once")
    add = parser.command("console", "attach to its serial port", _of_others("console")).add
    add("name", metavar="NAME", required=True, help="or its ID, as `pyvmm ps` lists it")
    add = parser.command("stat", "print a machine's counters", _of_others("stat")).add
    add("name", metavar="NAME", required=True, help="or its ID, as `pyvmm ps` lists it")
    add("--json", action="store_true", help="for programs")
    trace = parser.command("trace", "print the exits that the monitor's `record` wrote", _trace)
    trace.add("file", metavar="FILE", required=True)
    add = parser.command("monitor", "talk to a machine's monitor", _of_others("monitor")).add
    add("where", metavar="WHERE", required=True, help="NAME, PATH, unix:PATH or tcp:HOST:PORT")
    parser.command("doctor", "say what this host's KVM can do and lacks", _doctor)
    inspect = parser.command("inspect", "say what a kernel image is and needs", _inspect)
    inspect.add("kernel", metavar="KERNEL", required=True)
    return parser


def config_of(args: Arguments) -> MachineConfig:
    """The machine that options and their TOML file describe. Raises UsageError or HostError."""
    settings: dict[str, Any] = {}
    if args.config:
        settings = load_toml(args.config)
    settings |= {key: value for key, value in vars(args).items() if value is not None}
    boot = None
    if "kernel" in settings:
        boot = Linux(
            settings["kernel"],
            settings.get("initrd", ()),
            settings.get("append", QUIET if settings.get(REST) else None),
            settings.get("kaslr", False),
            settings.get("entry", "auto"),
        )
    elif needless := [key for key in ("initrd", "append", "kaslr", "entry") if key in settings]:
        raise UsageError(f"Without a KERNEL there must be no {needless[0]}")
    devices = _devices_of(settings)
    lines = [line for device in devices for line in device.lines.values()]
    own = settings.get("monitor") == "stdio"  # the monitor has the terminal for itself
    silent = own or "stdio" in lines or settings.get(REST)
    serial = settings.get("serial", ["none" if silent else "stdio"])
    settings["serial"] = (serial,) if isinstance(serial, str) else tuple(serial)
    for kind in settings["serial"]:
        check_serial(kind, SERIAL_KINDS)
    if own and {"stdio", "stdin", "stdout"}.intersection((*lines, *settings["serial"])):
        raise UsageError("Only one serial port, console, command or monitor can be on stdio")
    settings["devices"] = tuple(devices)
    fields = {key: settings[key] for key in MachineConfig.fields if key in settings}
    return MachineConfig(**fields | {"boot": boot})


def _devices_of(settings: dict[str, Any]) -> list[Peripheral]:
    """The devices that options and their TOML file name. Raises UsageError."""
    devices: list[Peripheral] = []
    if disks := settings.get("disk"):
        from pyvmm.disk_config import parse_disks

        devices += parse_disks([disks] if isinstance(disks, str) else disks)
    if nets := settings.get("net"):
        from pyvmm.net_options import parse_nets

        devices += parse_nets([nets] if isinstance(nets, str) else nets)
    if "vsock" in settings:
        from pyvmm.vsock_config import parse_vsock

        devices.append(parse_vsock(str(settings["vsock"])))
    if settings.keys() & {"console", "rng", "balloon"}:
        from pyvmm.peripherals import parse_devices

        devices += parse_devices(settings)
    if settings.keys() & {"share", "rootfs", REST}:
        from pyvmm.share_config import parse_shares

        devices += parse_shares(settings)
    return devices


def _run(args: Arguments) -> int:
    from pyvmm.backends.terminal import raw_mode
    from pyvmm.machine import Machine

    if args.verbose:
        import logging

        logging.basicConfig(
            level=logging.INFO if args.verbose == 1 else logging.DEBUG, format="pyvmm: %(message)s"
        )
    machine = Machine(config_of(args))
    machine.own_process = True
    machine.fronts = {name: where for name in CONTROL if (where := vars(args)[name])}
    signals = [
        number
        for number in SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN  # nohup(1)
    ]
    for number in signals:  # there is no guest yet to tell
        signal.signal(number, signal.default_int_handler)
    try:
        machine.open(_show_progress if sys.stderr.isatty() else None)
        for name, line in machine.lines.items():
            if line.where.startswith("/dev/pts/"):
                _tell(f"pyvmm: {name} is on {line.where}")
        gc.enable()
        own = {"stdin"}.isdisjoint(line.where for line in machine.lines.values())
        patience = 0 if args.rest else POWER_OFF_SECONDS
        with (
            _controlled(machine, args),
            _signals(machine, signals, patience),
            raw_mode() if own else nullcontext(),
        ):
            end = machine.run(paused=bool(args.S))
        for line in machine.lines.values():
            if line.where in ("stdio", "stdout", "stderr") and not isinstance(end, Quit):
                line.flush()
        told = isinstance(end, (DebugExit, Exited))  # by the guest itself
        report = "" if told or not end.status else machine.diagnose().text()
        if args.timeline:
            machine.mark_init()
    finally:
        machine.close()
    if report:
        _tell(report)
    if args.timeline:
        _tell(machine.timeline.text())
    return INTERRUPTED if args.rest and isinstance(end, Quit) else end.status


def _controlled(machine: Machine, args: Arguments) -> AbstractContextManager[None]:
    """The front ends that the options ask for, and traces."""
    settings = machine.fronts | ({"trace": args.trace} if args.trace else {})
    if not settings:
        return nullcontext()
    from pyvmm.control import controlled

    return controlled(machine, settings)


def _show_progress(text: str) -> None:
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@contextmanager
def _signals(machine: Machine, signals: Sequence[int], patience: float) -> Iterator[None]:
    """SIGTERM asks, and `patience` seconds later insists; SIGINT and SIGHUP end at once.

    SIGQUIT says where it hangs.

    Afterwards they end the process, as they do by default. SIGWINCH tells of a terminal's new size.

    A handler may interrupt the loop anywhere, also where it holds a lock. So the handlers do
    nothing, and Python writes the signal's number to a pipe that the loop watches.
    """
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    asked = 0.0  # when SIGTERM came first

    def on_signal() -> None:
        nonlocal asked
        now = machine.loop.now()
        for number in os.read(receiver, 64):
            if number == signal.SIGQUIT:
                _tell(machine.diagnose().text())
            elif number == signal.SIGWINCH:
                for line in machine.lines.values():
                    line.resized()
            elif number == signal.SIGTERM and not asked:
                asked = now
                machine.power_button()
                machine.quit_after(patience, by_signal=True)
            elif number != signal.SIGTERM or now - asked > SAME_SIGNAL_SECONDS:
                machine.quit(by_signal=True)

    signals = [*signals, signal.SIGWINCH]
    signal.set_wakeup_fd(sender)
    for number in signals:
        signal.signal(number, lambda *_: None)
    machine.loop.watch(receiver, on_signal)
    try:
        yield
    finally:
        machine.loop.unwatch(receiver)
        signal.set_wakeup_fd(-1)
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        os.close(receiver)
        os.close(sender)


def _of_others(name: str) -> Callable[[Arguments], int]:
    """A command of registry/commands.py, about machines of other processes."""

    def run(args: Arguments) -> int:
        from pyvmm.registry import commands

        return int(getattr(commands, name)(args))

    return run


def _doctor(args: Arguments) -> int:
    from pyvmm.doctor import examine

    findings = examine()
    for finding in findings:
        print(finding)
    return SETUP_ERROR if any(finding.fatal for finding in findings) else 0


def _trace(args: Arguments) -> int:
    from pyvmm.tracing.recording import lines

    for line in lines(args.file):
        print(line)
    return 0


def _inspect(args: Arguments) -> int:
    from pyvmm.boot.report import inspect

    print("\n".join(inspect(args.kernel).lines()))
    return 0
