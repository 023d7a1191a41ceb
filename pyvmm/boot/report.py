"""`pyvmm inspect`: what a kernel image is and what a guest that runs it will lack."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyvmm.boot import elf, ikconfig, multiboot, multiboot_spec, pvh
from pyvmm.boot import linux_spec as spec
from pyvmm.boot.bzimage import BzImage, is_bzimage
from pyvmm.boot.cache import Progress
from pyvmm.boot.image import open_unpacked
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.boot.linux import is_linux
from pyvmm.boot.unpack import Unsupported
from pyvmm.errors import ImageError


@dataclass
class Report:
    """`facts` are (label, value) pairs; `drivers` the same, of a Linux kernel's configuration.

    `config` says where that was found, and is empty if nowhere.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    drivers: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        width = max(len(label) for label, _ in self.facts + self.drivers) + 2
        rows = [f"{label + ':':<{width}}{value}" for label, value in self.facts]
        if self.drivers:
            rows += ["", f"What the kernel has, by {self.config}:"]
            rows += [f"{label + ':':<{width}}{value}" for label, value in self.drivers]
        return rows


def inspect(path: AnyPath, progress: Progress | None = None) -> Report:
    """Read the image at `path` and say what it is; raises ImageError if it is none, or damaged."""
    report = Report()
    file, compression = open_unpacked(path, progress)
    with file:
        _add(report, "file", file.name)
        _add(report, "compressed as a whole", compression or "no")
        head = file.read(0, min(file.size, multiboot_spec.SEARCH_SIZE))
        header = multiboot.find_header(head)
        if is_bzimage(head):
            _inspect_bzimage(report, BzImage(file), progress)
        elif elf.is_elf(head):
            _inspect_elf(report, file, elf.parse(file), header)
        elif header:
            _inspect_multiboot(report, file, header, None)
        else:
            raise ImageError(f"{file.name} is no bzImage, ELF or Multiboot image")
    return report


def _add(report: Report, label: str, value: str) -> None:
    report.facts.append((label, value))


def _inspect_bzimage(report: Report, image: BzImage, progress: Progress | None) -> None:
    header = image.header
    version = header.field(spec.VERSION, 2)
    _add(report, "format", f"Linux bzImage, boot protocol {version >> 8}.{version & 0xFF:02}")
    _add(report, "version", image.version() or "not said")
    _add(report, "payload", image.compression or "compressed in an unknown way")
    _add(report, "self-unpacking", f"loaded at {image.preferred:#x}, needs {image.init_size} bytes")
    _add(report, "relocatable", f"yes, by {header.alignment:#x}" if header.relocatable else "no")
    _add(report, "longest command line", f"{header.cmdline_size} bytes")
    if image.compression is None:
        return
    try:
        kernel = image.unpacked(progress)
    except Unsupported as error:
        _add(report, "kernel proper", f"unpacked by the guest only: {error}")
        return
    with kernel:
        _inspect_kernel(report, kernel, elf.parse(kernel), image.version())


def _inspect_elf(
    report: Report, file: ImageFile, executable: elf.Elf, header: multiboot.Header | None
) -> None:
    linux = is_linux(executable)
    if header and not linux:
        _inspect_multiboot(report, file, header, executable)
        return
    name = "Linux vmlinux, ELF" if linux else "ELF"
    _add(report, "format", f"{name} of {executable.bits} bits")
    _inspect_kernel(report, file, executable, "")


def _inspect_multiboot(
    report: Report, file: ImageFile, header: multiboot.Header, executable: elf.Elf | None
) -> None:
    image = multiboot.MultibootImage(file, header, executable)
    flat = header.flags & multiboot_spec.HAS_ADDRESSES
    way = "the addresses in its header" if flat else "ELF segments"
    _add(report, "format", f"Multiboot 1, loaded by {way}")
    _add(report, "entry", f"{image.entry:#x}")
    for segment in image.segments:
        _add(report, "loaded at", f"{segment.paddr:#x} to {segment.end:#x}")


def _inspect_kernel(report: Report, file: ImageFile, executable: elf.Elf, version: str) -> None:
    """What is in an unpacked kernel, Linux or not; `version` is known for a bzImage."""
    _add(report, "entry", f"{executable.entry:#x}")
    entry = pvh.entry_of(file, executable)
    _add(report, "PVH entry", f"{entry:#x}" if entry is not None else "none")
    for segment in executable.segments:
        _add(report, "loaded at", f"{segment.paddr:#x} to {segment.end:#x}")
    if not is_linux(executable):
        return
    data = file.read(0, file.size)
    if not version:
        version = ikconfig.version_of(data)
        _add(report, "version", version or "not said")
    text = ikconfig.embedded(data)
    if text is not None:
        report.config = "the configuration inside it (IKCONFIG)"
    elif found := ikconfig.beside(file, version.split(" ", 1)[0]):
        report.config, text = str(found[0]), found[1]
    else:
        _add(report, "configuration", "not inside (no IKCONFIG), and no config file beside it")
    if text is not None:
        report.drivers = list(ikconfig.states(text))
