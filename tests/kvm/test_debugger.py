"""Breakpoints, watchpoints and steps on real vCPUs."""

from __future__ import annotations

import pytest
from conftest import SOFTWARE_KVM, TIMEOUT, machine
from debugging import Stops, symbol, unstarted

from pyvmm import Machine, debugger, events
from pyvmm import debug_spec as spec
from pyvmm.breakpoints import ACCESS, BREAK, HARDWARE_BREAK, WRITE, int3_can_be_caught
from pyvmm.debugger import BREAKPOINT, STEP, WATCHPOINT, Stop
from pyvmm.errors import HostError, UnmappedError, UsageError
from pyvmm.kvm import exits

no_watchpoints = pytest.mark.skipif(SOFTWARE_KVM, reason="a software KVM has no watchpoints")
no_int3 = pytest.mark.skipif(SOFTWARE_KVM, reason="a software KVM has no int3 in kernel mode")
TRAMPOLINE, COUNTER = 0x8000, 0x8800  # of debug.c


def rip(vm: Machine, cpu: int = 0) -> int:
    return int(vm.board.vcpus[cpu].regs.rip)


def test_a_breakpoint_is_met_each_time_and_no_more_once_it_is_removed() -> None:
    with machine("debug", "count") as vm:
        stops = Stops(vm)
        tick = symbol("tick")
        point = vm.debugger.insert(BREAK, tick)
        counts = []
        for _ in range(3):
            stops.wait()
            assert vm.debugger.stop == Stop(0, BREAKPOINT, tick)
            assert rip(vm) == tick
            counts.append(vm.memory.u64(symbol("ticks")))
            vm.resume()
        assert counts == list(range(counts[0], counts[0] + 3))
        stops.wait()
        vm.debugger.remove(point)
        vm.resume()
        assert vm.state == "running"


def test_breakpoints_before_the_start_are_met() -> None:
    with unstarted("count") as vm:
        stops = Stops(vm)
        vm.debugger.insert(HARDWARE_BREAK, symbol("_start"))
        vm.start()
        stops.wait()
        assert rip(vm) == symbol("_start")


def test_a_step_is_one_instruction_and_the_other_cpu_stands_still() -> None:
    with machine("debug", "both", cpus=2) as vm:
        stops = Stops(vm)
        vm.debugger.insert(BREAK, TRAMPOLINE)
        stops.wait()
        assert vm.debugger.stop == Stop(1, BREAKPOINT, TRAMPOLINE)
        before, counted = rip(vm, 0), vm.memory.u16(COUNTER)
        for address, more in ((TRAMPOLINE + 5, 1), (TRAMPOLINE, 1), (TRAMPOLINE + 5, 2)):
            vm.debugger.step(1)
            stop = vm.debugger.stop
            assert stop is not None
            assert (stop.cpu, stop.address) == (1, address)
            assert stop.reason == (BREAKPOINT if address == TRAMPOLINE else STEP)
            assert vm.memory.u16(COUNTER) == counted + more
        assert rip(vm, 0) == before


def test_one_cpu_can_step_while_the_others_run() -> None:
    with machine("debug", "both", cpus=2) as vm:
        stops = Stops(vm)
        point = vm.debugger.insert(BREAK, TRAMPOLINE)
        stops.wait()
        vm.debugger.remove(point)
        ticks = vm.memory.u64(symbol("ticks"))
        while vm.memory.u64(symbol("ticks")) == ticks:
            vm.debugger.resume([1])
            stops.wait()
            assert vm.debugger.stop is not None
            assert vm.debugger.stop.reason == STEP


def test_only_some_cpus_can_be_let_run() -> None:
    with machine("debug", "both", cpus=2) as vm:
        stops = Stops(vm)
        point = vm.debugger.insert(BREAK, TRAMPOLINE)
        stops.wait()
        vm.debugger.remove(point)
        counted = vm.memory.u16(COUNTER)
        vm.debugger.insert(BREAK, symbol("tick"))
        vm.debugger.resume(only=[0])
        stops.wait()
        assert vm.memory.u16(COUNTER) == counted
        assert vm.debugger.stop == Stop(0, BREAKPOINT, symbol("tick"))


