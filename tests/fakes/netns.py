"""A network namespace of a test's own: what it does there to interfaces reaches nobody."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
LIBC = ctypes.CDLL(None, use_errno=True)


def skip_unless_possible() -> None:
    """Skip, by name of what is missing, where there can be no taps."""
    if os.geteuid():
        pytest.skip("taps in a network namespace take root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("the host has no /dev/net/tun")
    if shutil.which("ip") is None:
        pytest.skip("the command ip is not installed")


@contextmanager
def network_namespace() -> Iterator[None]:
    """The calling thread, and those that it starts, are in a namespace of their own."""
    skip_unless_possible()
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.unshare(CLONE_NEWNET) < 0:
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        ip("link set lo up")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")  # it would speak first
        yield
    finally:
        assert LIBC.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def ip(words: str) -> str:
    """Run ip(8); what it prints."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout
