from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.boot.report import Report, inspect
from pyvmm.errors import ImageError
from tests.fakes import images
from tests.fakes.images import Load, multiboot_header

Save = Callable[..., str]
CONFIG = b"CONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_VIRTIO_PCI=m\n# CONFIG_VIRTIO_BLK is not set\n"
MIB = 1 << 20


def facts(report: Report) -> dict[str, str]:
    return dict(report.facts)


def state(report: Report, purpose: str) -> str:
    return dict(report.drivers)[purpose]


def with_config(config: bytes) -> bytes:
    return images.vmlinux(b"\xf4" * 16 + b"IKCFG_ST" + config + b"IKCFG_ED")


def test_a_bzimage_is_described(save: Save) -> None:
    found = facts(inspect(save(images.bzimage(kind="xz"))))
    assert found["format"] == "Linux bzImage, boot protocol 2.15"
    assert found["version"] == "6.1.0-test (builder) #1"
    assert found["payload"] == "xz"
    assert found["self-unpacking"] == f"loaded at 0x1000000, needs {8 * MIB} bytes"
    assert found["relocatable"] == "yes, by 0x200000"
    assert found["longest command line"] == "2047 bytes"
    assert found["entry"] == "0x1000000"
    assert found["PVH entry"] == "0x1000010"


def test_a_compressed_vmlinux_is_described(save: Save) -> None:
    found = facts(inspect(save(images.compress("bzip2", images.vmlinux(pvh=False)))))
    assert found["compressed as a whole"] == "bzip2"
    assert found["format"] == "Linux vmlinux, ELF of 64 bits"
    assert found["version"] == "6.1.0-test (builder) #1"
    assert found["PVH entry"] == "none"


def test_a_multiboot_image_is_described(save: Save) -> None:
    image = images.elf([Load(multiboot_header(0), MIB)], MIB, bits=32)
    found = facts(inspect(save(image)))
    assert found["format"] == "Multiboot 1, loaded by ELF segments"
    assert (found["entry"], found["loaded at"]) == ("0x100000", "0x100000 to 0x10000c")
    flat = multiboot_header(1 << 16, MIB, MIB, 0, 0, MIB)
    assert facts(inspect(save(flat)))["format"].endswith("the addresses in its header")


@pytest.mark.parametrize("wrap", [lambda kernel: kernel, images.bzimage])
def test_its_own_configuration_says_what_a_guest_will_lack(
    wrap: Callable[[bytes], bytes], save: Save
) -> None:
    report = inspect(save(wrap(with_config(gzip.compress(CONFIG)))))
    assert "IKCONFIG" in report.config
    assert state(report, "serial console") == "built in (CONFIG_SERIAL_8250_CONSOLE)"
    assert state(report, "virtio over PCI") == "module (CONFIG_VIRTIO_PCI)"
    assert state(report, "virtio disk") == "absent (CONFIG_VIRTIO_BLK)"
    assert state(report, "ACPI") == "absent (CONFIG_ACPI)"


def test_a_config_file_beside_the_kernel_is_used_and_named(save: Save) -> None:
    config = save(CONFIG, "config-6.1.0-test")
    report = inspect(save(images.bzimage()))
    assert report.config == str(Path(config))
    assert state(report, "virtio over PCI").startswith("module")
    assert f"What the kernel has, by {config}:" in report.lines()


@pytest.mark.parametrize("kernel", [images.vmlinux(), with_config(b"no gzip")])
def test_a_kernel_without_any_configuration_says_so(kernel: bytes, save: Save) -> None:
    report = inspect(save(kernel))
    assert report.drivers == []
    assert facts(report)["configuration"].startswith("not inside (no IKCONFIG)")


def test_the_text_has_one_fact_a_line(save: Save) -> None:
    lines = inspect(save(with_config(gzip.compress(CONFIG)))).lines()
    assert all("\n" not in line for line in lines)
    assert any(line.startswith("entry: ") and line.endswith("0x1000000") for line in lines)


def test_what_is_no_image_is_refused(save: Save) -> None:
    with pytest.raises(ImageError, match="no bzImage, ELF or Multiboot image"):
        inspect(save(b"hello"))
