"""The memory and the registers of a guest in an ELF core file, which gdb and crash(8) open.

Each region of RAM is there once in the file. Segments show it at its guest-physical address and,
where the guest runs Linux, at the virtual addresses where its kernel sees it: all of memory in the
direct map, the kernel's image, and the stacks of its vCPUs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection import coredump_spec as spec
from pyvmm.inspection.guest import Found
from pyvmm.inspection.kernel import ADDRESS_SPACE, KERNEL_MAP, GuestKernel
from pyvmm.inspection.newfile import new_file, write_at
from pyvmm.inspection.orc_spec import STACK_SIZE
from pyvmm.layout import PAGE
from pyvmm.memory import GuestMemory
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine

CHUNK = 64 << 10  # bytes; what is only zeros is left out of the file
ZEROS = bytes(CHUNK)
CHUNKS_CHECKED = 16  # are copied between two calls of `check`


class Mapping(Value):
    """`size` bytes of RAM at guest-physical `physical` are seen at `virtual`."""

    virtual: int
    physical: int
    size: int


def dump(machine: Machine, path: str, check: Callable[[], None]) -> None:
    """Write the core file; the machine stands still meanwhile.

    It appears under its name, with the mode 0600, when it is whole. `check` is called often and may
    raise to end it. Raises UsageError if `path` is something else than a regular file, HostError if
    it cannot be written. Not on a vCPU's or the loop's thread.
    """
    with new_file(path) as fd, machine.paused():
        found, vcpus = machine.guest.found, machine.board.vcpus
        mappings = [*_mappings(machine.memory, found, vcpus)]
        _write(fd, machine.memory, mappings, _notes(vcpus, found), check)


def _write(
    fd: int,
    memory: GuestMemory,
    mappings: Sequence[Mapping],
    notes: bytes,
    check: Callable[[], None],
) -> None:
    count = 1 + len(mappings)
    head_size = spec.HEADER.size + count * spec.SEGMENT.size
    places, end = {}, _aligned(head_size + len(notes), PAGE)
    for region in memory.regions:
        places[region.base] = end
        end += region.size

    def place(physical: int) -> int:
        base = memory.region_at(physical, 1).base
        return places[base] + physical - base

    flags = spec.PF_R | spec.PF_W | spec.PF_X
    head = [
        spec.HEADER.pack(
            *(spec.IDENT, spec.ET_CORE, spec.EM_X86_64, spec.EV_CURRENT, 0, spec.HEADER.size, 0, 0),
            *(spec.HEADER.size, spec.SEGMENT.size, count, 0, 0, 0),
        ),
        spec.SEGMENT.pack(spec.PT_NOTE, 0, head_size, 0, 0, len(notes), len(notes), 0),
    ]
    for one in mappings:
        where = place(one.physical), one.virtual, one.physical
        head.append(spec.SEGMENT.pack(spec.PT_LOAD, flags, *where, one.size, one.size, 0))
    os.ftruncate(fd, end)
    write_at(fd, b"".join([*head, notes]), 0)
    for number, (address, size) in enumerate(_chunks(memory)):
        if number % CHUNKS_CHECKED == 0:
            check()
        data = memory.read(address, size)
        if data != ZEROS[:size]:
            write_at(fd, data, place(address))


def _chunks(memory: GuestMemory) -> Iterator[tuple[int, int]]:
    """What the guest has touched."""
    for start, length in memory.touched():
        for at in range(start, start + length, CHUNK):
            yield at, min(CHUNK, start + length - at)


# ---- where memory is seen ----


def _mappings(memory: GuestMemory, found: Found | None, vcpus: Sequence[Vcpu]) -> Iterator[Mapping]:
    """The kernel's image first, as kdump has it."""
    direct_map = 0
    if found is not None:
        with suppress(LookupError, ValueError, MemoryAccessError):
            yield _image(memory, found)
        direct_map = _direct_map(found)
    for region in memory.regions:
        yield Mapping((direct_map + region.base) % ADDRESS_SPACE, region.base, region.size)
    if found is not None:
        kernel = GuestKernel(memory, found.kernel.note)
        for vcpu in vcpus:
            yield from _stack(kernel, vcpu.regs.rsp)


