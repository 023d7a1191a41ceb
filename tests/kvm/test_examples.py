"""The documents' examples that need /dev/kvm."""

from __future__ import annotations

import pytest

from tests.documents import blocks


@pytest.mark.parametrize(
    ("where", "code"), [pytest.param(*b, id=b[0]) for b in blocks("python kvm")]
)
def test_an_example_runs(where: str, code: str) -> None:
    exec(compile(code, where, "exec"), {})
