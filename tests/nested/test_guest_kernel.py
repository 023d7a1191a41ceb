"""What the monitor finds in the memory of Debian's kernels, beside what the guest says itself."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rig import NestedHost

TIMEOUT = 300.0


@pytest.fixture(
    scope="module",
    params=[("vmlinuz-cloud", "fixed"), ("vmlinuz-generic", "kaslr")],
    ids=["cloud-fixed", "generic-kaslr"],
)
def told(request: pytest.FixtureRequest, nested_host: NestedHost) -> dict[str, Any]:
    kernel, kaslr = request.param
    command = ["python3", "tests/nested/host/look_inside.py", kernel, kaslr]
    status, output = nested_host.run(command, timeout=TIMEOUT)
    assert status == 0, output
    return {"kaslr": kaslr == "kaslr", **json.loads(output.splitlines()[-1])}


def test_symbols_are_the_kernels_own(told: dict[str, Any]) -> None:
    assert told["symbols"] == told["own symbols"]
    assert told["from"]["kernel"] == told["release"]
    assert told["from"]["symbols"] > 50_000
    assert len(told["from"]["build id"]) == 40


def test_the_offset_of_kaslr_is_told(told: dict[str, Any]) -> None:
    assert (told["from"]["KASLR offset"] != 0) == told["kaslr"]
    assert told["from"]["KASLR offset"] % (2 << 20) == 0


def test_dmesg_is_what_the_guest_prints(told: dict[str, Any]) -> None:
    own = [line.expandtabs() for line in told["own dmesg"]]
    assert own == told["dmesg"][: len(own)]
    assert len(told["dmesg"]) < len(own) + 10


def test_ps_shows_what_the_guest_does(told: dict[str, Any]) -> None:
    shown = {task["pid"]: task for task in told["ps"]}
    assert shown[1]["name"] == "init"
    assert shown[1]["KiB"] > 0
    assert shown[2]["name"] == "[kthreadd]"
    for pid, parent, name in told["own ps"]:
        if name not in ("ps", "sh") and not name.startswith("kworker/"):
            assert shown[int(pid)]["parent"] == int(parent)
            assert name.startswith(shown[int(pid)]["name"].strip("[]")[:15])


@pytest.mark.parametrize("how", ["idle", "idle without note"])
def test_the_backtrace_of_an_idle_vcpu_ends_where_it_was_started(
    told: dict[str, Any], how: str
) -> None:
    first, second = told[how]
    assert [re.match(r"[^+]*", name)[0] for name in first if name.startswith("rest_init")]
    assert first[-1].startswith("secondary_startup_64")
    assert second[-2].startswith("start_secondary+")
    assert second[-1].startswith("secondary_startup_64")


def test_exported_symbols_are_taken_back_and_anothers_refused(told: dict[str, Any]) -> None:
    assert told["from elf"]["from"] == "/tmp/guest.elf"
    assert told["from elf"]["symbols"] >= told["from"]["symbols"]
    assert told["other"] == (
        f"/tmp/other.map must be of the guest's kernel, {told['release']}: "
        "its symbols do not lie as the guest's do"
    )
    assert told["still"] == "/tmp/guest.elf"


def test_a_kernel_without_its_note_is_found_by_its_symbols(told: dict[str, Any]) -> None:
    without = told["without note"]
    assert without == told["from"] | {"build id": ""}


def test_gdb_opens_the_dump(told: dict[str, Any], nested_host: NestedHost) -> None:
    asked = ["info threads", "x/2i $rip", "x/1gx $rsp", "x/s (char *)&linux_banner", "bt"]
    command = ["gdb", "-q", "-batch", "-nx"]
    for each in asked:
        command += ["-ex", each]
    status, shown = nested_host.run(
        [*command, "/tmp/guest.elf", "/tmp/guest.core"], timeout=TIMEOUT
    )
    assert status == 0, shown
    assert len(re.findall(r"LWP \d", shown)) >= 2
    assert f"{told['rip'][0]:#x}" in shown
    assert f"{told['rsp'][0]:#x}" in shown
    assert f"Linux version {told['release']}" in shown
    assert "do_idle" in shown
    assert "Cannot access memory" not in shown