def _image(memory: GuestMemory, found: Found) -> Mapping:
    """Raises LookupError, ValueError or MemoryAccessError for one that makes no sense."""
    start = found.kernel.symbol("_stext") & -PAGE
    physical = start - KERNEL_MAP + found.kernel.number("phys_base")
    size = memory.region_at(physical, 1).end - physical
    if found.symbols is not None:
        with suppress(LookupError):
            size = min(size, _aligned(found.symbols.address("_end") - start, PAGE))
    if size <= 0:
        raise ValueError("The image's end must be behind its start")
    return Mapping(start, physical, min(size, spec.IMAGE_MAX))


def _direct_map(found: Found) -> int:
    with suppress(LookupError, MemoryAccessError):
        if found.symbols is not None:
            return found.kernel.u64(found.symbols.address("page_offset_base"))
    return spec.DIRECT_MAPS[found.kernel.levels]


def _stack(kernel: GuestKernel, pointer: int) -> Iterator[Mapping]:
    """The pages of a kernel's stack, which need not be one after the other in memory."""
    start = pointer & -STACK_SIZE
    for page in range(start, start + STACK_SIZE, PAGE):
        with suppress(MemoryAccessError):
            physical = kernel.translate(page)
            kernel.read(page, PAGE)  # raises if it is not in RAM
            yield Mapping(page, physical, PAGE)


# ---- notes ----


def _notes(vcpus: Sequence[Vcpu], found: Found | None) -> bytes:
    states = [(vcpu, vcpu.regs, vcpu.sregs) for vcpu in vcpus]
    notes = [
        _note(b"CORE", spec.NT_PRSTATUS, _prstatus(vcpu.index, regs, sregs))
        for vcpu, regs, sregs in states
    ]
    notes += [_note(b"QEMU", spec.NT_QEMU, _qemu_state(*state)) for state in states]
    if found is not None and found.has_note:
        notes.append(_note(b"VMCOREINFO", spec.NT_VMCOREINFO, found.kernel.note.encode()))
    return b"".join(notes)


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    name += b"\0"
    head = spec.NOTE.pack(len(name), len(data), kind)
    return head + _padded(name) + _padded(data)


def _prstatus(index: int, regs: Any, sregs: Any) -> bytes:
    status = bytearray(spec.PRSTATUS_SIZE)
    struct.pack_into("<I", status, spec.PRSTATUS_PID, index + 1)
    names = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi"
    general = [getattr(regs, name) for name in names.split()]
    selectors = [getattr(sregs, name).selector for name in ("ds", "es", "fs", "gs")]
    spec.USER_REGS.pack_into(
        status,
        spec.PRSTATUS_REGS,
        *(*general, regs.rax, regs.rip, sregs.cs.selector, regs.rflags, regs.rsp),
        *(sregs.ss.selector, sregs.fs.base, sregs.gs.base, *selectors),
    )
    return bytes(status)


def _qemu_state(vcpu: Vcpu, regs: Any, sregs: Any) -> bytes:
    names = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"
    state = spec.QEMU_REGS.pack(*(getattr(regs, name) for name in names.split()))
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr"):
        segment = getattr(sregs, name)
        flags = (
            segment.type << spec.TYPE_SHIFT
            | segment.s << spec.S_SHIFT
            | segment.dpl << spec.DPL_SHIFT
            | segment.present << spec.P_SHIFT
            | segment.avl << spec.AVL_SHIFT
            | segment.l << spec.L_SHIFT
            | segment.db << spec.DB_SHIFT
            | segment.g << spec.G_SHIFT
        )
        state += spec.QEMU_SEGMENT.pack(segment.selector, segment.limit, flags, 0, segment.base)
    for table in (sregs.gdt, sregs.idt):
        state += spec.QEMU_SEGMENT.pack(0, table.limit, 0, 0, table.base)
    kernel_gs = vcpu.get_msrs([spec.MSR_KERNEL_GS_BASE]).get(spec.MSR_KERNEL_GS_BASE, 0)
    state += spec.QEMU_CONTROL.pack(sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4, kernel_gs)
    return spec.QEMU_HEAD.pack(spec.QEMU_VERSION, spec.QEMU_HEAD.size + len(state)) + state


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data), spec.NOTE_ALIGN), b"\0")


def _aligned(size: int, unit: int) -> int:
    return -(-size // unit) * unit
