"""What happens in a machine in a second: the differences of its counters, as tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from pyvmm.metrics.counters import Family
from pyvmm.monitor.result import Cell, Result, Sections, Table

KIB = 1024
Key = tuple[str, ...]  # a family's name, and the values of its labels


class Rates:
    """Reads counters, and compares them with those of the last time. One thread at a time.

    `since` is when that was, on CLOCK_MONOTONIC in seconds.
    """

    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        """`read` gives the counters' values now."""
        self._read = read
        self._before, self.since = self._sample(), time.monotonic()
        self._rates: dict[Key, float] = {}

    def _sample(self) -> dict[Key, float]:
        return {
            (family.name, *labels.values()): value
            for family in self._read()
            for labels, value in family.samples
        }

    def tables(self) -> Result:
        """What there was in a second, on the average since the last call, or the making."""
        now, when = self._sample(), time.monotonic()
        seconds = when - self.since
        # A device that is being reset counts less for a moment.
        self._rates = {
            key: max(value - self._before.get(key, 0), 0) / seconds for key, value in now.items()
        }
        self._before, self.since = now, when
        tables = {
            "vCPUs": self._vcpus(),
            "Disks": self._disks(),
            "Networks": self._networks(),
            "Interrupts": self._interrupts(),
        }
        return Sections({title: table for title, table in tables.items() if table.rows})

    def _sources(self, family: str) -> list[str]:
        """The first labels of a family's samples, each once, in their order."""
        return list(dict.fromkeys(key[1] for key in self._rates if key[0] == family))

    def _sum(self, *start: str) -> int:
        """All that begins so."""
        rates = self._rates.items()
        return round(sum(rate for key, rate in rates if key[: len(start)] == start))

    def _one(self, *key: str, per: float = 1) -> int | None:
        """One rate, or None where nobody counts."""
        rate = self._rates.get(key)
        return None if rate is None else round(rate / per)

    def _row(self, device: str, names: Sequence[str]) -> list[Cell]:
        return [
            self._one(f"device_{name}", device, per=KIB if "bytes" in name else 1) for name in names
        ]

    def _vcpus(self) -> Table:
        columns = (
            *("vCPU", "exits/s", "to user space/s", "to Python/s", "interrupts/s"),
            *("guest %", "host %"),
        )
        rows = []
        for cpu in self._sources("exits"):
            ours, answered = self._sum("exits", cpu), self._sum("exits_answered", cpu)
            kvm = [self._one(f"kvm_{name}", cpu) for name in ("exits", "irq_injections")]
            percent = [
                round(100 * sum(self._rates.get(("vcpu_seconds", cpu, mode), 0) for mode in modes))
                for modes in (("guest",), ("user", "system"))
            ]
            rows.append((cpu, kvm[0], ours, max(ours - answered, 0), kvm[1], *percent))
        return Table(columns, rows)

    def _disks(self) -> Table:
        columns = (
            *("disk", "reads/s", "read KiB/s", "writes/s", "written KiB/s"),
            *("flushes/s", "interrupts/s"),
        )
        names = (
            *("read_operations", "read_bytes", "write_operations", "write_bytes"),
            *("flush_operations", "interrupts"),
        )
        disks = self._sources("device_read_operations")
        return Table(columns, [(disk, *self._row(disk, names)) for disk in disks])

    def _networks(self) -> Table:
        columns = (
            *("network", "in/s", "in KiB/s", "out/s", "out KiB/s"),
            *("dropped/s", "interrupts/s"),
        )
        rows = []
        for device in self._sources("device_rx_frames"):
            moved = self._row(device, ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes"))
            lost = self._row(device, ("rx_dropped", "tx_dropped"))
            dropped = sum(count for count in lost if isinstance(count, int))
            rows.append((device, *moved, dropped, self._one("device_interrupts", device)))
        return Table(columns, rows)

    def _interrupts(self) -> Table:
        """Of the devices that have no row elsewhere, and of the lines that were ever raised."""
        shown = {*self._sources("device_read_operations"), *self._sources("device_rx_frames")}
        rows: list[Sequence[Cell]] = [
            (name, self._one("device_interrupts", name))
            for name in self._sources("device_interrupts")
            if name not in shown
        ]
        for family, *labels in self._rates:
            used = family == "interrupt_lines" and self._before[family, *labels]
            if used:
                rows.append((f"GSI {labels[0]} ({labels[1]})", self._one(family, *labels)))
        return Table(("device", "interrupts/s"), rows)
