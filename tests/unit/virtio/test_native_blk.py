"""Disks served by csrc/worker.c: the same as those that Python serves, and what only threads do."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.backends.disk import open_image
from pyvmm.events import BlockError, Event
from pyvmm.layout import MIB
from pyvmm.native import ffi, lib
from pyvmm.virtio import blk as blk_module
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import Virtqueue
from tests.fakes.driver import PACKED, PATIENCE, SPLIT, Driver, Guest

SECTORS = 128
SIZE = SECTORS * spec.SECTOR
SECOND = 10**9
FORMATS = {"split": SPLIT, "packed": PACKED}
TMPFS = Path("/dev/shm")


def header(kind: int, sector: int = 0) -> bytes:
    return spec.HEADER.pack(kind, sector)


def exchange(queue: Driver, readable: list[bytes], writable: list[int]) -> tuple[int, bytes]:
    """One request: the used length, and all that is in the writable buffers then."""
    token = queue.add(readable, writable)
    parts = queue.requests[token].writable
    queue.kick()
    (used,) = queue.wait()
    return used.length, b"".join(queue.memory.read(*part) for part in parts)


def write(queue: Driver, sector: int, data: bytes) -> int:
    """The status of a write."""
    return exchange(queue, [header(spec.T_OUT, sector), data], [1])[1][0]


def read(queue: Driver, sector: int, length: int = spec.SECTOR) -> tuple[int, bytes]:
    """The status of a read, and the data."""
    _, data = exchange(queue, [header(spec.T_IN, sector)], [length, 1])
    return data[-1], data[:-1]


def flush(queue: Driver) -> int:
    return exchange(queue, [header(spec.T_FLUSH)], [1])[1][0]


class Rig:
    """A disk in a file with a guest that uses it; `native` says what C has done."""

    def __init__(self, path: Path, *, direct: bool = False, **options: object) -> None:
        path.write_bytes(bytes(SIZE))
        self.path = path
        self.storage = open_image(str(path), direct=direct)
        self.blk = Blk("vda", self.storage, **options)  # type: ignore[arg-type]
        self.guest = Guest(self.blk)

    def start(self, features: int | None = None) -> Driver:
        self.guest.start(features)
        return self.guest.queues[0]

    @property
    def counters(self) -> Any:
        """What C counts: a struct pv_disk_counters."""
        assert self.blk._native is not None
        return self.blk._native._disk.counters

    @property
    def in_flight(self) -> int:
        """How much of queue 0 was taken by C and is not answered."""
        assert self.blk._native is not None
        return int(self.blk._native._queues[0]._native.in_flight)

    def replace_file(self, path: str, flags: int) -> None:
        """Have the disk's descriptor be another file."""
        other = os.open(path, flags)
        os.dup2(other, self.storage.descriptor, inheritable=False)
        os.close(other)


