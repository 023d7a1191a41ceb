"""A VM: its memory slots and everything in the kernel that is not a vCPU."""

from collections.abc import Callable, Sequence

from pyvmm.kvm._call import Handle, call, call_value
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.native import ffi, lib
from pyvmm.typed import Any
from pyvmm.value import Value

IRQCHIPS = ("PIC_MASTER", "PIC_SLAVE", "IOAPIC")


class IrqchipRoute(Value):
    """Global system interrupt `gsi` goes to `pin` of `chip`, one of IRQCHIPS."""

    gsi: int
    chip: str
    pin: int


class MsiRoute(Value):
    """Global system interrupt `gsi` is a write of `data` to `address`."""

    gsi: int
    address: int
    data: int


class Vm(Handle):
    """An open VM. Every method may be called on any thread and raises KvmError on failure."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size
        self.on_irq_line: Callable[[int, bool], object] | None = None  # told of each that is driven

    def create_vcpu(self, index: int) -> Vcpu:
        """A new vCPU whose APIC id is `index`; set its CPUID before it runs."""
        fd = call_value(self.fd, "KVM_CREATE_VCPU", index, f"vCPU {index}")
        return Vcpu(fd, index, self._vcpu_mmap_size)

    def enable_capability(self, name: str, *args: int) -> None:
        """Switch on KVM_CAP_<name> for this VM."""
        what = {"cap": getattr(lib, f"KVM_CAP_{name}"), "args": args}
        call(self.fd, "KVM_ENABLE_CAP", ffi.new("struct kvm_enable_cap *", what), name)

    # ---- memory ----

    def set_memory(
        self,
        slot: int,
        base: int,
        memory: memoryview | None,
        *,
        readonly: bool = False,
        log_dirty: bool = False,
    ) -> None:
        """Let `memory` appear at guest-physical `base` as `slot`; None takes the slot away.

        `memory` must stay mapped for as long as the slot is there. A guest's write to a read-only
        slot is an MMIO exit.
        """
        flags = lib.KVM_MEM_READONLY if readonly else 0
        flags |= lib.KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0
        size = len(memory) if memory is not None else 0
        host = int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) if memory is not None else 0
        region = ffi.new("struct kvm_userspace_memory_region *", (slot, flags, base, size, host))
        call(
            self.fd,
            "KVM_SET_USER_MEMORY_REGION",
            region,
            f"slot {slot}, {size:#x} bytes at {base:#x}",
        )

    def dirty_log(self, slot: int, size: int) -> bytes:
        """The pages of the slot (`size` bytes) written since the last call: one bit a page."""
        bitmap = ffi.new("uint64_t[]", (size // 4096 + 63) // 64)
        log = ffi.new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": bitmap})
        call(self.fd, "KVM_GET_DIRTY_LOG", log, f"slot {slot}")
        return bytes(ffi.buffer(bitmap))

    def set_tss_address(self, address: int) -> None:
        """Where Intel hosts may keep three pages of their own (KVM api.rst 4.36)."""
        call_value(self.fd, "KVM_SET_TSS_ADDR", address, f"{address:#x}")

    def set_identity_map_address(self, address: int) -> None:
        """Where Intel hosts may keep a page of their own (KVM api.rst 4.40)."""
        pointer = ffi.new("uint64_t *", address)
        call(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", pointer, f"{address:#x}")

    # ---- interrupts ----

    def create_irqchip(self) -> None:
        """Put the two PICs, the IOAPIC and the vCPUs' local APICs into the kernel."""
        call_value(self.fd, "KVM_CREATE_IRQCHIP")

    def create_pit(self) -> None:
        """Put the timer 8254 and its port 0x61 into the kernel."""
        config = ffi.new("struct kvm_pit_config *", {"flags": lib.KVM_PIT_SPEAKER_DUMMY})
        call(self.fd, "KVM_CREATE_PIT2", config)

    def get_irqchip(self, chip: str) -> Any:
        """The state of one of IRQCHIPS: a struct kvm_irqchip."""
        state = ffi.new("struct kvm_irqchip *", {"chip_id": getattr(lib, f"KVM_IRQCHIP_{chip}")})
        call(self.fd, "KVM_GET_IRQCHIP", state, chip)
        return state

    def set_irqchip(self, state: Any) -> None:
        """Set what get_irqchip gave."""
        call(self.fd, "KVM_SET_IRQCHIP", state)

    def get_pit(self) -> Any:
        """The state of the timer 8254: a struct kvm_pit_state2."""
        state = ffi.new("struct kvm_pit_state2 *")
        call(self.fd, "KVM_GET_PIT2", state)
        return state

    def set_pit(self, state: Any) -> None:
        """Set what get_pit gave."""
        call(self.fd, "KVM_SET_PIT2", state)

    def irq_line(self, gsi: int, level: bool) -> None:
        """Drive an interrupt line of the in-kernel controllers."""
        if self.on_irq_line is not None:
            self.on_irq_line(gsi, level)
        line = ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": level})
        call(self.fd, "KVM_IRQ_LINE", line, f"GSI {gsi}")

    def irqfd(
        self, eventfd: int, gsi: int, *, resamplefd: int | None = None, deassign: bool = False
    ) -> None:
        """Raise `gsi` whenever `eventfd` is signalled, or no longer.

        With `resamplefd` the line is level-triggered, and that eventfd tells of the guest's EOI.
        """
        flags = lib.KVM_IRQFD_FLAG_DEASSIGN if deassign else 0
        flags |= lib.KVM_IRQFD_FLAG_RESAMPLE if resamplefd is not None else 0
        what = {"fd": eventfd, "gsi": gsi, "flags": flags, "resamplefd": resamplefd or 0}
        call(self.fd, "KVM_IRQFD", ffi.new("struct kvm_irqfd *", what), f"GSI {gsi}")

    def ioeventfd(
        self,
        eventfd: int,
        address: int,
        length: int,
        *,
        datamatch: int | None = None,
        pio: bool = False,
        deassign: bool = False,
    ) -> None:
        """Signal `eventfd` when the guest writes `length` bytes at `address`, without an exit.

        `length` 0 means any; `datamatch` narrows it to writes of that value.
        """
        flags = lib.KVM_IOEVENTFD_FLAG_PIO if pio else 0
        flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH if datamatch is not None else 0
        flags |= lib.KVM_IOEVENTFD_FLAG_DEASSIGN if deassign else 0
        what = {
            "datamatch": datamatch or 0,
            "addr": address,
            "len": length,
            "fd": eventfd,
            "flags": flags,
        }
        call(self.fd, "KVM_IOEVENTFD", ffi.new("struct kvm_ioeventfd *", what), f"{address:#x}")

    def set_gsi_routing(self, routes: Sequence[IrqchipRoute | MsiRoute]) -> None:
        """Replace all routes from global system interrupts to interrupt controllers."""
        table = ffi.new("struct kvm_irq_routing *", {"nr": len(routes), "entries": len(routes)})
        for entry, route in zip(table.entries[0 : len(routes)], routes, strict=True):
            entry.gsi = route.gsi
            if isinstance(route, MsiRoute):
                entry.type = lib.KVM_IRQ_ROUTING_MSI
                entry.u.msi.address_lo = route.address & 0xFFFF_FFFF
                entry.u.msi.address_hi = route.address >> 32
                entry.u.msi.data = route.data
            else:
                entry.type = lib.KVM_IRQ_ROUTING_IRQCHIP
                entry.u.irqchip.irqchip = getattr(lib, f"KVM_IRQCHIP_{route.chip}")
                entry.u.irqchip.pin = route.pin
        call(self.fd, "KVM_SET_GSI_ROUTING", table, f"{len(routes)} routes")

    def signal_msi(self, address: int, data: int) -> bool:
        """Deliver one message-signalled interrupt; False if the guest blocks it."""
        what = {"address_lo": address & 0xFFFF_FFFF, "address_hi": address >> 32, "data": data}
        message = ffi.new("struct kvm_msi *", what)
        return call(self.fd, "KVM_SIGNAL_MSI", message, f"{data:#x} to {address:#x}") > 0

    # ---- time ----

    @property
    def clock(self) -> int:
        """The guest's kvmclock in nanoseconds."""
        data = ffi.new("struct kvm_clock_data *")
        call(self.fd, "KVM_GET_CLOCK", data)
        return int(data.clock)

    @clock.setter
    def clock(self, nanoseconds: int) -> None:
        data = ffi.new("struct kvm_clock_data *", {"clock": nanoseconds})
        call(self.fd, "KVM_SET_CLOCK", data, f"{nanoseconds} ns")
