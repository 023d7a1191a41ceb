"""What the functions of the PCI bus are, and how the guest has set them up, for people."""

from __future__ import annotations

from pyvmm.pci import pci_spec as spec
from pyvmm.pci.config import ConfigSpace
from pyvmm.pci.function import Function
from pyvmm.pci.root import PciRoot
from pyvmm.value import Value


class BarDescription(Value):
    """A base address register. `address` is None while it is not decoded; sizes are in bytes."""

    index: int
    size: int
    ports: bool
    width: int  # of the register: 32 or 64 bits
    prefetch: bool
    address: int | None


class Capability(Value):
    """A capability: its offset, what it is, and the bytes after its header, up to the next one."""

    offset: int
    identity: int
    body: bytes


class FunctionDescription(Value):
    """A function. `device` and `number` are where it is on bus 0; a pin of 0 is none."""

    device: int
    number: int
    vendor: int
    device_id: int
    subsystem_vendor: int
    subsystem: int
    class_code: int  # base class, subclass, interface
    revision: int
    command: int
    pin: int
    line: int  # what the guest has noted of the pin
    bars: tuple[BarDescription, ...]
    capabilities: tuple[Capability, ...]
    vectors: int  # of MSI-X; 0 if it has none
    messages: bool  # whether MSI-X is switched on


def describe(root: PciRoot) -> list[FunctionDescription]:
    """All functions, in the order of their places. Any thread."""
    with root.lock:
        return [_describe(place, root.functions[place]) for place in sorted(root.functions)]


def _describe(place: int, function: Function) -> FunctionDescription:
    get = function.config.get
    return FunctionDescription(
        *divmod(place, spec.FUNCTIONS),
        get(spec.VENDOR_ID, 2),
        get(spec.DEVICE_ID, 2),
        get(spec.SUBSYSTEM_VENDOR_ID, 2),
        get(spec.SUBSYSTEM_ID, 2),
        get(spec.CLASS, 3),
        get(spec.REVISION, 1),
        function.command,
        get(spec.INTERRUPT_PIN, 1),
        get(spec.INTERRUPT_LINE, 1),
        tuple(
            BarDescription(
                bar.index,
                bar.size,
                bar.is_io,
                8 * bar.width,
                not bar.is_io and bool(bar.flags & spec.BAR_PREFETCH),
                bar.address,
            )
            for bar in function.bars
        ),
        _capabilities(function.config),
        0 if function.msix is None else function.msix.count,
        function.msix is not None and function.msix.enabled,
    )


def _capabilities(config: ConfigSpace) -> tuple[Capability, ...]:
    """The list of capabilities, which only this program writes."""
    offsets, at = [], config.get(spec.CAPABILITIES, 1)
    while at:
        offsets.append(at)
        at = config.get(at + spec.CAPABILITY_NEXT, 1)
    ends = [*offsets[1:], spec.LEGACY_SIZE][: len(offsets)]
    return tuple(
        Capability(
            offset,
            config.get(offset, 1),
            bytes(config.data[offset + spec.CAPABILITY_HEADER : end]),
        )
        for offset, end in zip(offsets, ends, strict=True)
    )