MakeRig = Callable[..., Rig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(tmp_path / f"disk{len(rigs)}.img", **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.guest.close()


@pytest.fixture(params=FORMATS)
def features(request: pytest.FixtureRequest) -> int:
    return FORMATS[request.param]


def threads() -> list[str]:
    """The names of the disks' threads that there are."""
    names = [
        Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")
    ]
    return [name.strip() for name in names if name.startswith("pv-")]


# ---- the same as Python ----

pieces = st.lists(st.integers(1, 1500), max_size=4)
KINDS = (spec.T_IN, spec.T_OUT, spec.T_FLUSH, spec.T_GET_ID, spec.T_WRITE_ZEROES, 99)
sectors = st.integers(0, SECTORS + 2) | st.sampled_from([1 << 55, (1 << 64) - 1])


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """Well-formed ones mostly, cut into buffers anyhow."""
    kind, sector = draw(st.sampled_from(KINDS)), draw(sectors)
    length = draw(st.integers(0, 6)) * spec.SECTOR + draw(st.sampled_from([0, 0, 0, 1, 20]))
    payload = bytes(draw(st.integers(1, 255)) for _ in range(3)) * (length // 3 + 1)
    out = header(kind, sector)
    room = 1
    if kind in (spec.T_OUT, spec.T_WRITE_ZEROES):
        zeroes = spec.SEGMENT.pack(sector % SECTORS, 2, 0)
        out += payload[:length] if kind == spec.T_OUT else zeroes
    elif kind != spec.T_FLUSH:
        room += length
    usual = draw(st.booleans())
    readable = [out[:16], out[16:]] if usual else cut(out, draw(pieces))
    writable = [room - 1, 1] if usual else [len(part) for part in cut(bytes(room), draw(pieces))]
    return [part for part in readable if part], [part for part in writable if part]


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    parts = []
    for length in lengths:
        parts.append(data[:length])
        data = data[length:]
    return [*parts, data]


@pytest.mark.parametrize("writeback", [True, False])
@given(script=st.lists(requests(), min_size=1, max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_c_and_python_do_the_same(
    features: int,
    writeback: bool,
    tmp_path: Path,
    script: list[tuple[list[bytes], list[int]]],
) -> None:
    results = []
    for fast in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYVMM_NO_FASTPATH", fast)
            rig = Rig(tmp_path / "disk.img", packed=True, serial="abc", writeback=writeback)
            queue = rig.start(features | spec.F_FLUSH)
            assert (rig.blk._native is None) == (fast == "1")
            answers = [exchange(queue, *request) for request in script]
            rig.guest.close()
            results.append((answers, rig.path.read_bytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("options", [{}, {"direct": True}, {"writeback": False}, {"poll": 50}])
def test_what_is_written_from_all_queues_is_read_back(
    make: MakeRig, features: int, options: dict[str, object]
) -> None:
    rig = make(queues=3, packed=True, **options)
    rig.start(features)
    chunk = 8 * spec.SECTOR
    for round_ in range(6):
        for kind in (spec.T_OUT, spec.T_FLUSH, spec.T_IN):
            for index, queue in rig.guest.queues.items():
                for place in range(5):
                    sector = (index * 5 + place) * 8
                    fill = bytes([index << 6 | place << 3 | round_]) * chunk
                    readable, writable = [header(kind, sector)], [1]
                    if kind == spec.T_OUT:
                        readable.append(fill)
                    elif kind == spec.T_IN:
                        writable.insert(0, chunk)
                    queue.add(readable, writable)
                queue.kick()
            for index, queue in rig.guest.queues.items():
                for used in queue.wait(5):
                    assert used.data[-1] == spec.S_OK
                    if kind == spec.T_IN:
                        assert used.data[0] >> 6 == index
                        assert used.data[:-1] == used.data[:1] * chunk
                        assert used.data[0] & 7 == round_
    done = rig.blk.statistics()
    for kind, size in ((done.read, 90 * chunk), (done.write, 90 * chunk), (done.flush, 0)):
        assert (kind.operations, kind.bytes, kind.errors) == (90, size, 0)
        assert kind.nanoseconds > 0
    assert done.in_flight == 0
    if "direct" not in options:  # Python's: the buffers are not aligned
        assert rig.counters.handed == 0


def test_counts_of_c_outlive_the_driver(make: MakeRig) -> None:
    rig = make()
    assert write(rig.start(), 0, bytes(spec.SECTOR)) == spec.S_OK
    rig.blk.worker.call(rig.blk.deactivate)
    assert rig.blk.statistics().write.bytes == spec.SECTOR
    assert write(rig.start(), 0, bytes(spec.SECTOR)) == spec.S_OK
    assert rig.blk.statistics().write.bytes == 2 * spec.SECTOR


def test_direct_io_is_left_to_helpers_and_not_to_python(make: MakeRig, features: int) -> None:
    rig = make(direct=True, packed=True)
    queue = rig.start(features)
    page, count, at = 4096, 8, 2 * MIB
    memory = rig.guest.memory
    for kind in (spec.T_OUT, spec.T_IN):
        for index in range(count):
            data, rest = at + 2 * index * page, at + (2 * index + 1) * page
            memory.write(rest, header(kind, index * 8))
            memory.write(data, bytes([index + 1 if kind == spec.T_OUT else 0]) * page)
            flags = 0 if kind == spec.T_OUT else virtio_spec.DESC_F_WRITE
            status = (rest + 16, 1, virtio_spec.DESC_F_WRITE)
            queue.add_descriptors([(rest, 16, 0), (data, page, flags), status], [status[:2]])
        queue.kick()
        assert [used.length for used in queue.wait(count)] == [1 + page * (flags != 0)] * count
    for index in range(count):
        assert memory.read(at + 2 * index * page, page) == bytes([index + 1]) * page
    assert rig.counters.handed == 0
    assert rig.counters.helped > 0


# ---- errors ----


def test_a_rule_broken_in_c_is_told_once_and_a_reset_cures_it(
    make: MakeRig, features: int, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make(packed=True)
    queue = rig.start(features)
    queue.add_descriptors([(1 << 40, spec.SECTOR, 0)])
    with caplog.at_level(logging.WARNING):
        queue.kick()
        rig.guest.wait_reset_wanted()
    assert [record.getMessage() for record in caplog.records if "rule" in record.getMessage()] == [
        f"vda: the guest's driver broke a rule: a buffer is not in RAM: "
        f"{caplog.records[0].getMessage().partition('in RAM: ')[2]}"
    ]
    rig.guest.reset()
    assert not threads()
    assert write(rig.start(features), 1, bytes(spec.SECTOR)) == spec.S_OK


def test_a_file_that_has_become_shorter_is_an_error_for_the_guest(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    os.truncate(rig.path, 2 * spec.SECTOR)
    assert read(queue, 3)[0] == spec.S_IOERR
    assert read(queue, 1) == (spec.S_OK, bytes(spec.SECTOR))


def test_a_descriptor_that_cannot_be_written_is_an_error_for_the_guest(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    rig.replace_file(str(rig.path), os.O_RDONLY)
    assert write(queue, 0, bytes(spec.SECTOR)) == spec.S_IOERR
    assert read(queue, 0)[0] == spec.S_OK


def test_a_limit_of_the_file_size_is_an_error_for_the_guest(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * spec.SECTOR, hard))
    try:
        assert write(queue, 4, bytes(spec.SECTOR)) == spec.S_IOERR
        assert write(queue, 3, bytes(spec.SECTOR)) == spec.S_OK
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_without_space_wait_for_it_while_others_go_on(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blk_module, "PROBE_SECONDS", 0.01)
    held, released = threading.Event(), threading.Event()

    def hold(reason: str) -> Callable[[], object]:
        held.set()
        return released.set

    rig = make(hold=hold)
    queue = rig.start()
    rig.replace_file("/dev/full", os.O_RDWR)
    token = queue.add([header(spec.T_OUT, 5), b"x" * spec.SECTOR], [1])
    queue.kick()
    assert held.wait(PATIENCE)
    assert read(queue, 0)[0] == spec.S_OK
    rig.replace_file(str(rig.path), os.O_RDWR)
    (used,) = queue.wait()
    assert (used.token, used.data) == (token, bytes([spec.S_OK]))
    assert released.wait(PATIENCE)
    assert rig.path.read_bytes()[5 * spec.SECTOR :][: spec.SECTOR] == b"x" * spec.SECTOR


def test_a_failed_flush_is_an_error_and_is_not_tried_again(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    tried = []
    rig.storage.flush = lambda: tried.append(1)  # type: ignore[method-assign]
    rig.replace_file("/dev/null", os.O_RDWR)  # fdatasync gives EINVAL
    assert flush(queue) == spec.S_IOERR
    assert not tried


@pytest.mark.parametrize("kind", [spec.T_FLUSH, spec.T_GET_ID, 77])
def test_a_failed_flush_is_told_as_one_whatever_the_guest_writes_over_it(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    told: list[Event] = []
    rig = make(tell=told.append)
    queue = rig.start()
    answer = rig.blk.answer

    def change_then_answer(queue: Virtqueue, chain: Chain, failed: OSError | None) -> None:
        chain.readable[0][:] = header(kind)
        answer(queue, chain, failed)

    monkeypatch.setattr(rig.blk, "answer", change_then_answer)
    rig.replace_file("/dev/null", os.O_RDWR)  # fdatasync gives EINVAL
    assert flush(queue) == spec.S_IOERR
    assert told == [BlockError("vda", "flush", "Invalid argument", False)]


# ---- what FLUSH and the cache mode promise ----


class Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class CacheState(ctypes.Structure):
    """struct cachestat of <linux/mman.h>."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recent")
    )


CACHESTAT = 451  # the system call, since Linux 6.5


def unsafe_pages(path: Path) -> int:
    """How many pages of a file are not on its disk yet."""
    state, whole = CacheState(), Range(0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        if libc.syscall(CACHESTAT, file.fileno(), ctypes.byref(whole), ctypes.byref(state), 0):
            pytest.skip("the kernel has no cachestat system call, which Linux 6.5 brought")
    return int(state.dirty + state.writeback)


@pytest.fixture
def needs_dirty_pages(tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"x")
    if not unsafe_pages(tmp_path / "probe"):
        pytest.skip("the file system of the tests' files has no dirty pages")


@pytest.mark.usefixtures("needs_dirty_pages")
def test_a_flush_completes_when_what_was_written_is_safe(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    for round_ in range(8):
        assert write(queue, 8 * round_, b"x" * spec.SECTOR) == spec.S_OK
        assert unsafe_pages(rig.path)
        assert flush(queue) == spec.S_OK
        assert not unsafe_pages(rig.path)


@pytest.mark.usefixtures("needs_dirty_pages")
def test_the_driver_may_switch_to_writethrough_and_back(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    assert flush(queue) == spec.S_OK
    for writeback in (0, 1, 0):
        rig.blk.write_config(spec.CONFIG_WRITEBACK, bytes([writeback]))
        assert write(queue, 8, b"x" * spec.SECTOR) == spec.S_OK
        assert bool(unsafe_pages(rig.path)) == bool(writeback)


# ---- stopping ----


def fill(queue: Driver, count: int) -> list[int]:
    tokens = [
        queue.add([header(spec.T_OUT, n % SECTORS), bytes([n]) * spec.SECTOR], [1])
        for n in range(count)
    ]
    queue.kick()
    return tokens


def test_a_quiesced_disk_leaves_memory_alone_and_loses_nothing(
    make: MakeRig, features: int
) -> None:
    rig = make(packed=True, writeback=False)
    queue = rig.start(features)
    found = []
    for round_ in range(30):
        fill(queue, 16)
        rig.blk.worker.call(rig.blk.quiesce)
        assert rig.in_flight == 0
        before = rig.guest.memory.read(MIB, 64 * 1024)
        if round_ % 2:  # what is rung for meanwhile is seen later
            fill(queue, 4)
            before = rig.guest.memory.read(MIB, 64 * 1024)
        found += queue.collect()
        assert rig.guest.memory.read(MIB, 64 * 1024) == before
        rig.blk.worker.call(rig.blk.resume)
        found += queue.wait(len(queue.requests))
    assert len(found) == 30 * 16 + 15 * 4
    assert all(used.data == b"\0" for used in found)


@pytest.mark.parametrize("options", [{}, {"direct": True}, {"writeback": False}, {"iops": 1}])
def test_a_reset_with_requests_in_flight_corrupts_nothing(
    make: MakeRig, features: int, options: dict[str, object]
) -> None:
    rig = make(packed=True, **options)
    for _ in range(10):
        queue = rig.start(features)
        fill(queue, 20)
        rig.guest.reset()
        assert not threads()
        rig.guest.memory.write(MIB, b"\xaa" * MIB)
        content = rig.path.read_bytes()
        for sector in range(SECTORS):
            part = content[sector * spec.SECTOR :][: spec.SECTOR]
            assert part == part[:1] * spec.SECTOR
            assert part[0] in (0, sector)
        assert rig.guest.memory.read(MIB, MIB) == b"\xaa" * MIB


def test_a_disk_grows_while_it_is_used(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    assert write(queue, SECTORS, bytes(spec.SECTOR)) == spec.S_IOERR
    rig.blk.resize(2 * SIZE)
    assert write(queue, SECTORS, bytes(spec.SECTOR)) == spec.S_OK
    assert rig.counters.handed == 1


def test_a_disk_shrinks_while_it_is_used(make: MakeRig) -> None:
    rig = make()
    queue = rig.start()
    rig.blk.resize(SIZE // 2)
    assert rig.path.stat().st_size == SIZE // 2
    assert write(queue, SECTORS // 2 - 1, bytes(spec.SECTOR)) == spec.S_OK
    assert write(queue, SECTORS // 2, bytes(spec.SECTOR)) == spec.S_IOERR
    assert rig.path.stat().st_size == SIZE // 2


def test_requests_wait_while_a_snapshot_is_committed(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    queue = rig.start()
    served: list[int] = []

    def commit() -> None:
        queue.add([header(spec.T_OUT, 0), bytes(spec.SECTOR)], [1])
        queue.kick()
        served.extend(rig.blk.statistics().write.operations for _ in range(5000))

    monkeypatch.setattr(rig.storage, "commit", commit)
    rig.blk.commit()
    assert set(served) == {0}
    assert queue.wait()[0].data == bytes([spec.S_OK])


def test_the_threads_are_named_and_take_no_signals(make: MakeRig) -> None:
    rig = make()
    flush(rig.start())  # done by the thread: while it is being made, all its signals are blocked
    names = threads()
    assert names == ["pv-vda"]
    for task in os.listdir("/proc/self/task"):
        status = Path(f"/proc/self/task/{task}/status").read_text()
        if status.startswith("Name:\tpv-"):
            blocked = int(status.partition("SigBlk:\t")[2].split()[0], 16)
            assert blocked >> signal.SIGINT - 1 & 1
            assert not blocked >> signal.SIGSEGV - 1 & 1


# ---- limits ----


def charge(disk: object, length: int, count: int) -> float:
    """Seconds that `count` requests take which come one after the other, as fast as they may."""
    now = begun = 5 * SECOND
    for _ in range(count):
        now = max(now, lib.pv_disk_charge(disk, length, now))
    return (now - begun) / SECOND


@pytest.mark.parametrize("iops", [10, 777, 100_000])
def test_requests_a_second_are_limited(iops: int) -> None:
    disk = ffi.new("struct pv_disk *", {"iops": iops})
    assert charge(disk, 4096, 10 * iops) == pytest.approx(10, rel=0.05, abs=1.1 / iops)


@pytest.mark.parametrize("length", [512, 4096, MIB])
def test_bytes_a_second_are_limited(length: int) -> None:
    disk = ffi.new("struct pv_disk *", {"bps": 10 * MIB})
    count = 100 * MIB // length
    assert charge(disk, length, count) == pytest.approx(10, rel=0.05, abs=length / MIB / 10)


def test_a_disk_without_limits_never_waits() -> None:
    assert charge(ffi.new("struct pv_disk *"), MIB, 1000) == 0


def test_a_pause_is_no_credit() -> None:
    disk = ffi.new("struct pv_disk *", {"iops": 100})
    lib.pv_disk_charge(disk, 0, SECOND)
    assert charge(disk, 0, 201) == pytest.approx(2, rel=0.05)
