"""Every guest of guests/manifest.toml, as its entry there says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import SOFTWARE_KVM, TIMEOUT, numbered_disk, program

from pyvmm import Disk, Linux, Machine, peripherals

MANIFEST = Path(__file__).parents[2] / "guests/manifest.toml"
GUESTS: list[dict[str, Any]] = tomllib.loads(MANIFEST.read_text())["guest"]


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest["name"])
def test_a_guest_ends_as_it_should(guest: dict[str, Any], tmp_path: Path) -> None:
    expected = {"end": "DebugExit", "status": 33, "output": []} | guest
    if SOFTWARE_KVM:
        expected |= guest.get("software", {})
    devices = [getattr(peripherals, kind)() for kind in guest.get("devices", ())]
    if "disk" in guest:
        devices.append(Disk("vda", numbered_disk(tmp_path / "disk.img"), **guest["disk"]))
    machine = Machine(
        boot=Linux(program(guest.get("program", guest["name"])), cmdline=guest.get("cmdline", "")),
        memory=guest.get("memory", "64M"),
        cpus=guest.get("cpus", 1),
        no_reboot=guest.get("no_reboot", True),
        devices=tuple(devices),
        transport=guest.get("transport", "pci"),
    )
    with machine:
        machine.start()
        if "input" in guest:
            machine.serial.expect(b"ready\n", timeout=TIMEOUT)
            machine.serial.write(guest["input"].encode())
        end = machine.wait(TIMEOUT)
        output = machine.serial.output.decode()
        assert (type(end).__name__, end.status) == (expected["end"], expected["status"]), output
        for text in expected["output"]:
            assert text in output


def test_every_guest_is_in_the_manifest() -> None:
    programs = {path.stem for path in MANIFEST.parent.glob("*.c")}
    elsewhere = {"debug", "virtio_net"}  # test_debugger.py, test_tap.py
    assert programs - elsewhere == {guest.get("program", guest["name"]) for guest in GUESTS}
