"""The kvm level's tests once more, on the real kvm_amd."""

from __future__ import annotations

import pytest
from rig import NestedHost


@pytest.mark.parametrize("env", [{}, {"PYVMM_NO_FASTPATH": "1"}], ids=["fastpath", "no-fastpath"])
def test_the_kvm_level_passes(nested_host: NestedHost, env: dict[str, str]) -> None:
    command = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/kvm"]
    status, output = nested_host.run(command, env=env, timeout=1200)
    assert status == 0, output
