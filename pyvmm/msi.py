"""Message-signalled interrupts and doorbells by KVM: irqfds with their routes, and ioeventfds."""

from __future__ import annotations

import threading

from pyvmm.kvm.vm import IrqchipRoute, MsiRoute, Vm
from pyvmm.layout import GSI_COUNT

PIC_PINS = 8


def irqchip_routes() -> list[IrqchipRoute]:
    """The routes that KVM_CREATE_IRQCHIP makes, which KVM_SET_GSI_ROUTING replaces as well."""
    pics = [
        IrqchipRoute(gsi, ("PIC_MASTER", "PIC_SLAVE")[gsi // PIC_PINS], gsi % PIC_PINS)
        for gsi in range(2 * PIC_PINS)
    ]
    return pics + [IrqchipRoute(gsi, "IOAPIC", gsi) for gsi in range(GSI_COUNT)]


class MsiRouter:
    """The routes of one VM's interrupts. Any thread may call it."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self._lock = threading.Lock()
        self._fixed = irqchip_routes()
        self._messages: dict[int, MsiRoute] = {}
        self._next = GSI_COUNT

    def vector(self) -> KvmVector:
        """A new vector, with a GSI of its own."""
        with self._lock:
            self._next += 1
            return KvmVector(self, self._next - 1)

    def set(self, route: MsiRoute) -> None:
        """Set one GSI's message."""
        with self._lock:
            self._messages[route.gsi] = route
            self.vm.set_gsi_routing([*self._fixed, *self._messages.values()])


class KvmVector:
    """An MsiVector: a GSI whose message KVM sends when an eventfd is signalled."""

    def __init__(self, router: MsiRouter, gsi: int) -> None:
        self._router = router
        self._gsi = gsi

    def route(self, address: int, data: int) -> None:
        """See MsiVector."""
        self._router.set(MsiRoute(self._gsi, address, data))

    def connect(self, eventfd: int) -> None:
        """See MsiVector.

        KVM sends the message at once for an eventfd that is signalled already. Whatever the
        counter holds when it is disconnected has been sent, and KVM clears it then.
        """
        self._router.vm.irqfd(eventfd, self._gsi)

    def disconnect(self, eventfd: int) -> None:
        """See MsiVector."""
        self._router.vm.irqfd(eventfd, self._gsi, deassign=True)


class KvmDoorbells:
    """Doorbells by ioeventfds: of any width, or, where a value is to match, of 32 bits."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def connect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        """See Doorbells."""
        self._set(address, eventfd, datamatch, deassign=False)

    def disconnect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        """See Doorbells."""
        self._set(address, eventfd, datamatch, deassign=True)

    def _set(self, address: int, eventfd: int, datamatch: int | None, *, deassign: bool) -> None:
        length = 0 if datamatch is None else 4
        self._vm.ioeventfd(eventfd, address, length, datamatch=datamatch, deassign=deassign)
