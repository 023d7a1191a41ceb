"""Every ring of tests/corpus/rings: refused for its reason, by the queues in Python and in C."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.virtio.native_queue import NativeQueue
from pyvmm.virtio.virtqueue import open_queue
from tests.corpus.rings import FILES, RINGS
from tests.fakes.ringcase import Opener, RingCase

OPENERS = {"python": open_queue, "native": NativeQueue}


def test_the_files_are_what_the_script_writes() -> None:
    files = {path.stem: path.read_bytes() for path in FILES.glob("*.ring")}
    assert files == {name: case.pack() for name, (case, _) in RINGS.items()}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize("path", sorted(FILES.glob("*.ring")), ids=lambda path: path.stem)
def test_a_bad_ring_is_refused_for_its_reason(path: Path, opener: Opener) -> None:
    seen = RingCase.parse(path.read_bytes()).play(opener)
    reason = RINGS[path.stem][1]
    said = seen[-1] if isinstance(seen[-1], str) else ""
    assert reason in said
    assert bool(reason) == bool(said)
