"""Files of exits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.errors import HostError, UsageError
from pyvmm.native import lib
from pyvmm.tracing.event import RECORD
from pyvmm.tracing.points import LOST
from pyvmm.tracing.recording import HEADER, Recording, lines, read

PIO, MMIO = lib.PV_POINT_EXIT_PIO, lib.PV_POINT_EXIT_MMIO


def record(time: int, cpu: int, point: int = PIO, kind: int = lib.PV_EXIT_PIO_WRITE) -> bytes:
    return RECORD.pack(time, 500, 0x3F8, 0x41, 0x1000, 1, cpu, point, kind)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exits.bin"


def test_what_is_recorded_is_read_again(path: Path) -> None:
    recording = Recording(str(path))
    recording.write(record(1000, 0) + record(2000, 0), 0)
    recording.write(record(3000, 1, MMIO, lib.PV_EXIT_MMIO_READ), 0)
    recording.close()
    first, _, last = read(str(path))
    assert (first.time, first.source, first.duration) == (1000, "vcpu0", 500)
    assert first.fields == {
        "access": "write", "port": 0x3F8, "size": 1, "value": 0x41, "rip": 0x1000
    }  # fmt: skip
    assert (last.source, last.fields["access"], last.fields["address"]) == ("vcpu1", "read", 0x3F8)
    assert recording.count == 3


def test_what_was_lost_stands_where_it_is_missing(path: Path) -> None:
    recording = Recording(str(path))
    recording.write(record(1000, 0), 7)
    recording.write(record(2000, 0), 0)
    recording.close()
    assert [event.point for event in read(str(path))] == ["exit.pio", LOST, "exit.pio"]
    assert (recording.count, recording.lost) == (2, 7)


def test_the_lines_begin_with_the_time_since_the_first(path: Path) -> None:
    path.write_bytes(HEADER.pack(b"pyvmm exits1", 48) + record(10**9, 0) + record(3 * 10**9, 0))
    assert [line.split()[0] for line in lines(str(path))] == ["0.000000", "2.000000"]


def test_a_record_that_is_cut_short_is_left_out(path: Path) -> None:
    path.write_bytes(HEADER.pack(b"pyvmm exits1", 48) + record(1, 0) + record(2, 0)[:-1])
    assert len(list(read(str(path)))) == 1


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(100), HEADER.pack(b"pyvmm exits1", 40)])
def test_a_file_of_another_kind_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(UsageError, match="must be a file that `record` has made"):
        list(read(str(path)))


@pytest.mark.parametrize(("point", "kind"), [(lib.PV_POINT_QUEUE_KICK, 0), (PIO, 200), (99, 0)])
def test_a_damaged_file_is_refused(path: Path, point: int, kind: int) -> None:
    path.write_bytes(HEADER.pack(b"pyvmm exits1", 48) + record(1, 0, point, kind))
    with pytest.raises(UsageError, match="is damaged"):
        list(read(str(path)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_exits_or_are_refused(path: Path, data: bytes) -> None:
    path.write_bytes(HEADER.pack(b"pyvmm exits1", 48) + data)
    try:
        assert len(list(lines(str(path)))) == len(data) // 48
    except UsageError as error:
        assert "is damaged" in str(error)  # noqa: PT017


def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read: No such file"):
        list(read(str(path)))
    with pytest.raises(HostError, match="cannot be written: Is a directory"):
        Recording(str(path.parent))


def test_what_a_full_disk_does_not_take_is_counted_as_lost() -> None:
    recording = Recording("/dev/full")
    for _ in range(1000):
        recording.write(record(1, 0), 0)
    recording.close()
    assert recording.lost > 0
