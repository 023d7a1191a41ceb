"""The numbers of linux_spec against the installed <asm/bootparam.h>."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.boot import linux_spec as spec

FIELDS = {
    "acpi_rsdp_addr": spec.ACPI_RSDP_ADDR,
    "ext_ramdisk_image": spec.EXT_RAMDISK_IMAGE,
    "ext_ramdisk_size": spec.EXT_RAMDISK_SIZE,
    "e820_entries": spec.E820_ENTRIES,
    "e820_table": spec.E820_TABLE,
    "hdr": spec.SETUP_HEADER,
    "edd_mbr_sig_buffer": spec.SETUP_HEADER_END,
    "hdr.setup_sects": spec.SETUP_SECTS,
    "hdr.syssize": spec.SYSSIZE,
    "hdr.boot_flag": spec.BOOT_FLAG,
    "hdr.header": spec.HEADER,
    "hdr.version": spec.VERSION,
    "hdr.kernel_version": spec.KERNEL_VERSION,
    "hdr.type_of_loader": spec.TYPE_OF_LOADER,
    "hdr.loadflags": spec.LOADFLAGS,
    "hdr.ramdisk_image": spec.RAMDISK_IMAGE,
    "hdr.ramdisk_size": spec.RAMDISK_SIZE,
    "hdr.cmd_line_ptr": spec.CMD_LINE_PTR,
    "hdr.initrd_addr_max": spec.INITRD_ADDR_MAX,
    "hdr.kernel_alignment": spec.KERNEL_ALIGNMENT,
    "hdr.relocatable_kernel": spec.RELOCATABLE_KERNEL,
    "hdr.xloadflags": spec.XLOADFLAGS,
    "hdr.cmdline_size": spec.CMDLINE_SIZE,
    "hdr.payload_offset": spec.PAYLOAD_OFFSET,
    "hdr.payload_length": spec.PAYLOAD_LENGTH,
    "hdr.setup_data": spec.SETUP_DATA,
    "hdr.pref_address": spec.PREF_ADDRESS,
    "hdr.init_size": spec.INIT_SIZE,
}
NUMBERS = {
    "sizeof(struct boot_params)": spec.BOOT_PARAMS_SIZE,
    "E820_MAX_ENTRIES_ZEROPAGE": spec.E820_MAX,
    "LOADED_HIGH": spec.LOADED_HIGH,
    "XLF_KERNEL_64": spec.XLF_KERNEL_64,
    "XLF_CAN_BE_LOADED_ABOVE_4G": spec.XLF_CAN_BE_LOADED_ABOVE_4G,
}


def test_offsets_and_flags_are_those_of_the_installed_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    expected = {f"offsetof(struct boot_params, {name})": at for name, at in FIELDS.items()}
    expected |= NUMBERS
    checks = "\n".join(
        f'_Static_assert({what} == {value}, "{what}");' for what, value in expected.items()
    )
    source = tmp_path / "check.c"
    source.write_text(f"#include <stddef.h>\n#include <asm/bootparam.h>\n{checks}\n")
    result = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
