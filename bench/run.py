"""Measure pyvmm beside its peers, print the tables and keep them under bench/results/.

python bench/run.py [start] [boot] [exits] [resident]; all of them if none is named.
"""

from __future__ import annotations

import compileall
import json
import sys
from collections.abc import Callable

import exits
import peers
import resident
import start
from measure import TREE, Report, keep


def boot(missing: dict[str, str]) -> list[Report]:
    """The boot of a real kernel, in the nested host."""
    sys.path.insert(0, str(TREE / "tests/nested"))
    import rig

    with rig.start() as host:
        status, output = host.run(["python3", "bench/boot.py"], timeout=3600)
    if status:
        raise SystemExit(f"bench/boot.py failed in the nested host:\n{output}")
    samples, broken = json.loads(output.splitlines()[-1])
    title = "exec to /init of Debian's cloud kernel, in the nested host"
    return [Report(title, "s", samples, missing | broken)]


SECTIONS: dict[str, Callable[[dict[str, str]], list[Report]]] = {
    "start": start.measure,
    "boot": boot,
    "exits": lambda missing: exits.measure(),
    "resident": resident.measure,
}


def main(names: list[str]) -> None:
    unknown = set(names) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"There is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    compileall.compile_dir(TREE / "pyvmm", quiet=1)  # as pip does when it installs
    missing = peers.build()
    for name in names or SECTIONS:
        keep(name, SECTIONS[name](missing))


if __name__ == "__main__":
    main(sys.argv[1:])
