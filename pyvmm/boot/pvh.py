"""Loading an ELF image by PVH: entered in 32-bit mode, at the address that its note gives."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm import layout
from pyvmm.boot import arena, e820, initrd
from pyvmm.boot import pvh_spec as spec
from pyvmm.boot.elf import Elf, find_note
from pyvmm.boot.entry import Entry
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory


def entry_of(file: ImageFile, elf: Elf) -> int | None:
    """The PVH entry point, guest-physical; None without the note. ImageError if it is no use."""
    descriptor = find_note(file, elf, spec.NOTE_OWNER, spec.XEN_ELFNOTE_PHYS32_ENTRY)
    if descriptor is None:
        return None
    entry = int.from_bytes(descriptor, "little")
    if entry >= layout.HOLE or not elf.contains(entry):
        raise ImageError(f"{file.name} has its PVH entry outside its segments, at {entry:#x}")
    return entry


def load_segments(memory: GuestMemory, file: ImageFile, elf: Elf) -> None:
    """Copy all segments to their physical addresses; ImageError if that is not free RAM."""
    for segment in elf.segments:
        e820.check_free(memory, file.name, segment.paddr, segment.end)
        file.copy_into(memory, segment.paddr, segment.offset, segment.filesz)


class PvhImage:
    """An ELF file with a PVH note."""

    protocol = "pvh"

    def __init__(self, file: ImageFile, elf: Elf, entry: int) -> None:
        self.file = file
        self.elf = elf
        self._entry = entry

    def load(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[AnyPath], rsdp: int
    ) -> Entry:
        """See image.KernelImage.load. The initrds become one module, which is what Linux reads."""
        load_segments(memory, self.file, self.elf)
        with initrd.opened(initrds) as files:
            address, size = initrd.load_high(memory, files, self.elf.end, [layout.HOLE])
        structures = arena.structures(memory)
        text = arena.strings(memory).add(arena.c_string(cmdline, "The kernel's command line"))
        modules = structures.add(spec.MODULE.pack(address, size, 0, 0)) if size else 0
        entries = e820.memory_map(memory)
        map_address = structures.add(
            b"".join(spec.MEMMAP_ENTRY.pack(*entry, 0) for entry in entries)
        )
        start_info = spec.START_INFO.pack(
            spec.START_MAGIC,
            spec.START_VERSION,
            0,
            1 if size else 0,
            modules,
            text,
            rsdp,
            map_address,
            len(entries),
            0,
        )
        return Entry(rip=self._entry, long_mode=False, rbx=structures.add(start_info))
