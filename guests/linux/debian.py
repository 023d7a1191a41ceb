"""Build the Debian disk of the tests and of the README, from Debian packages.

    debian.img          Debian 12 on ext4: systemd, a login on the serial console as root without a
                        password, and tools for disks and networks
    debian-initrd.img   its own initramfs, for the kernel in vmlinuz-cloud

They are links into build/debian-ID; ID changes with the recipe. Run as `python
guests/linux/debian.py`; where that is not root, it says that there will be no such disk.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bootstrap import RELEASE, add_kernel, make_ext4, mmdebstrap, recipe_id

from build import BUILD, GUESTS, make, only_one, run

FLAVOUR = "cloud"
DISK, INITRD = "debian.img", "debian-initrd.img"
LABEL = HOSTNAME = "debian"
SIZE = "1G"  # sparse; half of it is used
PACKAGES = (
    *("systemd-sysv", "dbus", "udev", "kmod", "initramfs-tools", "zstd"),
    *("e2fsprogs", "fio", "pciutils", "util-linux"),
    *("curl", "ethtool", "iperf3", "iproute2", "python3-minimal"),
)
FILES = {
    "etc/fstab": f"LABEL={LABEL} / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n",
    # There is no root device to look at while the initramfs is made.
    "etc/initramfs-tools/conf.d/fstype": "FSTYPE=ext4\n",
    "etc/resolv.conf": "",  # mmdebstrap leaves a copy of the builder's
    "etc/systemd/network/ether.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
}


def make_debian(target: Path) -> None:
    """Build both files in the folder `target`."""
    root = target / "root"
    root.mkdir(parents=True)
    mmdebstrap(root, RELEASE, PACKAGES)
    for name, text in FILES.items():
        (root / name).write_text(text)
    run("chroot", root, "passwd", "--quiet", "--delete", "root")
    run("chroot", root, "systemctl", "--quiet", "enable", "systemd-networkd")
    version = add_kernel(root, FLAVOUR)
    run("chroot", root, "update-initramfs", "-c", "-k", version)
    shutil.copyfile(root / f"boot/initrd.img-{version}", target / INITRD)
    make_ext4(target / DISK, root, SIZE, "-L", LABEL)
    shutil.rmtree(root)


def build() -> Path:
    """Make what is missing and give the disk."""
    folder = BUILD / f"debian-{recipe_id(__file__, kernel=FLAVOUR)}"
    for old in BUILD.glob("debian-*"):
        if not old.name.startswith(folder.name):
            shutil.rmtree(old)
    make(folder, make_debian)
    for name in (DISK, INITRD):
        link = GUESTS / name
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(folder / name, GUESTS))
    return folder / DISK


if __name__ == "__main__":
    if os.geteuid() == 0:
        with only_one():
            build()
    else:
        print(f"not making {DISK}, which is built as root")
