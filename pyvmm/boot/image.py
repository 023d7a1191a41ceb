"""What kind of image a file is, by its content alone, and the way to boot it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from pyvmm.boot import cache, elf, multiboot, multiboot_spec, pvh
from pyvmm.boot.bzimage import BzImage, is_bzimage
from pyvmm.boot.entry import Entry, write_tables
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.boot.linux import SelfUnpacking, Vmlinux, is_linux
from pyvmm.boot.multiboot import MultibootImage
from pyvmm.boot.pvh import PvhImage
from pyvmm.boot.unpack import Unsupported, compression_of
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory import GuestMemory
from pyvmm.typed import Protocol

DEFAULT_CMDLINE = "console=ttyS0"
PROTOCOLS = ("auto", "linux", "pvh")


class KernelImage(Protocol):
    """An image that can be booted, with its open `file`; close that when done."""

    protocol: str
    file: ImageFile

    def load(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[AnyPath], rsdp: int
    ) -> Entry:
        """Copy image, initrds and boot structures into `memory`, which must be all zeros.

        Holes are not written: bss is zero already, and pages that nobody touches cost nothing.
        `rsdp` is the guest-physical address of ACPI's RSDP, 0 for none.
        Raises ImageError if something does not fit or cannot be read, UsageError for a command
        line that is too long. Any thread, while no vCPU runs.
        """


def load(
    path: AnyPath,
    memory: GuestMemory,
    *,
    cmdline: str | None = None,
    initrds: Sequence[AnyPath] = (),
    rsdp: int = 0,
    kaslr: bool = False,
    protocol: str = "auto",
    progress: cache.Progress | None = None,
) -> Entry:
    """Make `memory`, which must be all zeros, ready to enter the kernel at `path`.

    The other arguments are those of open_image and KernelImage.load, and so are the errors. Without
    a `cmdline` Linux gets DEFAULT_CMDLINE, so that it shows itself on the serial port.
    """
    image = open_image(path, kaslr=kaslr, protocol=protocol, progress=progress)
    if cmdline is None:
        cmdline = "" if image.protocol == "multiboot" else DEFAULT_CMDLINE
    with image.file:
        entry = image.load(memory, cmdline, initrds, rsdp)
    write_tables(memory, entry)
    return entry


def open_image(
    path: AnyPath,
    *,
    kaslr: bool = False,
    protocol: str = "auto",
    progress: cache.Progress | None = None,
) -> KernelImage:
    """Find out what `path` is: compressed or not, a bzImage, an ELF or a Multiboot image.

    `kaslr` lets a bzImage unpack itself, at an address of its own choice. `protocol` is "linux"
    or "pvh" for an image that has more than one entry; "auto" prefers Linux's own. `progress` is
    called with a text now and then while something is unpacked.
    Raises ImageError, which names the file and what is wrong with it; UsageError for options that
    this image cannot have. Any thread.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    with ExitStack() as stack:
        file = stack.enter_context(open_unpacked(path, progress)[0])
        head = file.read(0, min(file.size, multiboot_spec.SEARCH_SIZE))
        if is_bzimage(head):
            image = _open_bzimage(BzImage(file), kaslr, protocol, progress)
        elif kaslr:
            raise UsageError(f"{file.name} must be a bzImage to choose its own address (kaslr)")
        else:
            image = _open_other(file, head, protocol)
        if image.file is file:
            stack.pop_all()
        return image


def open_unpacked(
    path: AnyPath, progress: cache.Progress | None = None
) -> tuple[ImageFile, str | None]:
    """Open `path`; where it is compressed as a whole, give what is inside, and the compression."""
    file = ImageFile.open(path)
    kind = compression_of(file.read(0, min(file.size, multiboot_spec.SEARCH_SIZE)))
    if kind is None:
        return file, None
    with file:
        return cache.unpacked(file, kind, 0, file.size, progress), kind


def _open_bzimage(
    image: BzImage, kaslr: bool, protocol: str, progress: cache.Progress | None
) -> KernelImage:
    if kaslr and protocol == "pvh":
        raise UsageError("PVH enters the unpacked kernel, so it must not be asked for with kaslr")
    if kaslr or image.compression is None:
        return SelfUnpacking(image)
    try:
        kernel = image.unpacked(progress)
    except Unsupported:
        return SelfUnpacking(image)
    with ExitStack() as stack:
        stack.enter_context(kernel)
        executable = elf.parse(kernel)
        if not is_linux(executable):
            raise ImageError(f"{kernel.name} has something else than a 64-bit Linux inside")
        result: KernelImage
        if protocol == "pvh":
            result = _open_pvh(kernel, executable)
        else:
            result = Vmlinux(kernel, executable, image.header)
        stack.pop_all()
        return result


def _open_other(file: ImageFile, head: bytes, protocol: str) -> KernelImage:
    header = multiboot.find_header(head)
    executable = elf.parse(file) if elf.is_elf(head) else None
    if executable is None:
        if header is None:
            raise ImageError(f"{file.name} is no bzImage, ELF or Multiboot image")
        return MultibootImage(file, header, None)
    if protocol == "pvh":
        return _open_pvh(file, executable)
    if is_linux(executable):
        return Vmlinux(file, executable)
    if protocol == "linux":
        raise ImageError(f"{file.name} has not Linux's 64-bit entry")
    if header is not None and executable.bits == 32:
        return MultibootImage(file, header, executable)
    entry = pvh.entry_of(file, executable)
    if entry is not None:
        return PvhImage(file, executable, entry)
    if header is not None:
        return MultibootImage(file, header, executable)
    raise ImageError(
        f"{file.name} is an ELF without a way in: it has neither Linux's 64-bit entry, "
        f"nor a PVH note, nor a Multiboot header"
    )


def _open_pvh(file: ImageFile, executable: elf.Elf) -> PvhImage:
    entry = pvh.entry_of(file, executable)
    if entry is None:
        raise ImageError(f"{file.name} must have a PVH note to be entered by PVH (CONFIG_PVH)")
    return PvhImage(file, executable, entry)
