"""A virtual CPU: running it, and its state."""

import errno
import threading
from collections.abc import Mapping, Sequence

from pyvmm.errors import KvmError
from pyvmm.kvm import exits
from pyvmm.kvm._call import Handle, call, call_value
from pyvmm.kvm.cpuid import CpuidEntry
from pyvmm.native import ffi, lib
from pyvmm.typed import Any
from pyvmm.value import Value

EXIT_KINDS = tuple(
    name.removeprefix("PV_EXIT_").lower()
    for name in (ffi.typeof("enum pv_exit_kind").elements[i] for i in range(lib.PV_EXIT_KINDS))
)
MSRS_PER_CALL = 256  # KVM's own limit, MAX_IO_MSRS in arch/x86/kvm/x86.c


class LastExit(Value):
    """One of the last exits: its kind (of EXIT_KINDS), the access, and where the guest was."""

    kind: str
    address: int
    size: int
    rip: int


class Place(Value):
    """How often the guest accessed an address in one way: a kind of EXIT_KINDS.

    `address` is None for all those that had no room in the table of 256 addresses.
    """

    kind: str
    address: int | None
    count: int


class _State:
    """A piece of state with a KVM_GET_ and a KVM_SET_ ioctl, as an attribute."""

    def __init__(self, name: str, ctype: str, get: str | None = None) -> None:
        self._get = get or f"KVM_GET_{name}"
        self._set = f"KVM_SET_{name}"
        self._pointer = ffi.typeof(f"{ctype} *")

    def __get__(self, vcpu: "Vcpu", owner: type) -> Any:
        state = ffi.new(self._pointer)
        call(vcpu.fd, self._get, state, f"vCPU {vcpu.index}")
        return state

    def __set__(self, vcpu: "Vcpu", state: Any) -> None:
        call(vcpu.fd, self._set, state, f"vCPU {vcpu.index}")


