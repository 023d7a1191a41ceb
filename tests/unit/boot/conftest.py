from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.memory import GuestMemory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache, or leaves anything there."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory(64 * MIB)
    yield ram
    ram.close()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write bytes to a file and give its path."""

    def write(data: bytes, name: str = "image") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write
