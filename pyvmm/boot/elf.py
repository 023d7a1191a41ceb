"""ELF executables: the few headers that a loader needs, each checked against the file."""

from collections.abc import Iterator

from pyvmm.boot import elf_spec as spec
from pyvmm.boot.image_file import ImageFile
from pyvmm.errors import ImageError
from pyvmm.value import Value

_MAX_PROGRAM_HEADERS = 1024  # kernels have five
_MAX_NOTES = 1 << 20  # bytes; kernels have some 500


class Segment(Value):
    """`filesz` bytes at `offset` of the file, followed in memory by zeros up to `memsz` bytes.

    `paddr` is where they belong, guest-physical; `vaddr` where the program expects to see them.
    """

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int

    @property
    def end(self) -> int:
        """The first physical address past the segment."""
        return self.paddr + self.memsz


class Elf(Value):
    """An x86 ELF executable: `segments` are its loadable ones, by physical address."""

    bits: int
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The lowest physical address that it occupies."""
        return self.segments[0].paddr

    @property
    def end(self) -> int:
        """The first physical address past it."""
        return self.segments[-1].end

    def contains(self, address: int) -> bool:
        """Whether `address`, physical, is inside a segment."""
        return any(segment.paddr <= address < segment.end for segment in self.segments)


def is_elf(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, begins an ELF file of any kind."""
    return head.startswith(spec.MAGIC)


def parse(file: ImageFile) -> Elf:
    """Read the ELF and program headers.

    Raises ImageError unless it is an executable for x86 whose segments are inside the file and
    do not overlap.
    """
    ident = file.read(0, spec.EI_NIDENT)
    if not is_elf(ident):
        raise ImageError(f"{file.name} is no ELF file")
    header = spec.HEADER.get(ident[spec.EI_CLASS])
    if header is None or ident[spec.EI_DATA] != spec.ELFDATA2LSB:
        raise ImageError(f"{file.name} must be a little-endian ELF of 32 or 64 bits")
    fields = header.unpack(file.read(spec.EI_NIDENT, header.size))
    kind, machine, _, entry, phoff, _, _, _, phentsize, phnum, *_ = fields
    is_64 = ident[spec.EI_CLASS] == spec.ELFCLASS64
    if machine != (spec.EM_X86_64 if is_64 else spec.EM_386):
        raise ImageError(
            f"{file.name} is an ELF for another machine (e_machine {machine}), not x86"
        )
    if kind not in (spec.ET_EXEC, spec.ET_DYN):
        raise ImageError(f"{file.name} must be an executable ELF (e_type {kind} is not)")
    program_header = spec.PROGRAM_HEADER[ident[spec.EI_CLASS]]
    if phentsize != program_header.size or not 0 < phnum <= _MAX_PROGRAM_HEADERS:
        raise ImageError(
            f"{file.name} must have 1 to {_MAX_PROGRAM_HEADERS} program headers of "
            f"{program_header.size} bytes, not {phnum} of {phentsize}"
        )
    segments: list[Segment] = []
    notes: list[tuple[int, int]] = []
    for values in program_header.iter_unpack(file.read(phoff, phnum * phentsize)):
        p_type = values[0]
        offset, vaddr, paddr, filesz, memsz = values[2:7] if is_64 else values[1:6]
        if p_type == spec.PT_LOAD and memsz:
            segments.append(Segment(offset, vaddr, paddr, filesz, memsz))
        elif p_type == spec.PT_NOTE:
            notes.append((offset, filesz))
    segments.sort(key=lambda segment: segment.paddr)
    _check(file, segments)
    return Elf(64 if is_64 else 32, entry, tuple(segments), tuple(notes))


def _check(file: ImageFile, segments: list[Segment]) -> None:
    if not segments:
        raise ImageError(f"{file.name} has no segment to load")
    end = 0
    for segment in segments:
        if segment.filesz > segment.memsz:
            raise ImageError(f"{file.name} has a segment larger in the file than in memory")
        if segment.offset + segment.filesz > file.size:
            raise file.truncated()
        if segment.paddr < end:
            raise ImageError(f"{file.name} has segments that overlap at {segment.paddr:#x}")
        end = segment.end


def find_note(file: ImageFile, elf: Elf, owner: bytes, kind: int) -> bytes | None:
    """The descriptor of the first note `kind` of `owner`; None if there is none."""
    for note_owner, note_kind, descriptor in _iter_notes(file, elf):
        if (note_owner, note_kind) == (owner, kind):
            return descriptor
    return None


def _iter_notes(file: ImageFile, elf: Elf) -> Iterator[tuple[bytes, int, bytes]]:
    for offset, length in elf.notes:
        data = file.read(offset, min(length, _MAX_NOTES))
        at = 0
        while at + spec.NOTE.size <= len(data):
            name_size, descriptor_size, kind = spec.NOTE.unpack_from(data, at)
            name_at = at + spec.NOTE.size
            descriptor_at = name_at + _aligned(name_size)
            at = descriptor_at + _aligned(descriptor_size)
            name = data[name_at : name_at + name_size].rstrip(b"\0")
            yield name, kind, data[descriptor_at : descriptor_at + descriptor_size]


def _aligned(size: int) -> int:
    return -(-size // spec.NOTE_ALIGN) * spec.NOTE_ALIGN
