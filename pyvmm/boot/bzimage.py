"""The setup header of a bzImage, and the compressed kernel inside."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot import linux_spec as spec
from pyvmm.boot.cache import Progress, unpacked
from pyvmm.boot.image_file import ImageFile
from pyvmm.boot.unpack import compression_of
from pyvmm.errors import ImageError

_HEAD = 32  # bytes: more than any compression's magic


class SetupHeader:
    """struct setup_header; `data` is what struct boot_params has up to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def field(self, offset: int, size: int) -> int:
        """The integer of `size` bytes at a linux_spec offset; 0 if the header ends before it."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    @property
    def relocatable(self) -> bool:
        """Whether the kernel may be loaded elsewhere than at its preferred address."""
        return self.field(spec.RELOCATABLE_KERNEL, 1) != 0

    @property
    def alignment(self) -> int:
        """What the load address must be a multiple of, in bytes."""
        return self.field(spec.KERNEL_ALIGNMENT, 4)

    @property
    def xloadflags(self) -> int:
        """XLF_* of linux_spec."""
        return self.field(spec.XLOADFLAGS, 2)

    @property
    def cmdline_size(self) -> int:
        """The longest command line, in bytes without the final zero."""
        return self.field(spec.CMDLINE_SIZE, 4)

    @property
    def initrd_end_max(self) -> int:
        """The address that the initrd must end at or below."""
        return self.field(spec.INITRD_ADDR_MAX, 4) + 1


def header_of_vmlinux() -> SetupHeader:
    """What a kernel that came without its setup header would have declared."""
    data = bytearray(spec.SETUP_HEADER_END)
    for offset, size, value in (
        (spec.BOOT_FLAG, 2, spec.BOOT_FLAG_MAGIC),
        (spec.HEADER, 4, spec.HEADER_MAGIC),
        (spec.VERSION, 2, spec.PROTOCOL_2_12),
        (spec.LOADFLAGS, 1, spec.LOADED_HIGH),
        (spec.INITRD_ADDR_MAX, 4, spec.DEFAULT_INITRD_ADDR_MAX),
        (spec.XLOADFLAGS, 2, spec.XLF_KERNEL_64),
        (spec.CMDLINE_SIZE, 4, spec.DEFAULT_CMDLINE_SIZE),
    ):
        data[offset : offset + size] = value.to_bytes(size, "little")
    return SetupHeader(bytes(data))


def is_bzimage(head: bytes) -> bool:
    """Whether `head`, the first SETUP_HEADER_END bytes of a file, is of a Linux x86 image."""
    return (
        int.from_bytes(head[spec.BOOT_FLAG : spec.BOOT_FLAG + 2], "little") == spec.BOOT_FLAG_MAGIC
        and int.from_bytes(head[spec.HEADER : spec.HEADER + 4], "little") == spec.HEADER_MAGIC
    )


class BzImage:
    """A bzImage with a 64-bit kernel inside: `header`, and where its parts are in `file`.

    `code_offset` and `code_size` (bytes) are the protected-mode part; `payload_offset` and
    `payload_size` the compressed kernel in it, `compression` with what, None if that is unknown.
    """

    def __init__(self, file: ImageFile) -> None:
        """Raises ImageError unless it can be entered by the 64-bit boot protocol."""
        head = file.read(0, spec.SETUP_HEADER_END)
        self.file = file
        # What lies past the header's end is code, which must not get into boot_params.
        end = min(spec.HEADER + head[spec.JUMP_LENGTH], spec.SETUP_HEADER_END)
        self.header = header = SetupHeader(head[:end].ljust(spec.SETUP_HEADER_END, b"\0"))
        version = header.field(spec.VERSION, 2)
        if version < spec.PROTOCOL_2_12:
            raise ImageError(
                f"{file.name} must speak boot protocol 2.12 or later (Linux 3.8), "
                f"not {version >> 8}.{version & 0xFF:02}"
            )
        if not header.xloadflags & spec.XLF_KERNEL_64:
            raise ImageError(f"{file.name} must be a 64-bit kernel, not a 32-bit one")
        if header.relocatable and header.alignment.bit_count() != 1:
            raise ImageError(
                f"{file.name} is damaged: its alignment of {header.alignment:#x} is no power of two"
            )
        sectors = header.field(spec.SETUP_SECTS, 1) or spec.DEFAULT_SETUP_SECTS
        self.code_offset = (sectors + 1) * spec.SECTOR
        self.code_size = min(
            file.size - self.code_offset, header.field(spec.SYSSIZE, 4) * spec.PARAGRAPH
        )
        self.payload_offset = self.code_offset + header.field(spec.PAYLOAD_OFFSET, 4)
        self.payload_size = header.field(spec.PAYLOAD_LENGTH, 4)
        if self.payload_offset + self.payload_size > file.size or self.code_size <= spec.ENTRY_64:
            raise file.truncated()
        head = file.read(self.payload_offset, min(_HEAD, self.payload_size))
        self.compression = compression_of(head)

    @property
    def init_size(self) -> int:
        """Bytes that the kernel needs from its load address on while it unpacks itself."""
        return max(self.header.field(spec.INIT_SIZE, 4), self.code_size)

    @property
    def preferred(self) -> int:
        """The load address it would like best."""
        return self.header.field(spec.PREF_ADDRESS, 8) or layout.HIGH_MEMORY

    def version(self) -> str:
        """What it says of itself: release, builder and build, as in /proc/version."""
        offset = self.header.field(spec.KERNEL_VERSION, 2)
        if not offset:
            return ""
        start = offset + spec.VERSION_STRING_BASE
        room = min(spec.VERSION_STRING_MAX, self.file.size - start)
        text = self.file.read(start, max(room, 0)).split(b"\0", 1)[0]
        return text.decode("ascii", "backslashreplace")

    def unpacked(self, progress: Progress | None = None) -> ImageFile:
        """The kernel proper, an ELF file, from the cache or unpacked now.

        Raises ImageError if it is damaged, unpack.Unsupported if a library is missing.
        `compression` must not be None.
        """
        kind, size, trailer = self.compression, self.payload_size, spec.PAYLOAD_SIZE_FIELD
        if kind is None:
            raise ImageError(f"{self.file.name} is compressed in an unknown way")
        if kind == "gzip":  # its own trailer ends with the size
            return unpacked(self.file, kind, self.payload_offset, size, progress)
        if size <= trailer:
            raise self.file.truncated()
        promised = self.file.read(self.payload_offset + size - trailer, trailer)
        file = unpacked(self.file, kind, self.payload_offset, size - trailer, progress)
        if file.size != int.from_bytes(promised, "little"):
            file.close()
            raise ImageError(
                f"{self.file.name} is damaged: it unpacks to {file.size} bytes, "
                f"not to {int.from_bytes(promised, 'little')}"
            )
        return file
