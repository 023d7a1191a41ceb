"""The documents of the tree, and the fenced blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(info: str) -> list[tuple[str, str]]:
    """("README.md:120", text) of every block whose info string is `info`.

    `python` runs anywhere, `python kvm` on any /dev/kvm, `python linux` on one that runs Linux.
    """
    fence = re.compile(rf"^```{info}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        (f"{path.name}:{text.count(chr(10), 0, found.start()) + 1}", found[1])
        for path in DOCUMENTS
        for text in [path.read_text()]
        for found in fence.finditer(text)
    ]
