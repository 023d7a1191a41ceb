"""Debian's kernels, as shipped and in every other form, from start to power-off."""

from __future__ import annotations

import pytest
from linuxguest import BOOT_TIMEOUT, GUESTS, PROMPT, boot, check, power_off
from rig import NestedHost

FORMS = {
    "generic-bzImage": ("vmlinuz-generic",),
    "generic-vmlinux": ("vmlinux-generic",),
    "generic-pvh": ("vmlinux-generic", "--entry", "pvh"),
    "cloud-bzImage": ("vmlinuz-cloud",),
    "cloud-vmlinux": ("vmlinux-cloud",),
    "cloud-pvh": ("vmlinux-cloud", "--entry", "pvh"),
    "cloud-bz2": ("kernel.bz2",),
}


def seconds(host: NestedHost) -> int:
    """The nested host's time of day."""
    return int(host.run(["date", "+%s"])[1])


@pytest.mark.parametrize(
    ("form", "cpus"),
    [
        *((f"{flavour}-bzImage", cpus) for flavour in ("generic", "cloud") for cpus in (1, 2, 4)),
        ("generic-vmlinux", 2),
        ("generic-pvh", 4),
        ("cloud-vmlinux", 4),
        ("cloud-pvh", 2),
        ("cloud-bz2", 1),
    ],
)
def test_linux_finds_its_machine_in_order(nested_host: NestedHost, form: str, cpus: int) -> None:
    guest = boot(nested_host, *FORMS[form], "--cpus", str(cpus))
    before = seconds(nested_host)
    found = check(guest)
    after = seconds(nested_host)
    assert found.numbers("cpus") == [cpus]
    assert found.numbers("hypervisor") == [cpus]
    timers = found.numbers("timer")
    assert len(timers) == cpus
    assert min(timers) > 0
    assert found.numbers("serial")[0] > 0
    for clock in ("rtc", "time"):
        assert before - 1 <= found.numbers(clock)[0] <= after + 1
    assert found.lines["clocksource"] == ["kvm-clock"]
    assert "dmesg" not in found.lines
    assert power_off(guest) == 0


def test_linux_boots_with_the_fast_path_off(nested_host: NestedHost) -> None:
    off = {"PYVMM_NO_FASTPATH": "1"}
    guest = boot(nested_host, "vmlinuz-cloud", "--cpus", "2", env=off)
    found = check(guest)
    assert found.numbers("cpus") == [2]
    assert "dmesg" not in found.lines
    assert power_off(guest) == 0


def test_a_kernel_that_unpacks_itself_boots(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--kaslr")
    assert "dmesg" not in check(guest).lines
    assert power_off(guest) == 0


def test_memory_on_both_sides_of_the_hole_is_used(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--memory", "3584M")
    assert check(guest).numbers("memory")[0] > 3300 << 10
    assert power_off(guest) == 0


@pytest.mark.parametrize("cpus", [1, 4])
def test_a_reboot_starts_the_kernel_again(nested_host: NestedHost, cpus: int) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--cpus", str(cpus))
    guest.write(b"reboot -f\n")
    guest.expect(rb"init: ready", BOOT_TIMEOUT)
    guest.expect(PROMPT)
    assert check(guest).numbers("cpus") == [cpus]
    assert power_off(guest) == 0


def test_a_reboot_ends_the_run_if_it_was_not_wanted(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--no-reboot")
    guest.write(b"reboot -f\n")
    assert guest.wait() == 0
    assert guest.output.count(b"init: ready") == 1


@pytest.mark.parametrize("append", ["panic=-1", "panic=0"])
def test_a_panic_never_looks_like_success(nested_host: NestedHost, append: str) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--no-reboot", append=append)
    guest.write(b"echo c > /proc/sysrq-trigger\n")
    assert guest.wait() == 4
    assert b"Kernel panic - not syncing" in guest.output


def test_ctrl_a_x_quits_and_puts_the_terminal_right(nested_host: NestedHost) -> None:
    script = f"""stty -g > /tmp/before
    python3 -m pyvmm run {GUESTS}/vmlinuz-cloud --initrd {GUESTS}/initramfs.img \
        --append 'console=ttyS0 quiet'
    printf '\\nstatus %s\\n' $?
    stty -g | cmp - /tmp/before && echo same"""
    shell = nested_host.spawn(["sh", "-c", script], tty=(24, 80))
    shell.expect(PROMPT, BOOT_TIMEOUT)
    shell.write(b"echo $((6 * 7))\r")
    shell.expect(rb"^42\r*$")
    shell.expect(PROMPT)
    shell.write(b"\x01x")
    shell.expect(rb"^status 0\r*$")
    shell.expect(rb"^same\r*$")
    assert shell.wait() == 0


def test_ctrl_c_reaches_the_guests_shell(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", tty=(24, 80))
    # Said by the job itself: at what the shell says, the terminal is still the shell's.
    guest.write(b"sh -c \"echo sleep''ing; exec sleep 1000\"\r")
    guest.expect(rb"^sleeping")
    guest.write(b"\x03")
    guest.expect(PROMPT)
    guest.write(b"poweroff -f\r")
    assert guest.wait() == 0
