"""Disks under Debian's own drivers: what is written is there, however it got there."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from hashlib import sha256

import pytest
from linuxguest import (
    BOOT_TIMEOUT,
    DEBIAN,
    LOGIN_TIMEOUT,
    TOOLS,
    VIRTIO_DRIVERS,
    ask,
    boot,
    log_in,
    power_off,
    start,
    told,
)
from rig import NestedHost, Process

SCRATCH = "/tmp/scratch.img"
SECTOR = 512
MIB = 1 << 20
FIO_READ_KIB, FIO_WRITTEN_KIB = 5, 46  # fio(1), terse output, version 3
VERSION_1, RING_PACKED = 32, 34  # VIRTIO 1.2 §6

FORGET = "echo 3 >/proc/sys/vm/drop_caches"  # so that the disk is read again


@pytest.fixture(autouse=True)
def scratch(nested_host: NestedHost) -> Iterator[str]:
    """An empty image of 96 MiB on the nested host's tmpfs."""
    nested_host.run(["truncate", "--size", "96M", SCRATCH])
    yield SCRATCH
    nested_host.run(["sh", "-c", "rm -f /tmp/*.img /tmp/*.qcow2"])


def boot_with(
    host: NestedHost,
    *disks: str,
    options: tuple[str, ...] = (),
    append: str = "",
    env: dict[str, str] | None = None,
) -> Process:
    """Boot the small guest with `disks` as vda, vdb and so on."""
    arguments = [word for disk in disks for word in ("--disk", disk)]
    return boot(
        host,
        "vmlinuz-cloud",
        *(*VIRTIO_DRIVERS, *arguments, *options),
        append=f"quiet {append}",
        env=env,
    )


def write_image(host: NestedHost, path: str, text: str) -> None:
    """An image of 4 MiB that begins with `text`."""
    host.run(["sh", "-c", f"printf %s '{text}' >{path} && truncate --size 4M {path}"])


def hash_of(host: NestedHost, path: str) -> str:
    """SHA-256 of a file of the nested host."""
    return host.run(["sha256sum", path])[1].split()[0]


def test_debian_keeps_what_it_wrote_across_a_reboot(nested_host: NestedHost) -> None:
    guest = start(
        nested_host,
        "vmlinuz-cloud",
        *("--disk", DEBIAN, "--cpus", "2"),
        initrd="debian-initrd.img",
        append="root=/dev/vda quiet",
    )
    log_in(guest)
    written = told(guest, "head -c 20M /dev/urandom | tee kept | sha256sum")
    assert told(guest, "systemctl --failed --no-legend --plain") == ""
    guest.write(b"reboot\n")
    log_in(guest)
    assert told(guest, "sha256sum <kept") == written
    guest.write(b"poweroff\n")
    assert guest.wait(LOGIN_TIMEOUT) == 0
    status, output = nested_host.run(["e2fsck", "-fn", DEBIAN])
    assert status == 0, output


def test_fio_and_a_file_system_find_what_they_wrote(nested_host: NestedHost) -> None:
    guest = boot_with(nested_host, f"{DEBIAN},ro", SCRATCH, options=("--cpus", "2"))
    told(guest, TOOLS)
    job = "--name=verify --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 --size=32M"
    sizes = "--bssplit=512/20:4k/40:24k/20:128k/20 --verify=sha256 --verify_fatal=1"
    command = f"chroot /mnt /bin/fio --minimal --rw=randtrimwrite {job} {sizes}"
    report = told(guest, command)
    result = re.search(r"^3;.*;verify;0;0;.*$", report, re.M)  # fio(1), terse: name, group, error
    assert result, report
    fields = result[0].split(";")
    assert min(int(fields[FIO_READ_KIB]), int(fields[FIO_WRITTEN_KIB])) > 28 << 10

    told(guest, "chroot /mnt /sbin/mkfs.ext4 -q /dev/vdb && mkdir /tmp/full")
    told(guest, "mount /dev/vdb /tmp/full")
    status, said = ask(guest, "cat /dev/urandom >/tmp/full/filled")
    assert (status, "No space left on device" in said) == (1, True)
    guest_hash = told(guest, "sha256sum </tmp/full/filled").split()[0]
    told(guest, "umount /tmp/full")
    assert power_off(guest) == 0

    status, output = nested_host.run(["e2fsck", "-fn", SCRATCH])
    assert status == 0, output
    script = f"debugfs -R 'cat filled' {SCRATCH} 2>/dev/null | sha256sum"
    assert nested_host.run(["sh", "-c", script])[1].split()[0] == guest_hash


