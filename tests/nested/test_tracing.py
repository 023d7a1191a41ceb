"""A trace of Debian's kernel."""

from __future__ import annotations

import json

from linuxguest import VIRTIO_DRIVERS, boot, power_off, told
from rig import NestedHost

IMAGE, TRACE = "/tmp/traced.img", "/tmp/trace.json"
BLOCKS, BLOCK = 16, 65536


def test_every_request_of_a_boot_begins_and_ends(nested_host: NestedHost) -> None:
    nested_host.run(["truncate", "--size", "16M", IMAGE])
    guest = boot(
        nested_host,
        "vmlinuz-cloud",
        *(*VIRTIO_DRIVERS, "--disk", IMAGE, "--rng", "--cpus", "2"),
        *("--trace", f"request.*,file={TRACE}", "--trace", f"machine.*,file={TRACE}"),
    )
    told(guest, f"dd if=/dev/zero of=/dev/vda bs={BLOCK} count={BLOCKS} conv=fsync")
    told(guest, "head -c 16 /dev/hwrng >/dev/null")
    assert power_off(guest) == 0
    _, text = nested_host.run(["cat", TRACE])
    nested_host.run(["rm", IMAGE, TRACE])
    events = json.loads(text)["traceEvents"]
    begun: dict[str, dict[str, object]] = {}
    written = flushed = 0
    for event in events:
        if event["ph"] == "b":
            assert event["id"] not in begun
            begun[event["id"]] = event
        elif event["ph"] == "e":
            begin = begun.pop(event["id"])
            assert begin["name"] == event["name"]
            assert begin["ts"] <= event["ts"]
            if event["name"] == "write":
                written += begin["args"]["bytes"]  # type: ignore[index]
            flushed += event["name"] == "flush"
    assert not [event for event in begun.values() if event["cat"] == "request.block"]
    assert written >= BLOCKS * BLOCK
    assert flushed
    assert {"request.other", "machine.ended"} <= {event["name"] for event in events}


def test_top_counts_what_linux_does(nested_host: NestedHost) -> None:
    nested_host.run(["truncate", "--size", "16M", IMAGE])
    monitor = "unix:/tmp/monitor.sock"
    guest = boot(
        nested_host, "vmlinuz-cloud", *VIRTIO_DRIVERS, "--disk", IMAGE, "--monitor", monitor
    )
    again = "while :; do echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k; done"
    told(guest, f"({again}) >/dev/null 2>&1 & true")
    status, output = nested_host.run(
        ["sh", "-c", f"echo top 3 | python3 -m pyvmm monitor {monitor}"], timeout=60
    )
    nested_host.run(["rm", IMAGE])
    assert status == 0, output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()}
    exits, _, _, injected, *_ = map(int, rows["0"])
    reads, _, _, _, _, signalled = map(int, rows["vda"])
    assert exits > 0
    assert injected > 0
    assert reads > 0
    assert signalled > 0
    assert power_off(guest) == 0
