"""Imports point one way, as the design has it, and starting costs no more than it must."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvmm

PACKAGE = Path(pyvmm.__file__).parent
HEAVY = {
    *("asyncio", "argparse", "dataclasses", "enum", "inspect", "logging", "re", "selectors"),
    *("signal", "typing", "elftools", "capstone", "prompt_toolkit"),
}

# Each part, and the parts that it may import. VALUES are modules that know of nothing else, and
# like facts, in `_spec` modules, are open to all.
VALUES = {"errors", "layout", "ends", "events", "value", "printable", "log", "suboptions", "typed"}
BASE = {"bus", "memory", "irq", "loop", "hooks", "worker", "context", "fastpath", "pci", "msi"}
MAY_IMPORT = {
    "native": {"_native"},
    "kvm": {"native"},
    "devices": BASE,
    "virtio": BASE | {"native"},
    "backends": BASE | {"native"},
    "hello": {"native"},
    "guestinit": {"native"},
    "boot": {"memory", "kvm", "hello", "guestinit"},
    "runloop": {"bus", "kvm", "native"},
    "runstate": {"runloop", "kvm"},
    **dict.fromkeys(BASE, BASE | {"kvm", "native"}),
    **dict.fromkeys(VALUES, VALUES),
}
# These may import everything, and nothing of the parts above may import them.
TOP = {
    "__init__",
    "__main__",
    "machine",
    "lifecycle",
    "board",
    "cli",
    "monitor",
    "doctor",
    "config",
    "diagnosis",
    "postmortem",
    "disk_config",
    "net_config",
    "net_options",
    "vsock_config",
    "share_config",
    "peripherals",
    "wiring",
    "inputs",
    "endpoint",
    "control",
    "registry",
    "breakpoints",
    "debugger",
    "inspection",
    "metrics",
    "tracing",
    "qmp",
    "gdb",
}


def part(module: str) -> str:
    """`pyvmm.kvm.vm` is of the part `kvm`, `pyvmm.bus` is one itself."""
    return module.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """Every module of pyvmm that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path} has a relative import"
            continue
        yield from (name for name in names if name.split(".")[0] == "pyvmm")


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = part_of(path)
    allowed = MAY_IMPORT.get(here)
    for module in imports(path):
        there = part(module)
        if there == here or there in VALUES or module.endswith("_spec"):
            continue
        if allowed is None:
            assert here in TOP or there not in TOP, f"{here} imports {module}"
        else:
            assert there in allowed, f"{here} imports {module}"


def test_every_public_name_is_there() -> None:
    assert pyvmm.__all__
    for name in pyvmm.__all__:
        assert getattr(pyvmm, name) is not None


@pytest.mark.parametrize("module", ["pyvmm", "pyvmm.machine", "pyvmm.cli"])
def test_nothing_heavy_is_imported_at_the_start(module: str) -> None:
    script = (
        "import sys; before = {*sys.modules}\n"
        f"import {module}; print(*sys.modules.keys() - before)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    ).stdout.split()
    assert not HEAVY & set(loaded)


def test_importing_pyvmm_starts_no_thread_and_installs_no_signal_handler() -> None:
    script = (
        "import signal, threading; before = [signal.getsignal(n) for n in range(1, 65)]\n"
        "import pyvmm, pyvmm.machine\n"
        "assert before == [signal.getsignal(n) for n in range(1, 65)]\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PACKAGE.parent)
