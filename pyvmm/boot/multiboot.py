"""Loading Multiboot 1 images: 32-bit ELF, or any file by the addresses in its header."""

from collections.abc import Sequence

from pyvmm import layout
from pyvmm.boot import arena, e820, initrd
from pyvmm.boot import multiboot_spec as spec
from pyvmm.boot.elf import Elf, Segment
from pyvmm.boot.entry import Entry
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory
from pyvmm.value import Value


class Header(Value):
    """A Multiboot header: its `offset` in the file, its `flags`."""

    offset: int
    flags: int


def find_header(head: bytes) -> Header | None:
    """Look for the header in `head`, the first SEARCH_SIZE bytes of a file."""
    offset = head.find(spec.HEADER_START)
    while 0 <= offset <= len(head) - spec.HEADER.size:
        magic, flags, checksum = spec.HEADER.unpack_from(head, offset)
        if offset % spec.ALIGN == 0 and (magic + flags + checksum) & spec.CHECKSUM_MASK == 0:
            return Header(offset, flags)
        offset = head.find(spec.HEADER_START, offset + 1)
    return None


class MultibootImage:
    """A file with a Multiboot header, and its ELF headers unless it is loaded without them."""

    protocol = "multiboot"

    def __init__(self, file: ImageFile, header: Header, elf: Elf | None) -> None:
        """Raises ImageError if it asks for what the specification does not define, or is broken."""
        unknown = (
            header.flags & spec.REQUIRED & ~(spec.PAGE_ALIGN | spec.MEMORY_INFO | spec.VIDEO_MODE)
        )
        if unknown:
            raise ImageError(f"{file.name} requires unknown Multiboot features ({unknown:#x})")
        self.file = file
        self.elf = elf
        if header.flags & spec.HAS_ADDRESSES:
            self.segments, self.entry = _flat(file, header)
        elif elf is None or elf.bits != 32:
            raise ImageError(
                f"{file.name} must be a 32-bit ELF for Multiboot 1, or have addresses in its "
                f"header; `objcopy -O elf32-i386` makes one of a 64-bit ELF"
            )
        else:
            self.segments, self.entry = elf.segments, _physical_entry(elf)
        if not any(segment.paddr <= self.entry < segment.end for segment in self.segments):
            raise ImageError(f"{file.name} has its entry at {self.entry:#x}, outside what it loads")

    def load(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[AnyPath], rsdp: int
    ) -> Entry:
        """See image.KernelImage.load. Each initrd is a module, page-aligned; rsdp is not told."""
        for segment in self.segments:
            e820.check_free(memory, self.file.name, segment.paddr, segment.end)
            self.file.copy_into(memory, segment.paddr, segment.offset, segment.filesz)
        strings, structures = arena.strings(memory), arena.structures(memory)
        line = f"{self.file.name} {cmdline}".rstrip()
        modules = []
        end = max(max(segment.end for segment in self.segments), layout.HIGH_MEMORY)
        for start, file in initrd.load_low(memory, initrds, end):
            name = strings.add(arena.c_string(file.name, "A module's path"))
            modules.append(spec.MODULE.pack(start, start + file.size, name, 0))
        entries = b"".join(
            spec.MMAP_ENTRY.pack(spec.MMAP_ENTRY.size - spec.MMAP_SIZE_FIELD, *entry)
            for entry in e820.memory_map(memory)
        )
        info = spec.INFO.pack(
            spec.INFO_MEMORY
            | spec.INFO_CMDLINE
            | spec.INFO_MODULES
            | spec.INFO_MMAP
            | spec.INFO_BOOT_LOADER_NAME,
            layout.LOW_RAM_END // layout.KIB,
            (memory.regions[0].end - layout.HIGH_MEMORY) // layout.KIB,
            0,
            strings.add(arena.c_string(line, "The kernel's command line")),
            len(modules),
            structures.add(b"".join(modules)),
            len(entries),
            structures.add(entries),
            strings.add(b"pyvmm\0"),
        )
        rbx = structures.add(info.ljust(spec.INFO_SIZE, b"\0"))
        return Entry(rip=self.entry, long_mode=False, rax=spec.BOOTLOADER_MAGIC, rbx=rbx)


def _physical_entry(elf: Elf) -> int:
    """e_entry as a physical address: an image that is linked high gives a virtual one."""
    for segment in elf.segments:
        if segment.vaddr <= elf.entry < segment.vaddr + segment.memsz:
            return elf.entry - segment.vaddr + segment.paddr
    return elf.entry


def _flat(file: ImageFile, header: Header) -> tuple[tuple[Segment, ...], int]:
    """§3.1.3: the header says where in memory it is itself, and thereby the rest of the file."""
    data = file.read(header.offset + spec.HEADER.size, spec.ADDRESSES.size)
    header_address, load, load_end, bss_end, entry = spec.ADDRESSES.unpack(data)
    offset = header.offset - (header_address - load)
    if load > header_address or offset < 0:
        raise ImageError(
            f"{file.name} must have its Multiboot header at {header_address:#x} "
            f"at or above its load address {load:#x}, and no further from it than in the file"
        )
    size = (load_end or load + file.size - offset) - load
    end = max(bss_end, load + size)
    if size <= 0 or offset + size > file.size:
        raise ImageError(f"{file.name} must load a part of itself, not up to {load_end:#x}")
    return (Segment(offset, load, load, size, end - load),), entry