def test_both_cpus_meet_their_breakpoints() -> None:
    with machine("debug", "both", cpus=2) as vm:
        stops = Stops(vm)
        vm.debugger.insert(BREAK, TRAMPOLINE)
        vm.debugger.insert(BREAK, symbol("tick"))
        met = set()
        for _ in range(20):
            stops.wait()
            assert vm.debugger.stop is not None
            met.add(vm.debugger.stop.cpu)
            vm.resume()
        assert met == {0, 1}


def test_of_a_string_instruction_a_step_is_one_repetition() -> None:
    with unstarted("copy") as vm:
        stops = Stops(vm)
        point = vm.debugger.insert(BREAK, symbol("string"))
        after = vm.debugger.insert(BREAK, symbol("string_end"))
        vm.start()
        stops.wait()
        vm.debugger.remove(point)
        left = vm.vcpus[0].regs.rcx
        vm.debugger.step(0)
        assert rip(vm) == symbol("string")
        repeated = left - vm.vcpus[0].regs.rcx
        assert repeated >= 1 if SOFTWARE_KVM else repeated == 1  # it takes several at once
        stops = Stops(vm)
        vm.resume()
        stops.wait()
        assert rip(vm) == symbol("string_end")
        assert vm.memory.read(symbol("copy"), left) == vm.memory.read(symbol("source"), left)
        vm.debugger.remove(after)


def test_a_halt_is_stepped_over() -> None:
    with unstarted("halt") as vm:
        stops = Stops(vm)
        vm.debugger.insert(BREAK, symbol("halt_here"))
        vm.start()
        stops.wait()
        vm.debugger.step(0)
        assert rip(vm) == symbol("halt_end")


class EnoughError(Exception):
    pass


def enough() -> None:
    raise EnoughError


def test_who_waits_for_a_step_can_give_up() -> None:
    with machine("debug", "count", cpus=2) as vm:  # nobody starts the second one
        vm.pause()
        where = rip(vm)
        with pytest.raises(EnoughError):
            vm.debugger.step(1, enough)
        assert vm.state == "paused"
        assert rip(vm) == where
        stops = Stops(vm)
        vm.debugger.insert(BREAK, symbol("tick"))
        vm.resume()
        stops.wait()


@pytest.mark.parametrize("own", ["step", pytest.param("breakpoint", marks=no_int3)])
def test_what_the_guest_debugs_itself_reaches_it(own: str) -> None:
    with unstarted(own) as vm:
        vm.debugger.insert(BREAK, symbol("tick"))  # which it does not come to
        vm.start()
        vm.serial.expect(f"own {own}\n".encode(), timeout=TIMEOUT)


@no_watchpoints
@pytest.mark.parametrize("kind", [WRITE, ACCESS])
def test_a_watchpoint_stops_behind_the_access(kind: str) -> None:
    with machine("debug", "count") as vm:
        stops = Stops(vm)
        ticks = symbol("ticks")
        vm.debugger.insert(kind, ticks, 8)
        stops.wait()
        assert vm.debugger.stop == Stop(0, WATCHPOINT, ticks)
        assert symbol("tick") < rip(vm) < symbol("tick") + 32


def test_a_fifth_breakpoint_is_an_int3_or_a_clear_error() -> None:
    with machine("debug", "count") as vm:
        stops = Stops(vm)
        tick = symbol("tick")
        for away in range(4):
            vm.debugger.insert(BREAK, symbol("halt_here") + away)
        if not int3_can_be_caught():
            with pytest.raises(HostError, match="int3 that a further breakpoint needs"):
                vm.debugger.insert(BREAK, tick)
            assert len(vm.debugger.points) == 4
            return
        before = vm.memory.read(tick, 1)
        point = vm.debugger.insert(BREAK, tick)
        for _ in range(3):
            stops.wait()
            assert vm.debugger.stop == Stop(0, BREAKPOINT, tick)
            assert vm.memory.read(tick, 1) == b"\xcc"
            assert vm.debugger.read(0, tick, 1) == before
            vm.resume()
        stops.wait()
        vm.debugger.remove(point)
        assert vm.memory.read(tick, 1) == before


