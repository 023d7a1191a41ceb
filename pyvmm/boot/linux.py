"""Loading Linux by its 64-bit boot protocol (x86/boot.rst), unpacked or to unpack itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pyvmm import layout
from pyvmm.boot import arena, e820, initrd
from pyvmm.boot import linux_spec as spec
from pyvmm.boot.bzimage import BzImage, SetupHeader, header_of_vmlinux
from pyvmm.boot.elf import Elf
from pyvmm.boot.entry import Entry
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory


def is_linux(elf: Elf) -> bool:
    """Whether an ELF file is entered as Linux is: at a physical address inside a segment that
    is linked to run at the kernel text mapping (x86/x86_64/mm.rst)."""
    return elf.bits == 64 and any(
        segment.paddr <= elf.entry < segment.end
        and segment.vaddr == spec.START_KERNEL_MAP + segment.paddr
        for segment in elf.segments
    )


class Vmlinux:
    """The kernel proper, an ELF file; `header` is its bzImage's, if it came from one."""

    protocol = "linux"

    def __init__(self, file: ImageFile, elf: Elf, header: SetupHeader | None = None) -> None:
        self.file = file
        self.elf = elf
        self._header = header or header_of_vmlinux()

    def load(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[AnyPath], rsdp: int
    ) -> Entry:
        """See image.KernelImage.load."""
        elf, header = self.elf, self._header
        size = elf.end - elf.start
        address = _place(memory, self.file.name, elf.start, size, header)
        moved = address - elf.start
        for segment in elf.segments:
            self.file.copy_into(memory, segment.paddr + moved, segment.offset, segment.filesz)
        write_boot_params(memory, header, cmdline, initrds, address + size, rsdp)
        return Entry(rip=elf.entry + moved, long_mode=True, rsi=layout.BOOT_PARAMS)


class SelfUnpacking:
    """A bzImage entered at its own 64-bit entry point: the guest unpacks the kernel."""

    protocol = "linux"

    def __init__(self, image: BzImage) -> None:
        self._image = image
        self.file = image.file

    def load(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[AnyPath], rsdp: int
    ) -> Entry:
        """See image.KernelImage.load."""
        image, size = self._image, self._image.init_size
        address = _place(memory, self.file.name, image.preferred, size, image.header)
        self.file.copy_into(memory, address, image.code_offset, image.code_size)
        write_boot_params(memory, image.header, cmdline, initrds, address + size, rsdp)
        return Entry(rip=address + spec.ENTRY_64, long_mode=True, rsi=layout.BOOT_PARAMS)


def _place(memory: GuestMemory, name: str, preferred: int, size: int, header: SetupHeader) -> int:
    """Where to load `size` bytes: as preferred, or as low as possible if that does not fit.

    Raises ImageError if there is no place for it below 4 GiB, which is all that is mapped.
    """
    places = [preferred]
    if header.relocatable:
        # The kernel proper maps itself with 2 MiB pages (arch/x86/kernel/head_64.S).
        alignment = max(header.alignment, 2 * layout.MIB)
        places.append(-(-layout.HIGH_MEMORY // alignment) * alignment)
    for place in places:
        if place + size <= layout.HOLE and e820.is_free(memory, place, place + size):
            return place
    e820.check_free(memory, name, places[-1], places[-1] + size)
    raise ImageError(f"{name} must be loaded below 4 GiB, not at {preferred:#x}")


def write_boot_params(
    memory: GuestMemory,
    header: SetupHeader,
    cmdline: str,
    initrds: Sequence[AnyPath],
    kernel_end: int,
    rsdp: int,
) -> None:
    """Load the initrds and the command line, and write struct boot_params (x86/zero-page.rst)."""
    text = arena.c_string(cmdline, "The kernel's command line", header.cmdline_size)
    limits = [min(header.initrd_end_max, layout.HOLE)]
    if header.xloadflags & spec.XLF_CAN_BE_LOADED_ABOVE_4G:
        limits.append(memory.regions[-1].end)
    with initrd.opened(initrds) as files:
        ramdisk, ramdisk_size = initrd.load_high(memory, files, kernel_end, limits)

    params = bytearray(spec.BOOT_PARAMS_SIZE)
    params[spec.SETUP_HEADER : spec.SETUP_HEADER_END] = header.data[spec.SETUP_HEADER :]
    entries = e820.memory_map(memory)
    for form, offset, value in (
        ("<Q", spec.ACPI_RSDP_ADDR, rsdp),
        ("<B", spec.TYPE_OF_LOADER, spec.LOADER_UNDEFINED),
        ("<I", spec.CMD_LINE_PTR, arena.strings(memory).add(text)),
        ("<I", spec.RAMDISK_IMAGE, ramdisk & spec.LOW_32),
        ("<I", spec.RAMDISK_SIZE, ramdisk_size & spec.LOW_32),
        ("<I", spec.EXT_RAMDISK_IMAGE, ramdisk >> 32),
        ("<I", spec.EXT_RAMDISK_SIZE, ramdisk_size >> 32),
        ("<Q", spec.SETUP_DATA, 0),
        ("<B", spec.E820_ENTRIES, len(entries)),
    ):
        struct.pack_into(form, params, offset, value)
    entry = struct.Struct(spec.E820_ENTRY)
    for index, values in enumerate(entries):
        entry.pack_into(params, spec.E820_TABLE + index * entry.size, *values)
    memory.write(layout.BOOT_PARAMS, params)
