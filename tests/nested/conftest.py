"""One nested host for the whole test run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import rig


@pytest.fixture(scope="session")
def nested_host() -> Iterator[rig.NestedHost]:
    if os.geteuid() != 0:
        pytest.skip("the nested host is built as root")
    for command in ("mmdebstrap", "apt-get", "mke2fs", "depmod"):
        if shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"the nested host needs {command}")
    with rig.start() as host:
        yield host


@pytest.fixture(autouse=True)
def nothing_left(nested_host: rig.NestedHost) -> Iterator[None]:
    """A guest that a failed test leaves running does not slow the next down."""
    with nested_host.nothing_left():
        yield