class Vcpu(Handle):
    """An open vCPU.

    `run` and all state belong to one thread at a time; `kick` may be called on any. State raises
    KvmError on failure.
    """

    regs = _State("REGS", "struct kvm_regs")
    sregs = _State("SREGS", "struct kvm_sregs")
    fpu = _State("FPU", "struct kvm_fpu")
    xcrs = _State("XCRS", "struct kvm_xcrs")
    lapic = _State("LAPIC", "struct kvm_lapic_state")
    events = _State("VCPU_EVENTS", "struct kvm_vcpu_events")
    debugregs = _State("DEBUGREGS", "struct kvm_debugregs")

    def __init__(self, fd: int, index: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.index = index
        self.thread_id = 0  # the host's, of the thread that runs it; 0 before there is one
        self.native = ffi.new("struct pv_vcpu *", {"fd": fd, "index": index, "run_size": mmap_size})
        self._rings: set[Any] = set()  # all that it was ever given: the thread may be using one
        error = lib.pv_vcpu_open(self.native)
        if error:
            super().close()
            raise KvmError("mmap of struct kvm_run", -error, f"vCPU {index}")

    def close(self) -> None:
        """Unmap and close; the vCPU must not be running."""
        lib.pv_vcpu_close(self.native)
        self.native.fd = -1
        super().close()

    # ---- running ----

    def enter_thread(self) -> None:
        """Make the calling thread the one that runs this vCPU and that `kick` interrupts.

        All its other signals but those of its own faults are blocked from now on. Raises KvmError.
        """
        error = lib.pv_vcpu_enter(self.native)
        if error:
            raise KvmError("pthread_sigmask", -error, f"vCPU {self.index}")
        self.thread_id = threading.get_native_id()

    def leave_thread(self) -> None:
        """Take enter_thread back, before the thread ends."""
        lib.pv_vcpu_leave(self.native)

    def run(self) -> exits.Exit:
        """Run the guest until something is to be decided.

        A read is to be answered with `answer` before the next run. Raises KvmError if KVM_RUN
        itself fails. Signals end the run with Interrupted.
        """
        return self.describe(lib.pv_vcpu_run(self.native))

    def describe(self, kind: int) -> exits.Exit:
        """The typed exit for what pv_vcpu_run returned."""
        v = self.native
        match kind:
            case lib.PV_EXIT_PIO_READ:
                return exits.PioRead(v.address, v.size)
            case lib.PV_EXIT_PIO_WRITE:
                return exits.PioWrite(v.address, v.size, v.value)
            case lib.PV_EXIT_MMIO_READ:
                return exits.MmioRead(v.address, v.size)
            case lib.PV_EXIT_MMIO_WRITE:
                return exits.MmioWrite(v.address, v.size, v.value)
            case lib.PV_EXIT_INTERRUPTED:
                return exits.Interrupted()
            case lib.PV_EXIT_HLT:
                return exits.Hlt()
            case lib.PV_EXIT_SHUTDOWN:
                return exits.Shutdown()
            case lib.PV_EXIT_FAIL_ENTRY:
                return exits.FailEntry(v.info[0], v.info[1])
            case lib.PV_EXIT_INTERNAL_ERROR:
                return exits.InternalError(v.info[0], self._data())
            case lib.PV_EXIT_DEBUG:
                return exits.Debug(*v.info[0:4])
            case lib.PV_EXIT_SYSTEM_EVENT:
                return exits.SystemEvent(v.info[0], self._data())
            case lib.PV_EXIT_UNKNOWN:
                return exits.Unknown(v.info[0])
            case _:
                raise KvmError("KVM_RUN", v.info[0], f"vCPU {self.index}")

    def _data(self) -> tuple[int, ...]:
        count = min(self.native.info[1], lib.PV_INFO - 2)
        return tuple(self.native.info[2 : 2 + count])

    def answer(self, value: int) -> None:
        """The value that the guest's read gets."""
        self.native.value = value

    def kick(self) -> None:
        """Make `run` return Interrupted soon, or at once when it is called next. Any thread."""
        if self.fd >= 0:
            lib.pv_vcpu_kick(self.native)

    def exit_counts(self) -> dict[str, int]:
        """How many exits of each kind there were. Any thread."""
        return dict(zip(EXIT_KINDS, self.native.exits, strict=True))

    def answered_counts(self) -> dict[str, int]:
        """How many exits of each kind the C loop answered without Python. Any thread."""
        return dict(zip(EXIT_KINDS, self.native.answered, strict=True))

    def trace(self, ring: Any) -> None:
        """Have its exits put into a struct pv_tracer; None ends that. Any thread."""
        if ring is not None:
            self._rings.add(ring)
        self.native.tracer = ring if ring is not None else ffi.NULL

    def last_exits(self) -> list[LastExit]:
        """The last accesses and other exits, oldest first."""
        count = self.native.traced
        entries = (
            self.native.trace[at % lib.PV_TRACE]
            for at in range(max(0, count - lib.PV_TRACE), count)
        )
        return [LastExit(EXIT_KINDS[e.kind], e.address, e.size, e.rip) for e in entries]

    def places(self) -> list[Place]:
        """The addresses that the guest accessed, the most frequent first. Any thread."""
        native = self.native
        found = [
            Place(EXIT_KINDS[one.kind], one.address, one.count)
            for one in native.places
            if one.count
        ]
        found += [
            Place(EXIT_KINDS[kind], None, count)
            for kind, count in enumerate(native.elsewhere)
            if count
        ]
        return sorted(found, key=lambda place: -place.count)

    # ---- state ----

    @property
    def mp_state(self) -> int:
        """One of KVM_MP_STATE_*."""
        state = ffi.new("struct kvm_mp_state *")
        call(self.fd, "KVM_GET_MP_STATE", state, f"vCPU {self.index}")
        return int(state.mp_state)

    @mp_state.setter
    def mp_state(self, value: int) -> None:
        state = ffi.new("struct kvm_mp_state *", (value,))
        call(self.fd, "KVM_SET_MP_STATE", state, f"vCPU {self.index}")

    def get_xsave(self, size: int) -> bytes:
        """The extended FPU state; `size` is what the capability XSAVE2 answers."""
        area = ffi.new("char[]", size)
        call(self.fd, "KVM_GET_XSAVE2", area, f"vCPU {self.index}")
        return bytes(ffi.buffer(area))

    def set_xsave(self, state: bytes) -> None:
        """Set what get_xsave gave."""
        call(self.fd, "KVM_SET_XSAVE", ffi.from_buffer(state), f"vCPU {self.index}")

    def get_msrs(self, indices: Sequence[int]) -> dict[int, int]:
        """The values of these MSRs; those that this KVM refuses are left out."""
        values: dict[int, int] = {}
        rest = list(indices)
        while rest:
            chunk = rest[:MSRS_PER_CALL]
            table = _msr_table(dict.fromkeys(chunk, 0))
            done = call(self.fd, "KVM_GET_MSRS", table, f"vCPU {self.index}")
            values |= {entry.index: entry.data for entry in table.entries[0:done]}
            # KVM stops at the first that it refuses: leave it out and go on behind it.
            rest = rest[done + (done < len(chunk)) :]
        return values

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set these MSRs. Raises KvmError that names the first that this KVM refuses."""
        items = list(values.items())
        for start in range(0, len(items), MSRS_PER_CALL):
            chunk = dict(items[start : start + MSRS_PER_CALL])
            done = call(self.fd, "KVM_SET_MSRS", _msr_table(chunk), f"vCPU {self.index}")
            if done < len(chunk):
                refused = list(chunk)[done]
                raise KvmError("KVM_SET_MSRS", errno.EINVAL, f"vCPU {self.index}, MSR {refused:#x}")

    def set_cpuid(self, entries: Sequence[CpuidEntry]) -> None:
        """What CPUID tells this vCPU; before its first run."""
        asked = f"vCPU {self.index}, {len(entries)} entries"
        call(self.fd, "KVM_SET_CPUID2", _cpuid_table(entries), asked)

    @property
    def tsc_khz(self) -> int:
        """The frequency of the guest's time stamp counter in kHz."""
        return call_value(self.fd, "KVM_GET_TSC_KHZ", 0, f"vCPU {self.index}")

    @tsc_khz.setter
    def tsc_khz(self, khz: int) -> None:
        call_value(self.fd, "KVM_SET_TSC_KHZ", khz, f"vCPU {self.index}, {khz} kHz")

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """Set KVM_GUESTDBG_* flags and the debug registers that go with them; 0 ends it."""
        what = {"control": control, "arch": {"debugreg": list(debugreg)}}
        call(
            self.fd,
            "KVM_SET_GUEST_DEBUG",
            ffi.new("struct kvm_guest_debug *", what),
            f"vCPU {self.index}, control {control:#x}",
        )

    def translate(self, address: int) -> int | None:
        """The guest-physical address of a virtual one in the present page tables, or None."""
        translation = ffi.new("struct kvm_translation *", {"linear_address": address})
        call(self.fd, "KVM_TRANSLATE", translation, f"vCPU {self.index}, {address:#x}")
        return int(translation.physical_address) if translation.valid else None

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        call_value(self.fd, "KVM_NMI", 0, f"vCPU {self.index}")

    def kvmclock_paused(self) -> None:
        """Tell the guest that it was stopped, so that its watchdogs stay quiet.

        A guest that does not use kvmclock is not told.
        """
        try:
            call_value(self.fd, "KVM_KVMCLOCK_CTRL", 0, f"vCPU {self.index}")
        except KvmError as error:
            if error.errno != errno.EINVAL:
                raise


def _cpuid_table(entries: Sequence[CpuidEntry]) -> Any:
    rows = [(e.function, e.index, e.flags, *e.registers) for e in entries]
    return ffi.new("struct kvm_cpuid2 *", {"nent": len(rows), "entries": rows})


def _msr_table(values: Mapping[int, int]) -> Any:
    entries = [{"index": index, "data": data} for index, data in values.items()]
    return ffi.new("struct kvm_msrs *", {"nmsrs": len(entries), "entries": entries})


def segment(selector: int, type_: int, *, long_mode: bool = False) -> Any:
    """A flat 4 GiB segment for sregs; `type_` as in the descriptor (SDM volume 3A §3.4.5.1)."""
    flat = {
        "selector": selector,
        "type": type_,
        "limit": 0xFFFF_FFFF,
        "present": 1,
        "s": 1,
        "g": 1,
        "l": int(long_mode),
        "db": int(not long_mode),
    }
    return ffi.new("struct kvm_segment *", flat)[0]  # what is not named is zero
