"""Measure pyvmm beside its peers, print the tables and keep them under bench/results/.

python bench/run.py [SECTION...]: start, boot, exits, disk, queue, net, net-queue, resident,
monitor [all].
"""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import disk_queue
import exits
import monitor
import peers
import resident
import start
from measure import TREE, Report, keep


def in_nested_host(script: str) -> Any:
    """What a script of bench/, run in the nested host, prints at last, as JSON."""
    sys.path.insert(0, str(TREE / "tests/nested"))
    import rig

    with rig.start() as host:
        status, output = host.run(["python3", f"bench/{script}"], timeout=3600)
    if status:
        raise SystemExit(f"bench/{script} failed in the nested host:\n{output}")
    return json.loads(output.splitlines()[-1])


def boot(missing: dict[str, str]) -> list[Report]:
    """The boot of a real kernel."""
    samples, broken = in_nested_host("boot.py")
    title = "exec to /init of Debian's cloud kernel, in the nested host"
    return [Report(title, "s", samples, missing | broken)]


def disk() -> list[Report]:
    """Disks under a real kernel, and Debian's way to its login."""
    return [Report(*table) for table in in_nested_host("disk.py")]


def net() -> list[Report]:
    """Networks under a real kernel."""
    return [Report(*table) for table in in_nested_host("net.py")]


def net_queue() -> list[Report]:
    """A network device's queues, on a tap that nobody else sees."""
    command = ["unshare", "--net", sys.executable, str(TREE / "bench/net_queue.py")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Report(*table) for table in json.loads(output.splitlines()[-1])]


SECTIONS: dict[str, Callable[[dict[str, str]], list[Report]]] = {
    "start": start.measure,
    "boot": boot,
    "exits": lambda missing: exits.measure(),
    "disk": lambda missing: disk(),
    "queue": disk_queue.measure,
    "net": lambda missing: net(),
    "net-queue": lambda missing: net_queue(),
    "resident": resident.measure,
    "monitor": monitor.measure,
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
