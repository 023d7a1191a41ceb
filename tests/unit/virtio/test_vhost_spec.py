"""The numbers of vhost against the installed headers of Linux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.virtio import vhost_spec as spec

REQUESTS = ("GET_", "SET_", "NET_SET_", "VSOCK_SET_")
OTHERS = {
    "VHOST_FILE_UNBIND": spec.UNBIND,
    "sizeof(struct vhost_memory)": spec.MEMORY.size,
    "sizeof(struct vhost_memory_region)": spec.MEMORY_REGION.size,
    "sizeof(struct vhost_vring_state)": spec.VRING_STATE.size,
    "sizeof(struct vhost_vring_addr)": spec.VRING_ADDR.size,
    "sizeof(struct vhost_vring_file)": spec.VRING_FILE.size,
}


def test_numbers_are_those_of_the_installed_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    requests = {name: value for name, value in vars(spec).items() if name.startswith(REQUESTS)}
    checks = {f"VHOST_{name}": value for name, value in requests.items()} | OTHERS
    lines = [f'_Static_assert(({what}) == {value}, "{what}");' for what, value in checks.items()]
    source = tmp_path / "check.c"
    source.write_text("#include <sys/ioctl.h>\n#include <linux/vhost.h>\n" + "\n".join(lines))
    result = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
