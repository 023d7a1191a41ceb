"""The numbers for taps against the installed headers of Linux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.backends import tap_spec as spec
from pyvmm.virtio import net_spec

HEADERS = (
    "sys/ioctl.h",
    "linux/if_tun.h",
    "linux/sockios.h",
    "linux/if.h",
    "linux/virtio_net.h",
    "stddef.h",
)
NEWER = ("TUN_F_USO", "F_GUEST_USO", "F_HOST_USO")  # than Debian 12's headers
PREFIXES = ("TUN", "IFF_", "TUN_F_", "SIOC")


def test_numbers_are_those_of_the_installed_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    checks = {
        name: value
        for name, value in vars(spec).items()
        if name.startswith(PREFIXES) and not name.startswith(NEWER)
    }
    checks |= {
        "TUN_FLT_ALLMULTI": spec.FLT_ALLMULTI,
        "sizeof(struct tun_filter)": spec.FILTER.size,
        "IFNAMSIZ - 1": spec.NAME_MAX,
        "sizeof(struct ifreq)": spec.IFREQ_INT.size,
        "(sizeof(struct ifreq))": spec.IFREQ_FLAGS.size,
        "offsetof(struct ifreq, ifr_flags)": spec.NAME_MAX + 1,
        "offsetof(struct ifreq, ifr_mtu)": spec.NAME_MAX + 1,
        "sizeof(struct virtio_net_hdr_mrg_rxbuf)": spec.HEADER_SIZE,
    }
    lines = [f'_Static_assert(({what}) == {value}UL, "{what}");' for what, value in checks.items()]
    source = tmp_path / "check.c"
    source.write_text("".join(f"#include <{name}>\n" for name in HEADERS) + "\n".join(lines) + "\n")
    result = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_feature_bits_are_those_of_the_device() -> None:
    ours = {name: value for name, value in vars(spec).items() if name.startswith("F_")}
    assert ours == {name: getattr(net_spec, name) for name in ours}
    assert sum(spec.OFFLOADS) == net_spec.GUEST_OFFLOADS
    assert spec.HOST_OFFLOADS == net_spec.HOST_OFFLOADS
    assert net_spec.HEADER.size == spec.HEADER_SIZE
