"""gdb's remote serial protocol (gdb manual, appendix E), in its all-stop mode.

Thread N + 1 is vCPU N. Addresses are linear ones, in the page tables of the thread that `Hg` chose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyvmm import breakpoints, debugger
from pyvmm.breakpoints import Point
from pyvmm.diagnosis_spec import MP_HALTED, NOT_STARTED
from pyvmm.errors import MemoryAccessError, PyvmmError, UnmappedError
from pyvmm.gdb.fields import (
    FAILED,
    NO_MEMORY,
    NO_THREAD,
    Refusal,
    data_of,
    digits_of,
    number,
    pair,
)
from pyvmm.gdb.packets import PACKET_SIZE
from pyvmm.gdb.target import Target, memory_map, read, write
from pyvmm.gdb.target_spec import LINEAR_PC, Register
from pyvmm.inspection.registers import Registers
from pyvmm.inspection.views import registers_of
from pyvmm.log import Log
from pyvmm.machine import Machine
from pyvmm.monitor.session import Session

log = Log(__name__)

SIGINT, SIGTRAP = 2, 5  # gdb's own numbers, include/gdb/signals.def
OK, UNKNOWN = b"OK", b""
ALL_THREADS, ANY_THREAD = -1, 0
# What Z packets are about, and what a stop there is called.
KINDS = {
    0: (breakpoints.BREAK, "swbreak"),
    1: (breakpoints.HARDWARE_BREAK, "hwbreak"),
    2: (breakpoints.WRITE, "watch"),
    3: (breakpoints.ACCESS, "rwatch"),  # gdb passes over those that found a new value
    4: (breakpoints.ACCESS, "awatch"),
}
FEATURES = (
    f"PacketSize={PACKET_SIZE:x};QStartNoAckMode+;qXfer:features:read+;qXfer:memory-map:read+;"
    "qXfer:threads:read+;vContSupported+;swbreak+;hwbreak+"
)

_NAME = re.compile(r"[qQv][A-Za-z?]*|.", re.DOTALL)


class Stub:
    """Answers one client's packets. One thread, but for `stopped`, which any may set.

    `output` sends a packet before the answer.
    """

    def __init__(self, machine: Machine, output: Callable[[bytes], object]) -> None:
        self.acks = True
        self.running = False  # as the client sees it
        self.stopped = False  # the machine has, or has ended, since the client let it run
        self.done = False  # the client wants no more
        self._machine = machine
        self._debugger = machine.debugger
        self._output = output
        self._target = Target(machine.board)
        self._session = Session(machine)
        self._points: dict[tuple[int, int, int], Point] = {}  # by type, address and length
        self._reasons: set[str] = set()  # those of stop replies that the client knows
        self._cpu = 0  # of Hg
        self._stepped = ANY_THREAD  # of Hc

    def answer(self, packet: bytes) -> bytes | None:
        """What a packet is answered with; None if that comes later, as `report`, or never."""
        text = packet.decode("latin-1")  # as many characters as bytes
        found = _NAME.match(text)
        handler = HANDLERS.get(found[0]) if found else None
        if found is None or handler is None:
            return UNKNOWN
        try:
            return handler(self, text[found.end() :])
        except Refusal as refusal:
            return refusal.code
        except (MemoryAccessError, UnmappedError):
            return NO_MEMORY
        except PyvmmError as error:
            log.warning("gdb: %s", error)
            return FAILED

    def report(self) -> bytes | None:
        """The stop reply, if the client waits for one that is due."""
        if not (self.running and self.stopped):
            return None
        self._machine.run_state.wait_parked()
        self.running = False
        return self._stop_reply()

    def interrupt(self) -> None:
        """The client wants the machine to stop."""
        if self.running:
            self._machine.pause()

    def let_go(self) -> None:
        """Leave no breakpoint behind, and let the guest run on."""
        with suppress(PyvmmError):  # the machine is closed
            self._debugger.remove(*self._points.values())
            self._points.clear()
            self._machine.resume()

    # ---- stopping and going on ----

    def _stop_reply(self, _: str = "") -> bytes:
        end, stop = self._machine.end, self._debugger.stop
        if end is not None:
            return b"W%02x" % (end.status & 0xFF)
        if stop is None:
            return b"T%02xthread:%x;" % (SIGINT, self._cpu + 1)
        self._cpu = stop.cpu
        reason = ""
        for kind, address, length in self._points:
            name = KINDS[kind][1]
            if not address <= stop.address < address + length:
                continue
            if stop.reason == debugger.WATCHPOINT and kind > 1:
                reason = f"{name}:{stop.address:x};"
            elif stop.reason == debugger.BREAKPOINT and kind <= 1 and name in self._reasons:
                reason = f"{name}:;"
        return f"T{SIGTRAP:02x}thread:{stop.cpu + 1:x};{reason}".encode()

    def _resume(self, steps: Sequence[int], runs: Sequence[int]) -> None:
        """Let the vCPUs of both run; the answer is the stop reply."""
        movers = {*steps, *runs}
        with self._machine.paused():
            self.stopped = self._machine.end is not None
            self.running = True
            self._debugger.resume(steps, None if len(movers) == len(self._vcpus) else movers)

    @property
    def _vcpus(self) -> range:
        return range(self._machine.config.cpus)

    def _vcont(self, text: str) -> bytes | None:
        """`;ACTION[:THREAD]` and so on: for each thread the first counts that is meant for it."""
        actions: dict[int, str] = {}
        for part in text.removeprefix(";").split(";"):
            action, _, thread = part.partition(":")
            if action[:1] not in "cCsSt" or not action:
                raise Refusal
            for cpu in self._threads(thread) if thread else self._vcpus:
                actions.setdefault(cpu, action[0].lower())
        steps = [cpu for cpu, action in actions.items() if action == "s"]
        runs = [cpu for cpu, action in actions.items() if action == "c"]
        if not steps and not runs:
            return self._stop_reply()
        self._resume(steps, runs)
        return None

    def _continue(self, text: str) -> None:
        self._go_to(text)
        self._resume((), self._vcpus)

    def _continue_with_signal(self, text: str) -> None:
        self._continue(text.partition(";")[2])

    def _step(self, text: str) -> None:
        self._go_to(text)
        cpu = self._stepped - 1 if self._stepped > 0 else self._cpu
        self._resume([cpu], ())

    def _step_with_signal(self, text: str) -> None:
        self._step(text.partition(";")[2])

    def _go_to(self, address: str) -> None:
        if address:
            with self._machine.paused():
                rip = next(one for one in self._target.registers if one.source == LINEAR_PC)
                write(self._registers(), rip, number(address).to_bytes(8, "little"))

    def _detach(self, _: str) -> bytes:
        self.done = True
        return OK

    def _kill(self, _: str) -> bytes:
        self.done = True
        self._machine.quit()
        return OK

    # ---- threads ----

    def _threads(self, text: str) -> Sequence[int]:
        """The vCPUs that a thread id means."""
        if text == "-1":
            return self._vcpus
        thread = number(text)
        if thread == ANY_THREAD:
            return [self._cpu]
        if thread - 1 not in self._vcpus:
            raise Refusal(NO_THREAD)
        return [thread - 1]

    def _choose(self, text: str) -> bytes:
        cpus = self._threads(text[1:])
        if text[:1] == "g":
            self._cpu = cpus[0]
        elif text[:1] == "c":
            self._stepped = cpus[0] + 1 if len(cpus) == 1 else ANY_THREAD
        else:
            raise Refusal
        return OK

    def _alive(self, text: str) -> bytes:
        self._threads(text)
        return OK

    def _all_threads(self, _: str) -> bytes:
        return f"m{','.join(f'{cpu + 1:x}' for cpu in self._vcpus)}".encode()

    def _state_of(self, cpu: int) -> str:
        with self._machine.paused():
            state = self._machine.vcpus[cpu].mp_state
        return "halted" if state == MP_HALTED else NOT_STARTED.get(state, "running")

    def _extra_info(self, text: str) -> bytes:
        (cpu,) = self._threads(text.removeprefix(","))[:1]
        return f"vCPU {cpu}, {self._state_of(cpu)}".encode().hex().encode()

    def _threads_xml(self) -> str:
        threads = "".join(
            f'<thread id="{cpu + 1:x}" core="{cpu}" name="vCPU {cpu}">'
            f"{self._state_of(cpu)}</thread>"
            for cpu in self._vcpus
        )
        return f"<threads>{threads}</threads>"

    # ---- registers ----

    def _registers(self) -> Registers:
        return registers_of(self._machine, self._cpu)

    def _read_registers(self, _: str) -> bytes:
        with self._machine.paused():
            state = self._registers()
            return b"".join(digits_of(read(state, one), one.bits) for one in self._target.registers)

    def _write_registers(self, text: str) -> bytes:
        with self._machine.paused():
            registers = self._registers()
            for one in self._target.registers:
                digits, text = text[: one.bits // 4], text[one.bits // 4 :]
                if digits != "x" * len(digits):
                    write(registers, one, data_of(digits, one.bits // 8))
        return OK

    def _read_register(self, text: str) -> bytes:
        one = self._register(text)
        with self._machine.paused():
            return digits_of(read(self._registers(), one), one.bits)

    def _write_register(self, text: str) -> bytes:
        which, _, digits = text.partition("=")
        one = self._register(which)
        with self._machine.paused():
            write(self._registers(), one, data_of(digits, one.bits // 8))
        return OK

    def _register(self, text: str) -> Register:
        at = number(text)
        if at >= len(self._target.registers):
            raise Refusal
        return self._target.registers[at]

    # ---- memory ----

    def _read_memory(self, text: str) -> bytes:
        address, length = pair(text)
        return self._debugger.read(self._cpu, address, min(length, PACKET_SIZE // 2)).hex().encode()

    def _write_memory(self, text: str) -> bytes:
        place, _, digits = text.partition(":")
        address, length = pair(place)
        self._debugger.write(self._cpu, address, data_of(digits, length))
        return OK

    def _write_binary(self, text: str) -> bytes:
        place, _, data = text.partition(":")
        address, length = pair(place)
        if len(data) != length:
            raise Refusal
        self._debugger.write(self._cpu, address, data.encode("latin-1"))
        return OK

    # ---- breakpoints ----

    def _insert(self, text: str) -> bytes:
        key = self._point(text)
        if key not in self._points:  # gdb may repeat itself
            type, address, length = key
            self._points[key] = self._debugger.insert(
                KINDS[type][0], address, length, cpu=self._cpu, owner=self
            )
        return OK

    def _remove(self, text: str) -> bytes:
        point = self._points.pop(self._point(text), None)
        if point is not None:
            self._debugger.remove(point)
        return OK

    def _point(self, text: str) -> tuple[int, int, int]:
        """`TYPE,ADDRESS,KIND`: the length of what is watched, or of an instruction for a break."""
        type, _, place = text.partition(";")[0].partition(",")
        address, length = pair(place)
        if type not in map(str, KINDS):
            raise Refusal
        return int(type), address, 1 if int(type) < 2 else length

    # ---- queries ----

    def _supported(self, text: str) -> bytes:
        self._reasons = {"swbreak", "hwbreak"} & {
            feature.removesuffix("+") for feature in text.removeprefix(":").split(";")
        }
        return FEATURES.encode()

    def _transfer(self, text: str) -> bytes:
        """`:OBJECT:read:ANNEX:OFFSET,LENGTH`."""
        object, _, rest = text.removeprefix(":").partition(":")
        operation, _, rest = rest.partition(":")
        annex, _, place = rest.rpartition(":")
        make = {
            ("features", "target.xml"): self._target.description,
            ("memory-map", ""): memory_map,
            ("threads", ""): self._threads_xml,
        }.get((object, annex))
        if make is None or operation != "read":
            return UNKNOWN
        offset, length = pair(place)
        content = make().encode()
        part = content[offset : offset + min(length, PACKET_SIZE // 2)]
        return (b"m" if offset + len(part) < len(content) else b"l") + part

    def _command(self, text: str) -> bytes:
        """`,HEX`: a command of the monitor, for the vCPU that gdb looks at."""
        line = data_of(text.removeprefix(",")).decode(errors="replace")
        self._session.cpu = self._cpu
        try:
            said = str(self._session.execute(line) or "")
        except PyvmmError as error:
            said = str(error)
        output = f"{said}\n".encode() if said else b""
        for at in range(0, len(output), PACKET_SIZE // 4):
            self._output(b"O" + output[at : at + PACKET_SIZE // 4].hex().encode())
        return OK

    def _stop_acks(self, _: str) -> bytes:
        self.acks = False
        return OK


HANDLERS: dict[str, Callable[[Stub, str], bytes | None]] = {
    "?": Stub._stop_reply,
    "c": Stub._continue,
    "C": Stub._continue_with_signal,
    "s": Stub._step,
    "S": Stub._step_with_signal,
    "vCont": Stub._vcont,
    "vCont?": lambda stub, text: b"vCont;c;C;s;S;t",
    "D": Stub._detach,
    "k": lambda stub, text: stub._kill(text) and None,
    "vKill": Stub._kill,
    "H": Stub._choose,
    "T": Stub._alive,
    "qC": lambda stub, text: b"QC%x" % (stub._cpu + 1),
    "qfThreadInfo": Stub._all_threads,
    "qsThreadInfo": lambda stub, text: b"l",
    "qThreadExtraInfo": Stub._extra_info,
    "g": Stub._read_registers,
    "G": Stub._write_registers,
    "p": Stub._read_register,
    "P": Stub._write_register,
    "m": Stub._read_memory,
    "M": Stub._write_memory,
    "X": Stub._write_binary,
    "Z": Stub._insert,
    "z": Stub._remove,
    "qSupported": Stub._supported,
    "qAttached": lambda stub, text: b"1",  # to what ran already: gdb detaches when it quits
    "qXfer": Stub._transfer,
    "qRcmd": Stub._command,
    "QStartNoAckMode": Stub._stop_acks,
}
