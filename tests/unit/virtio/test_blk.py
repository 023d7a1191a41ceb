"""What each block request does, and what becomes of those that are wrong."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostError
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.statistics import BlockStatistics, Operations
from tests.fakes.driver import Guest
from tests.fakes.storage import MemoryStorage
from tests.unit.virtio.conftest import MakeGuest

POISON = 0xEE  # what no status is
PATTERN = bytes(range(256)) * 8


@dataclass
class Answer:
    status: int
    data: bytes  # all that there was room for, written or not
    length: int  # what the device says it has written


class Disk:
    """A guest with a disk."""

    def __init__(self, guest: Guest, storage: MemoryStorage) -> None:
        self.guest = guest
        self.storage = storage
        self.driver = guest.queues[0]

    def send(self, readable: Sequence[bytes], writable: Sequence[int]) -> list[tuple[int, int]]:
        """Send a request framed like this; where its writable buffers are."""
        token = self.driver.add(readable, writable)
        places = self.driver.requests[token].writable
        for at, length in places:
            self.guest.memory.write(at, bytes([POISON]) * length)
        self.driver.kick()
        return places

    def framed(self, readable: Sequence[bytes], writable: Sequence[int]) -> Answer:
        places = self.send(readable, writable)
        (used,) = self.driver.wait()
        written = b"".join(self.guest.memory.read(*place) for place in places)
        return Answer(written[-1], written[:-1], used.length)

    def ask(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> Answer:
        readable = [spec.HEADER.pack(kind, sector), *([data] if data else [])]
        return self.framed(readable, [*([room] if room else []), 1])


class MakeDisk:
    def __init__(self, make_guest: MakeGuest) -> None:
        self._make_guest = make_guest

    def __call__(
        self, storage: MemoryStorage | None = None, features: int | None = None, **options: object
    ) -> Disk:
        storage = storage or MemoryStorage()
        guest = self._make_guest(Blk("vda", storage, **options))  # type: ignore[arg-type]
        guest.start(features)
        return Disk(guest, storage)


@pytest.fixture
def make_disk(make_guest: MakeGuest) -> MakeDisk:
    return MakeDisk(make_guest)


@pytest.fixture
def disk(make_disk: MakeDisk) -> Disk:
    return make_disk()


def segment(sector: int, sectors: int, flags: int = 0) -> bytes:
    return spec.SEGMENT.pack(sector, sectors, flags)


# ---- reading and writing ----


def test_a_read_gives_the_bytes_of_its_sectors(disk: Disk) -> None:
    disk.storage.data[1024:2048] = PATTERN[:1024]
    assert disk.ask(spec.T_IN, 2, room=1024) == Answer(spec.S_OK, PATTERN[:1024], 1025)


def test_a_write_stores_its_bytes_and_nothing_else(disk: Disk) -> None:
    assert disk.ask(spec.T_OUT, 3, PATTERN[:512]) == Answer(spec.S_OK, b"", 1)
    assert disk.storage.data == PATTERN[:512].rjust(2048, b"\0").ljust(1 << 20, b"\0")


def test_the_last_sector_can_be_read_and_written(disk: Disk) -> None:
    last = disk.storage.size // 512 - 1
    assert disk.ask(spec.T_OUT, last, PATTERN[:512]).status == spec.S_OK
    assert disk.ask(spec.T_IN, last, room=512).data == PATTERN[:512]


@pytest.mark.parametrize(
    ("sector", "length"), [(2048, 512), (2047, 1024), (1 << 55, 512), ((1 << 64) - 1, 512)]
)
def test_what_is_not_inside_the_disk_is_an_error(disk: Disk, sector: int, length: int) -> None:
    assert disk.ask(spec.T_IN, sector, room=length) == Answer(
        spec.S_IOERR, bytes([POISON]) * length, 0
    )
    assert disk.ask(spec.T_OUT, sector, bytes(length)).status == spec.S_IOERR
    assert not disk.storage.calls


@pytest.mark.parametrize("length", [1, 511, 513])
def test_a_part_of_a_sector_is_an_error(disk: Disk, length: int) -> None:
    assert disk.ask(spec.T_IN, 0, room=length).status == spec.S_IOERR
    assert disk.ask(spec.T_OUT, 0, bytes(length)).status == spec.S_IOERR
    assert not disk.storage.calls


def test_a_disk_of_0_bytes_has_nothing_to_read(make_disk: MakeDisk) -> None:
    disk = make_disk(MemoryStorage(0))
    assert disk.ask(spec.T_IN, 0, room=512).status == spec.S_IOERR


# ---- framing ----


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({at % len(data) for at in cuts} - {0}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@pytest.fixture(scope="module")
def shared_disk() -> Iterator[Disk]:
    storage = MemoryStorage()
    guest = Guest(Blk("vda", storage))
    guest.start()
    yield Disk(guest, storage)
    guest.close()


@given(
    out=st.lists(st.integers(0, 2000), max_size=8), back=st.lists(st.integers(0, 2000), max_size=8)
)
def test_any_framing_means_the_same(shared_disk: Disk, out: list[int], back: list[int]) -> None:
    disk = shared_disk
    disk.storage.data[:] = bytes(disk.storage.size)
    whole = spec.HEADER.pack(spec.T_OUT, 7) + PATTERN[:1024]
    assert disk.framed(cut(whole, out), [1]) == Answer(spec.S_OK, b"", 1)
    parts = [len(part) for part in cut(bytes(1025), back)]
    answer = disk.framed([spec.HEADER.pack(spec.T_IN, 7)], parts)
    assert answer == Answer(spec.S_OK, PATTERN[:1024], 1025)


def test_a_request_without_a_status_byte_breaks_the_device(disk: Disk) -> None:
    disk.send([spec.HEADER.pack(spec.T_FLUSH, 0)], [])
    disk.guest.wait_reset_wanted()


def test_a_header_that_is_cut_short_is_an_error(disk: Disk) -> None:
    assert disk.framed([spec.HEADER.pack(spec.T_FLUSH, 0)[:15]], [1]).status == spec.S_IOERR
    assert not disk.storage.calls


# ---- the other requests ----


def test_flush_reaches_the_storage_before_the_status_byte(make_disk: MakeDisk) -> None:
    class Storage(MemoryStorage):
        def flush(self) -> None:
            (at, _), *_ = disk.driver.requests[0].writable
            self.status_seen = disk.guest.memory.u8(at)

    storage = Storage()
    disk = make_disk(storage)
    assert disk.ask(spec.T_FLUSH) == Answer(spec.S_OK, b"", 1)
    assert storage.status_seen == spec.S_IOERR


@pytest.mark.parametrize("serial", ["", "disk-1", "x" * 20])
def test_get_id_gives_the_serial_padded_with_zeros(make_disk: MakeDisk, serial: str) -> None:
    answer = make_disk(serial=serial).ask(spec.T_GET_ID, room=20)
    assert answer == Answer(spec.S_OK, serial.encode().ljust(20, b"\0"), 21)


@pytest.mark.parametrize("room", [0, 19, 21])
def test_get_id_wants_room_for_20_bytes(disk: Disk, room: int) -> None:
    assert disk.ask(spec.T_GET_ID, room=room).status == spec.S_IOERR


@pytest.mark.parametrize("kind", [2, 3, 5, 9, 10, 12, 14, 15, 1 << 31, (1 << 32) - 1])
def test_unknown_requests_are_unsupported(disk: Disk, kind: int) -> None:
    assert disk.ask(kind, data=bytes(16)) == Answer(spec.S_UNSUPP, b"", 1)
    assert not disk.storage.calls


def test_a_discard_names_all_its_ranges(disk: Disk) -> None:
    data = segment(8, 8) + segment(0, 0) + segment(2047, 1)
    assert disk.ask(spec.T_DISCARD, data=data) == Answer(spec.S_OK, b"", 1)
    assert disk.storage.calls == [("discard", 4096, 4096), ("discard", 2047 * 512, 512)]


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_are_written_and_may_give_up_space(disk: Disk, unmap: bool) -> None:
    disk.storage.data[:] = b"x" * disk.storage.size
    assert disk.ask(spec.T_WRITE_ZEROES, data=segment(1, 2, int(unmap))).status == spec.S_OK
    assert disk.storage.calls == [("zero", 512, 1024, unmap)]
    assert disk.storage.data[:2048] == b"x" * 512 + bytes(1024) + b"x" * 512


def test_zeroes_give_up_no_space_where_there_is_no_discard(make_disk: MakeDisk) -> None:
    disk = make_disk(discard=False)
    assert disk.ask(spec.T_WRITE_ZEROES, data=segment(0, 1, 1)).status == spec.S_OK
    assert disk.storage.calls == [("zero", 0, 512, False)]


@pytest.mark.parametrize("kind", [spec.T_DISCARD, spec.T_WRITE_ZEROES])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        segment(0, 1)[:15],
        segment(0, 1) + b"x",
        segment(0, 1) * (spec.RANGES + 1),
        segment(0, 1) + segment(2047, 2),
        segment(0, 1) + segment((1 << 64) - 1, 1),
        segment(0, 1) + segment(0, (1 << 32) - 1),
    ],
)
def test_a_wrong_range_is_an_error_and_nothing_is_done(disk: Disk, kind: int, data: bytes) -> None:
    assert disk.ask(kind, data=data).status == spec.S_IOERR
    assert not disk.storage.calls


@pytest.mark.parametrize(
    ("kind", "longest"),
    [(spec.T_DISCARD, spec.DISCARD_SECTORS), (spec.T_WRITE_ZEROES, spec.WRITE_ZEROES_SECTORS)],
)
def test_a_range_has_a_limit(make_disk: MakeDisk, kind: int, longest: int) -> None:
    storage = MemoryStorage(0)
    storage.size = 1 << 40
    disk = make_disk(storage)
    assert disk.ask(kind, data=segment(0, longest + 1)).status == spec.S_IOERR
    assert not storage.calls
    assert disk.ask(kind, data=segment(0, longest) * spec.RANGES).status == spec.S_OK
    assert len(storage.calls) == spec.RANGES


@pytest.mark.parametrize(
    ("kind", "flags"), [(spec.T_DISCARD, 1), (spec.T_DISCARD, 2), (spec.T_WRITE_ZEROES, 1 << 31)]
)
def test_unknown_flags_are_unsupported(disk: Disk, kind: int, flags: int) -> None:
    data = segment(0, 1) + segment(1, 1, flags)
    assert disk.ask(kind, data=data).status == spec.S_UNSUPP
    assert not disk.storage.calls


@pytest.mark.parametrize(
    "options", [{"discard": False}, {"storage": MemoryStorage(can_discard=False)}]
)
def test_discard_is_only_there_if_it_is_wanted_and_possible(
    make_disk: MakeDisk, options: dict[str, object]
) -> None:
    disk = make_disk(**options)  # type: ignore[arg-type]
    assert not disk.guest.device.features & spec.F_DISCARD
    assert disk.ask(spec.T_DISCARD, data=segment(0, 1)).status == spec.S_UNSUPP


def test_a_read_only_disk_does_not_change(make_disk: MakeDisk) -> None:
    disk = make_disk(MemoryStorage(read_only=True))
    features = disk.guest.device.features
    assert features & spec.F_RO
    assert not features & (spec.F_DISCARD | spec.F_WRITE_ZEROES)
    assert disk.ask(spec.T_OUT, 0, bytes(512)).status == spec.S_IOERR
    assert disk.ask(spec.T_WRITE_ZEROES, data=segment(0, 1)).status == spec.S_UNSUPP
    assert disk.ask(spec.T_DISCARD, data=segment(0, 1)).status == spec.S_UNSUPP
    assert not disk.storage.calls
    assert disk.ask(spec.T_IN, 0, room=512).status == spec.S_OK


# ---- configuration and the write cache ----


def test_configuration_tells_size_limits_and_topology(make_disk: MakeDisk) -> None:
    disk = make_disk(queues=3)
    config = disk.guest.device.read_config()
    assert spec.CONFIG.unpack(config) == (
        2048,
        spec.SEGMENT_SIZE,
        spec.SEGMENTS,
        512,
        3,  # 4096 = 512 << 3
        0,
        8,  # blocks
        128,
        1,
        3,
        spec.DISCARD_SECTORS,
        spec.RANGES,
        8,
        spec.WRITE_ZEROES_SECTORS,
        spec.RANGES,
        1,
    )


def test_a_new_size_is_announced(disk: Disk) -> None:
    device = disk.guest.device
    assert isinstance(device, Blk)
    device.resize("2M")
    disk.guest.wait_config_changed()
    assert spec.CONFIG.unpack(device.read_config())[0] == 4096


def test_a_storage_that_cannot_be_changed_serves_on(disk: Disk) -> None:
    device = disk.guest.device
    assert isinstance(device, Blk)
    disk.storage.trouble = OSError(errno.EFBIG, "File too large")
    with pytest.raises(HostError, match=r"^vda cannot be resized: File too large$"):
        device.resize("2M")
    with pytest.raises(HostError, match=r"^vda cannot be committed: File too large$"):
        device.commit()
    disk.storage.trouble = None
    assert disk.ask(spec.T_OUT, 0, bytes(512)).status == spec.S_OK


def test_a_change_of_a_quiesced_disk_leaves_it_so(disk: Disk) -> None:
    device = disk.guest.device
    assert isinstance(device, Blk)
    device.worker.call(device.quiesce)
    device.resize("2M")
    disk.send([spec.HEADER.pack(spec.T_OUT, 2048), bytes(512)], [1])
    device.worker.call(lambda: None)
    assert not disk.driver.collect()
    device.worker.call(device.resume)
    assert disk.driver.wait()[0].data == bytes([spec.S_OK])


# ---- statistics ----


def test_what_was_done_is_counted_by_kind(disk: Disk) -> None:
    disk.ask(spec.T_OUT, 0, bytes(1024))
    disk.ask(spec.T_OUT, 0, bytes(512))
    disk.ask(spec.T_IN, 0, room=512)
    disk.ask(spec.T_FLUSH)
    disk.ask(spec.T_DISCARD, 0, segment(0, 8) + segment(16, 8))
    disk.ask(spec.T_WRITE_ZEROES, 0, segment(0, 2))
    disk.ask(spec.T_GET_ID, 0, room=spec.ID_SIZE)
    done = statistics(disk)
    kinds = done.write, done.read, done.flush, done.discard
    assert [(kind.operations, kind.bytes, kind.errors) for kind in kinds] == [
        *((2, 1536, 0), (1, 512, 0), (1, 0, 0), (2, 18 * 512, 0))
    ]
    assert all(kind.nanoseconds > 0 for kind in kinds)
    assert done.in_flight == 0


def test_what_failed_is_counted_as_that_only(disk: Disk) -> None:
    disk.ask(spec.T_IN, 2048, room=512)
    disk.storage.trouble = OSError(errno.EIO, "Input/output error")
    disk.ask(spec.T_OUT, 0, bytes(512))
    done = statistics(disk)
    assert done.read == done.write == Operations(0, 0, 0, 1)


def test_counts_outlive_the_driver(disk: Disk) -> None:
    disk.ask(spec.T_OUT, 0, bytes(512))
    before = statistics(disk)
    disk.guest.device.worker.call(disk.guest.device.deactivate)
    assert statistics(disk) == before


def statistics(disk: Disk) -> BlockStatistics:
    assert isinstance(disk.guest.device, Blk)
    return disk.guest.device.statistics()


# ---- queues and cache ----


def test_every_queue_is_served(make_disk: MakeDisk) -> None:
    disk = make_disk(queues=3)
    for index in range(3):
        disk.driver = disk.guest.queues[index]
        assert disk.ask(spec.T_OUT, index, bytes([index]) * 512).status == spec.S_OK
    assert disk.storage.data[512:1536] == b"\1" * 512 + b"\2" * 512


WRITES = [(spec.T_OUT, bytes(512)), (spec.T_WRITE_ZEROES, segment(0, 1))]


@pytest.mark.parametrize(("kind", "data"), WRITES)
def test_with_a_write_cache_only_a_flush_flushes(disk: Disk, kind: int, data: bytes) -> None:
    disk.ask(kind, data=data)
    assert ("flush",) not in disk.storage.calls
    disk.ask(spec.T_FLUSH)
    assert disk.storage.calls[-1] == ("flush",)


@pytest.mark.parametrize(("kind", "data"), WRITES)
def test_without_a_write_cache_every_write_is_flushed(
    make_disk: MakeDisk, kind: int, data: bytes
) -> None:
    disk = make_disk(writeback=False)
    disk.ask(kind, data=data)
    assert [call[0] for call in disk.storage.calls[1:]] == ["flush"]


def test_a_driver_that_cannot_flush_gets_no_write_cache(make_disk: MakeDisk) -> None:
    features = make_disk().guest.device.features & ~spec.F_FLUSH
    disk = make_disk(features=features)
    assert disk.guest.device.read_config()[spec.CONFIG_WRITEBACK] == 0
    disk.ask(spec.T_OUT, 0, bytes(512))
    assert disk.storage.calls[-1] == ("flush",)


def test_the_driver_chooses_the_cache_mode_until_it_resets(disk: Disk) -> None:
    device = disk.guest.device
    device.write_config(spec.CONFIG_WRITEBACK, b"\0")
    assert device.read_config()[spec.CONFIG_WRITEBACK] == 0
    disk.ask(spec.T_OUT, 0, bytes(512))
    assert disk.storage.calls[-1] == ("flush",)
    disk.guest.reset()
    assert device.read_config()[spec.CONFIG_WRITEBACK] == 1


@pytest.mark.parametrize("offset", [0, 31, 33, 59])
def test_nothing_else_of_the_configuration_can_be_written(disk: Disk, offset: int) -> None:
    before = disk.guest.device.read_config()
    disk.guest.device.write_config(offset, b"\0\0" if offset == 31 else b"\0")
    assert disk.guest.device.read_config() == before


# ---- trouble ----

REQUESTS = [
    (spec.T_IN, b"", 512),
    (spec.T_OUT, bytes(512), 0),
    (spec.T_FLUSH, b"", 0),
    (spec.T_DISCARD, segment(0, 1), 0),
    (spec.T_WRITE_ZEROES, segment(0, 1), 0),
]


@pytest.mark.parametrize(("kind", "data", "room"), REQUESTS)
def test_an_error_of_the_host_is_an_error_of_the_request(
    disk: Disk, kind: int, data: bytes, room: int
) -> None:
    disk.storage.trouble = OSError(errno.EIO, "Input/output error")
    answer = disk.ask(kind, data=data, room=room)
    assert answer.status == spec.S_IOERR
    assert answer.length == (0 if room else 1)
    disk.storage.trouble = None
    assert disk.ask(kind, data=data, room=room).status == spec.S_OK


def test_many_errors_are_one_line_in_the_log(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.storage.trouble = OSError(errno.EIO, "Input/output error")
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            disk.ask(spec.T_IN, room=512)
    assert [record.getMessage() for record in caplog.records] == [
        "vda: a request failed: Input/output error"
    ]


def test_closing_the_device_closes_the_storage() -> None:
    storage = MemoryStorage()
    Blk("vda", storage).close()
    assert storage.closed
