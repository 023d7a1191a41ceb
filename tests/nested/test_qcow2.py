"""A Linux guest whose disk a qemu-storage-daemon serves, and which outlives that one."""

from __future__ import annotations

from linuxguest import VIRTIO_DRIVERS, ask, boot, power_off, told
from rig import NestedHost

IMAGE, PLAIN = "/tmp/daemon.qcow2", "/tmp/daemon.img"
# A process's name has 15 characters.
KILL = "kill -KILL $(grep -l '^qemu-storage-da' /proc/[0-9]*/comm | cut -d / -f 3)"
WRITE_TIMEOUT = 300.0  # seconds; five when nothing else runs


def test_a_file_system_outlives_the_daemon_that_serves_it(nested_host: NestedHost) -> None:
    nested_host.run(["mke2fs", "-q", "-t", "ext4", PLAIN, "64M"])
    nested_host.run(["qemu-img", "convert", "-O", "qcow2", PLAIN, IMAGE])
    guest = boot(
        nested_host,
        "vmlinuz-cloud",
        *(*VIRTIO_DRIVERS, "--disk", f"{IMAGE},cache=writethrough", "--cpus", "2"),
    )
    told(guest, "mount /dev/vda /mnt")
    place = "bs=16k count=16 seek=$((16 * at)) conv=notrunc,fsync"
    copy = f"for at in $(seq 0 15); do dd if=/dev/urandom of=/mnt/$n {place} 2>/dev/null; done"
    write = f"for n in 1 2 3 4; do ({copy}) & done"
    guest.write(f"{write}; echo 'beg''un'; wait; echo 'writ''ten'\n".encode())
    guest.expect(rb"begun")
    assert nested_host.run(["sh", "-c", KILL])[0] == 0
    guest.expect(rb"killed by signal 9; another is to go on in its place")
    guest.expect(rb"written", WRITE_TIMEOUT)
    sums = told(guest, "cd /mnt && ls -l && sha256sum ?")
    assert sums.count(" 4194304 ") == 4
    told(guest, "cd / && umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount /dev/vda /mnt")
    assert told(guest, "cd /mnt && ls -l && sha256sum ?") == sums
    assert ask(guest, "cd / && umount /mnt; dmesg | grep 'I/O error'")[0] == 1
    assert power_off(guest) == 0
    assert nested_host.run(["qemu-img", "check", "-q", IMAGE]) == (0, "")
    nested_host.run(["qemu-img", "convert", "-O", "raw", IMAGE, PLAIN])
    status, output = nested_host.run(["e2fsck", "-fn", PLAIN])
    assert status == 0, output
    nested_host.run(["rm", IMAGE, PLAIN])