def test_disks_keep_their_order_and_their_options(nested_host: NestedHost) -> None:
    names = ("one", "two", "three", "four")
    for name in names:
        write_image(nested_host, f"/tmp/{name}.img", name)
    options = {"one": "serial=first", "two": "serial=second", "three": "ro", "four": "snapshot"}
    guest = boot_with(nested_host, *(f"/tmp/{name}.img,{options[name]}" for name in names))
    for letter, name in zip("abcd", names, strict=True):
        assert told(guest, f"head -c {len(name)} /dev/vd{letter}; echo") == f"{name}\n"
        assert told(guest, f"cat /sys/block/vd{letter}/size") == f"{4 * MIB // SECTOR}\n"
    assert told(
        guest, "cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo"
    ).split() == [
        "first",
        "second",
    ]
    assert told(guest, "cat /sys/block/vd?/ro").split() == ["0", "0", "1", "0"]
    for letter in "abcd":
        status, _ = ask(guest, f"printf new | dd of=/dev/vd{letter} conv=notrunc,fsync")
        assert (letter, status) == (letter, letter == "c")
    assert told(guest, f"{FORGET} && head -c 4 /dev/vdd; echo") == "newr\n"
    assert power_off(guest) == 0
    found = [
        nested_host.run(["head", "-c", str(len(name)), f"/tmp/{name}.img"])[1] for name in names
    ]
    assert found == ["new", "new", "three", "four"]


@pytest.mark.parametrize(
    ("transport", "append", "packed", "fastpath"),
    [
        ("pci", "", False, True),
        ("pci", "", False, False),
        ("pci", "", True, True),
        ("pci", "pci=nomsi", False, True),
        ("mmio", "", False, True),
        ("mmio", "", True, True),
    ],
    ids=["msix", "msix-no-fastpath", "msix-packed", "intx", "mmio", "mmio-packed"],
)
def test_every_kind_of_interrupt_and_ring_serves_a_disk(
    nested_host: NestedHost, transport: str, append: str, packed: bool, fastpath: bool
) -> None:
    disk = SCRATCH + ",packed=on" * packed
    guest = boot_with(
        nested_host,
        disk,
        options=("--transport", transport, "--cpus", "2"),
        append=append,
        env={} if fastpath else {"PYVMM_NO_FASTPATH": "1"},
    )
    before = interrupts(guest)
    told(guest, "dd if=/dev/urandom of=/tmp/data bs=1M count=8")
    told(guest, "dd if=/tmp/data of=/dev/vda bs=64k conv=fsync")
    told(guest, f"{FORGET} && dd if=/dev/vda bs=1M count=8 | cmp - /tmp/data")
    after = interrupts(guest)
    kind = "PCI-MSI" if (transport, append) == ("pci", "") else "IO-APIC"
    assert set(after) == {kind}
    assert after[kind] > before.get(kind, 0)
    features = told(guest, "cat /sys/block/vda/device/features")
    assert (features[VERSION_1], features[RING_PACKED]) == ("1", str(int(packed)))
    data = told(guest, "sha256sum </tmp/data").split()[0]
    assert power_off(guest) == 0
    nested_host.run(["truncate", "-s", "8M", SCRATCH])
    assert hash_of(nested_host, SCRATCH) == data


def interrupts(guest: Process) -> dict[str, int]:
    """How many interrupts the guest's first virtio device raised, by the chip that brought them."""
    counts: dict[str, int] = {}
    for line in told(guest, "grep -w virtio0 /proc/interrupts").splitlines():
        match = re.match(r" *\w+:((?: +\d+)+) +(\S+)", line)
        if match and (total := sum(map(int, match[1].split()))):
            counts[match[2]] = counts.get(match[2], 0) + total
    return counts


