"""What of the kvm level depends on the kind of KVM, once more on the real kvm_amd."""

from __future__ import annotations

import pytest
from rig import NestedHost

FILES = ("debug", "exits", "guests", "interrupts", "memory_slots", "paging", "virtio")


@pytest.mark.parametrize("env", [{}, {"PYVMM_NO_FASTPATH": "1"}], ids=["fastpath", "no-fastpath"])
def test_the_kvm_level_passes(nested_host: NestedHost, env: dict[str, str]) -> None:
    command = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    command += ["--basetemp=/var/tmp/kvm"]  # tmpfs, where /tmp is, has no direct I/O before 6.6
    command += [f"tests/kvm/test_{name}.py" for name in FILES]
    status, output = nested_host.run(command, env=env, timeout=1200)
    assert status == 0, output
