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
