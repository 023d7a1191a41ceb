"""What a machine is made of, and what no machine can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyvmm.config import Linux, MachineConfig, load_toml
from pyvmm.errors import HostError, UsageError
from pyvmm.peripherals import Balloon, Console, Ports, Rng

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cpus": 0}, "at least 1 CPU, not 0"),
    ({"name": ""}, "1 to 64 printable"),
    ({"name": "x" * 65}, "1 to 64 printable"),
    ({"name": "a\nb"}, "1 to 64 printable"),
    ({"memory": "5X"}, "'5X'"),
    ({"serial": ("none",) * 3}, "2 serial ports, not 3"),
    ({"serial": ("stdio", "stdio")}, "Only one"),
    ({"serial": ("tcp:1",)}, "'tcp:1'"),
    ({"serial": ("file",)}, "'file'"),
    ({"serial": ("file:",)}, "'file:'"),
    ({"serial": ("none:x",)}, "'none:x'"),
    ({"serial": ("file:a\0b",)}, "must be one of"),
    ({"boot": Linux("k", entry="efi")}, "'efi'"),
    ({"devices": ("disk",)}, "not 'disk'"),
    ({"devices": (Rng(), Rng())}, "there are two 'rng'"),
    ({"devices": (Rng(rate="fast"),)}, "rng must be a number"),
    ({"devices": (Rng(rate=-1),)}, "not -1"),
    ({"devices": (Console("hvc1"),)}, "hvc0, hvc1 and so on, not hvc1"),
    ({"devices": (Console("tty"),)}, "not tty"),
    ({"devices": (Console("hvc0", "tcp:1"),)}, "A console must be one of"),
    ({"devices": (Ports(),)}, "1 to 31 ports, not 0"),
    ({"devices": (Ports(ports={"": "pty"}),)}, "name must be"),
    ({"devices": (Ports(ports={"a\n": "pty"}),)}, "name must be"),
    ({"devices": (Ports(ports={"a": "nothing"}),)}, "'nothing'"),
    ({"devices": (Ports("a", {"x": "pty"}), Ports("b", {"x": "pty"}))}, "there are two 'x'"),
    ({"devices": (Console("hvc0", "stdio"),), "serial": ("stdio",)}, "Only one"),
    ({"cpus": "2"}, "cpus must be"),
    ({"cpus": 1.5}, "cpus must be"),
    ({"cpus": True}, "cpus must be"),
    ({"memory": None}, "memory must be"),
    ({"memory": 1e9}, "memory must be"),
    ({"name": 5}, "name must be"),
    ({"cpu": None}, "cpu must be str, not None"),
    ({"serial": "buffer"}, "serial must be"),
    ({"serial": (1,)}, "serial must be"),
    ({"boot": "vmlinuz"}, "boot must be"),
    ({"boot": Linux(b"vmlinuz")}, "kernel must be"),  # type: ignore[arg-type]
    ({"boot": Linux("k", cmdline=b"quiet")}, "cmdline must be"),  # type: ignore[arg-type]
    ({"boot": Linux("k", initrd=(1,))}, "initrd must be"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("settings", "reason"), WRONG, ids=lambda value: str(value)[:40])
def test_what_no_host_could_make_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        MachineConfig(**settings).check()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"serial": ()},
        {"serial": ("pty", "unix:a b")},
        {"serial": ["buffer", "none"]},
        {"memory": 1 << 30},
        {"boot": Linux("k", ["a", "b"], "quiet", True, "pvh")},
        {"boot": Linux(Path("k"), Path("i"))},
        {"devices": (Rng(rate="64K"), Balloon(memory="256M"), Console(), Console("hvc1", "pty"))},
        {"devices": (Ports(ports={"agent": "unix:a", "log": "file:b"}),)},
    ],
    ids=str,
)
def test_what_can_be_made_is_not_refused(settings: dict[str, Any]) -> None:
    MachineConfig(**settings).check()


def toml(folder: Path, text: str | bytes) -> str:
    path = folder / "vm.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_file_gives_the_settings_by_the_names_of_the_options(tmp_path: Path) -> None:
    text = 'kernel = "k"\ninitrd = ["a", "b"]\nmemory = 1048576\nno_reboot = true\n'
    assert load_toml(toml(tmp_path, text)) == {
        "kernel": "k",
        "initrd": ["a", "b"],
        "memory": 1 << 20,
        "no_reboot": True,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cpus =", "is no TOML"),
        (b"name = '\xff'", "is no TOML"),
        ("config = 'x'", "'config' is none of append, balloon, console, cpu"),
        ("cpus = true", "cpus cannot be True"),
        ("kaslr = 1", "kaslr cannot be 1"),
        ("console = true", "console cannot be True"),
        ("rng = [1]", "rng must be a list|rng cannot be"),
        ("append = ['a']", "append cannot be"),
        ("serial = [true]", "list of strings"),
        ("[name]", "name cannot be {}"),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(UsageError, match=reason) as caught:
        load_toml(path)
    assert path in str(caught.value)


def test_a_file_that_cannot_be_read_is_the_hosts_fault(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(HostError, match=str(path)):
            load_toml(str(path))