@pytest.fixture
def int3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have int3 written also where this KVM cannot catch it: these tests seldom execute one."""
    monkeypatch.setattr(debugger, "int3_can_be_caught", lambda: True)


def use_up_registers(vm: Machine) -> None:
    for away in range(spec.REGISTERS):
        vm.debugger.insert(HARDWARE_BREAK, symbol("halt_here") + away)


def test_int3_is_hidden_and_leaves_nothing_behind(int3: None) -> None:
    with machine("debug", "count", cpus=2) as vm:
        vm.pause()
        use_up_registers(vm)
        string = symbol("string")
        before = vm.memory.read(string - 2, 4)
        points = [vm.debugger.insert(BREAK, string), vm.debugger.insert(BREAK, string, cpu=1)]
        assert vm.memory.read(string, 1) == spec.INT3
        assert vm.debugger.read(0, string - 2, 4) == before
        vm.debugger.remove(points[0])
        assert vm.memory.read(string, 1) == spec.INT3
        vm.debugger.write(0, string - 1, b"\x90\x91\x92")
        assert vm.memory.read(string, 1) == spec.INT3
        assert vm.debugger.read(1, string - 1, 3) == b"\x90\x91\x92"
        vm.debugger.remove(points[1])
        assert vm.memory.read(string - 1, 3) == b"\x90\x91\x92"


def test_int3_moves_to_a_register_that_becomes_free(int3: None) -> None:
    with machine("debug", "count") as vm:
        vm.pause()
        string = symbol("string")
        before = vm.memory.read(string, 1)
        vm.debugger.insert(BREAK, string)
        use_up_registers(vm)
        assert vm.memory.read(string, 1) == spec.INT3
        vm.debugger.remove(vm.debugger.points[-1])
        assert vm.memory.read(string, 1) == before


def test_what_the_guest_puts_over_an_int3_stays(int3: None) -> None:
    with machine("debug", "count") as vm:
        vm.pause()
        use_up_registers(vm)
        point = vm.debugger.insert(BREAK, symbol("string"))
        vm.memory.write(symbol("string"), b"\x90")
        vm.debugger.remove(point)
        assert vm.memory.read(symbol("string"), 1) == b"\x90"


def test_int3_outlives_a_reset_only_where_its_code_does(
    int3: None, caplog: pytest.LogCaptureFixture
) -> None:
    with machine("debug", "count", no_reboot=False) as vm:
        vm.pause()
        use_up_registers(vm)
        restarted = Stops(vm, events.Restarted)  # told after the debugger
        kept = vm.debugger.insert(BREAK, symbol("string"))
        lost = vm.debugger.insert(BREAK, TRAMPOLINE)  # where a start leaves zeros
        vm.debugger.write(0, TRAMPOLINE, b"\x90")
        vm.reset()
        restarted.wait()
        assert vm.memory.read(symbol("string"), 1) == spec.INT3
        assert vm.memory.read(TRAMPOLINE, 1) == b"\0"
        assert kept in vm.debugger.points
        assert lost not in vm.debugger.points
        assert "is gone" in caplog.text


def test_going_past_an_int3_puts_it_back(int3: None) -> None:
    with machine("debug", "count") as vm:
        stops, tick = Stops(vm), symbol("tick")
        met = vm.debugger.insert(BREAK, tick)
        stops.wait()
        vm.debugger.remove(met)
        use_up_registers(vm)
        vm.debugger.insert(BREAK, tick)
        ticks = vm.memory.u64(symbol("ticks"))
        ended = Stops(vm, events.Ended)
        with vm.paused():  # as if it had met the int3 here
            vm.resume()
            vm.debugger.take(vm.vcpus[0], exits.Debug(spec.BP_VECTOR, tick, 0, 0))
        stops.wait()
        assert vm.debugger.stop == Stop(0, BREAKPOINT, tick)
        vm.resume()
        if int3_can_be_caught():
            stops.wait()
            assert vm.debugger.stop == Stop(0, BREAKPOINT, tick)
        else:
            ended.wait()  # of the int3, which is there again
        assert vm.memory.u64(symbol("ticks")) == ticks + 1


def test_what_needs_debug_registers_takes_no_more_than_there_are() -> None:
    with machine("debug", "count") as vm:
        vm.debugger.insert(WRITE, 0x1001, 15)  # of 1, 2, 4 and 8 bytes
        with pytest.raises(UsageError, match="no more hardware breakpoints than 4"):
            vm.debugger.insert(HARDWARE_BREAK, symbol("tick"))
        with pytest.raises(UsageError, match="4"):
            vm.debugger.insert(WRITE, 0x1000, 1 << 40)
        for length in (0, 1 << 64):
            with pytest.raises(UsageError, match="bytes at"):
                vm.debugger.insert(WRITE, 1, length)


def test_breakpoints_are_kept_over_a_reset() -> None:
    with machine("debug", "count", no_reboot=False) as vm:
        stops = Stops(vm)
        vm.debugger.insert(BREAK, symbol("_start"))
        vm.reset()
        stops.wait()
        assert vm.debugger.stop == Stop(0, BREAKPOINT, symbol("_start"))


def test_memory_is_that_of_the_cpu_s_own_mode() -> None:
    with machine("debug", "both", cpus=2) as vm:
        stops = Stops(vm)
        vm.debugger.insert(BREAK, TRAMPOLINE)  # its other CPU is in real mode, without paging
        stops.wait()
        code = vm.memory.read(TRAMPOLINE, 16)
        assert vm.debugger.read(0, TRAMPOLINE, 16) == vm.debugger.read(1, TRAMPOLINE, 16) == code
        end = vm.memory.size
        assert len(vm.debugger.read(0, end - 4, 16)) == 4
        beyond = 1 << 33  # what the first one's page tables do not map
        with pytest.raises(UnmappedError):
            vm.debugger.read(0, beyond, 4)
        with pytest.raises(UnmappedError):
            vm.debugger.write(0, beyond, b"x")
        vm.debugger.write(0, COUNTER, b"\1\2")
        assert vm.memory.read(COUNTER, 2) == b"\1\2"


def test_only_a_machine_that_stands_still_can_take_a_step() -> None:
    with machine("debug", "count") as vm, pytest.raises(UsageError, match="must be stopped"):
        vm.debugger.step(0)


def test_a_step_that_ends_after_another_stop_is_not_the_guest_s() -> None:
    with machine("debug", "count") as vm:  # which would die of an exception
        vcpu = vm.board.vcpus[0]
        with vm.paused():
            vm.debugger.resume([0])
            assert vm.debugger.prepare(vcpu)
            vm.pause()
            vm.debugger.take(vcpu, exits.Debug(spec.DB_VECTOR, rip(vm), spec.DR6_STEP, 0))
        stops = Stops(vm)
        vm.debugger.insert(BREAK, symbol("tick"))
        vm.resume()
        stops.wait()
        assert vm.debugger.stop == Stop(0, BREAKPOINT, symbol("tick"))


def test_the_monitor_has_commands_for_it() -> None:
    with unstarted("count") as vm:
        stops = Stops(vm)
        assert vm.command("break tick").data == {"number": 1, "at": symbol("tick")}  # type: ignore[union-attr]
        vm.start()
        stops.wait()
        assert "breakpoint" in str(vm.command("info status"))
        shown = str(vm.command("info breakpoints")).splitlines()
        assert shown[1].split()[:2] == ["1", "break"]
        assert "debug register" in shown[1]
        assert "tick" in shown[1]
        vm.command("step 0 3")
        assert symbol("tick") < rip(vm)
        with pytest.raises(UsageError, match="no breakpoint 2"):
            vm.command("delete 2")
        vm.command("delete 1")
        assert not vm.debugger.points
        vm.command("watchpoint ticks 8 access")
        vm.command("delete")
        assert not vm.debugger.points