def test_lspci_has_no_complaint(nested_host: NestedHost) -> None:
    guest = boot_with(nested_host, f"{DEBIAN},ro", SCRATCH)
    told(guest, TOOLS)
    found = told(guest, "chroot /mnt /bin/lspci -vvv -nn 2>&1")
    assert power_off(guest) == 0
    assert found.count("[1af4:1042]") == 2  # VIRTIO 1.2 §4.1.2.1 and §5.2.1
    assert found.count("MSI-X: Enable+") == 2
    assert len(re.findall(r"VirtIO: (?:CommonCfg|Notify|ISR|DeviceCfg)", found)) == 8
    # What lspci says of values that it does not understand, cannot read, or finds wrong.
    assert not re.search(
        r"!!!|\?\?|<access denied>|broken|corrupt|^lspci: |\[virtual\]", found, re.M
    )


@pytest.mark.parametrize("kill_after", [3, 17, 60])
def test_what_was_flushed_survives_kill_9(nested_host: NestedHost, kill_after: int) -> None:
    guest = boot_with(nested_host, SCRATCH)
    write = "printf 'record %d.' $i | dd of=/dev/vda bs=512 seek=$i conv=notrunc,fsync 2>/dev/null"
    guest.write(f"i=0; while {write}; do echo flushed' '$i; i=$((i+1)); done\n".encode())
    guest.expect(rb"flushed %d\r*$" % kill_after, BOOT_TIMEOUT)
    guest.send_signal(signal.SIGKILL)
    assert guest.wait() == -signal.SIGKILL
    flushed = [int(number) for number in re.findall(rb"flushed (\d+)\r*\n", guest.output)]
    assert flushed == list(range(len(flushed)))
    script = f"dd if={SCRATCH} bs={SECTOR} count={len(flushed)} status=none | tr -d '\\0'"
    expected = "".join(f"record {number}." for number in flushed)
    assert nested_host.run(["sh", "-c", script])[1] == expected


def test_a_qcow2_image_is_read_and_written_over_its_backing_file(nested_host: NestedHost) -> None:
    write_image(nested_host, "/tmp/base.img", "base")
    create = "qemu-img create -q -f qcow2 -F raw -b /tmp/base.img /tmp/over.qcow2"
    assert nested_host.run(create.split()) == (0, "")
    guest = boot_with(nested_host, "/tmp/over.qcow2")
    assert told(guest, "head -c 4 /dev/vda; echo") == "base\n"
    told(guest, "printf over | dd of=/dev/vda conv=notrunc,fsync")
    assert power_off(guest) == 0
    assert nested_host.run(["head", "-c", "4", "/tmp/base.img"]) == (0, "base")
    assert nested_host.run(["qemu-img", "check", "-q", "/tmp/over.qcow2"])[0] == 0
    nested_host.run(["qemu-img", "convert", "-O", "raw", "/tmp/over.qcow2", "/tmp/flat.img"])
    assert nested_host.run(["head", "-c", "4", "/tmp/flat.img"]) == (0, "over")


def test_discard_gives_space_back_and_reads_as_zeros(nested_host: NestedHost) -> None:
    guest = boot_with(nested_host, f"{DEBIAN},ro", SCRATCH)
    told(guest, TOOLS)
    told(guest, "dd if=/dev/urandom of=/dev/vdb bs=1M count=32 conv=fsync")
    full = blocks(nested_host)
    told(guest, "chroot /mnt /sbin/blkdiscard --offset 8M --length 8M /dev/vdb")
    told(guest, "chroot /mnt /sbin/blkdiscard --zeroout --offset 24M --length 1M /dev/vdb")
    zeros = sha256(bytes(8 * MIB)).hexdigest()
    read = told(guest, f"{FORGET} && dd if=/dev/vdb bs=1M skip=8 count=8 2>/dev/null | sha256sum")
    assert read.split()[0] == zeros
    read = told(guest, "dd if=/dev/vdb bs=1M skip=24 count=1 2>/dev/null | tr -d '\\0' | wc -c")
    assert read.strip() == "0"
    assert full - blocks(nested_host) >= 8 * MIB // SECTOR
    assert power_off(guest) == 0


def blocks(host: NestedHost) -> int:
    """How many sectors of the scratch image are allocated."""
    return int(host.run(["stat", "--format", "%b", SCRATCH])[1])
