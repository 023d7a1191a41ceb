"""The memory balloon."""

from __future__ import annotations

import struct
import threading

import pytest

from pyvmm.errors import UsageError
from pyvmm.events import BalloonChanged, Event
from pyvmm.layout import MIB
from pyvmm.virtio import balloon_spec as spec
from pyvmm.virtio.balloon import Balloon
from tests.fakes.driver import SPLIT, Guest
from tests.unit.virtio.conftest import MakeGuest

SIZE = 8 * MIB
FREE = 6 * MIB  # where the tests' guest has nothing else
REPORTING = 3  # as Linux numbers it where there is no queue for hints


@pytest.fixture
def device() -> Balloon:
    return Balloon("balloon")


@pytest.fixture
def guest(device: Balloon, make_guest: MakeGuest) -> Guest:
    guest = make_guest(device)
    guest.memory.write(FREE, b"\xaa" * (64 * spec.PAGE))
    return guest


def frames(*pages: int) -> bytes:
    return struct.pack(f"<{len(pages)}I", *pages)


def content(guest: Guest, *pages: int) -> list[int]:
    """The first byte of pages, counted from FREE."""
    return [guest.memory.u8(FREE + page * spec.PAGE) for page in pages]


def wanted(device: Balloon) -> int:
    return int(spec.CONFIG.unpack(device.read_config())[0])


def test_pages_for_the_balloon_go_back_to_the_host(guest: Guest) -> None:
    guest.start()
    first = FREE // spec.PAGE
    pages = [first + 9, first + 8, first + 3, first + 8]
    assert guest.queues[spec.INFLATE].request([frames(*pages)]) == b""
    assert content(guest, 2, 3, 4, 7, 8, 9, 10) == [0xAA, 0, 0xAA, 0xAA, 0, 0, 0xAA]


def test_pages_from_the_balloon_are_there_at_once(guest: Guest) -> None:
    guest.start()
    page = frames(FREE // spec.PAGE)
    guest.queues[spec.INFLATE].request([page])
    assert guest.queues[spec.DEFLATE].request([page]) == b""
    guest.memory.write_u8(FREE, 1)
    assert content(guest, 0) == [1]


@pytest.mark.parametrize("page", [SIZE // spec.PAGE, 0xFFFFFFFF])
def test_a_page_outside_memory_breaks_a_rule(guest: Guest, page: int) -> None:
    guest.start()
    guest.queues[spec.INFLATE].add([frames(page)])
    guest.queues[spec.INFLATE].kick()
    guest.wait_reset_wanted()


def test_a_torn_request_counts_as_far_as_it_goes(guest: Guest) -> None:
    guest.start()
    guest.queues[spec.INFLATE].request([frames(FREE // spec.PAGE) + b"\0\0"])
    assert content(guest, 0, 1) == [0, 0xAA]


@pytest.mark.parametrize(
    ("features", "queue"),
    [
        (SPLIT | spec.F_STATS_VQ | spec.F_PAGE_REPORTING, REPORTING),
        (SPLIT | spec.F_STATS_VQ | spec.F_PAGE_REPORTING, 4),  # VIRTIO 1.2 §5.5.2
        (SPLIT | spec.F_PAGE_REPORTING, 2),
    ],
)
def test_pages_that_the_guest_reports_go_back_to_the_host(
    guest: Guest, features: int, queue: int
) -> None:
    guest.start(features, queues=[0, 1, 2, queue] if queue > 2 else [0, 1, 2])
    driver = guest.queues[queue]
    write = 2
    driver.add_descriptors(
        [
            (FREE, 2 * spec.PAGE, write),
            (FREE + 4 * spec.PAGE + 1, 2 * spec.PAGE, write),  # only one page is wholly in there
        ]
    )
    driver.kick()
    driver.wait()
    assert content(guest, 0, 1, 2, 4, 5, 6) == [0, 0, 0xAA, 0xAA, 0, 0xAA]


def test_the_target_is_what_the_guest_is_left_with(device: Balloon, guest: Guest) -> None:
    assert wanted(device) == 0
    guest.start()
    device.resize("5M")
    guest.wait_config_changed()
    assert wanted(device) == 3 * MIB // spec.PAGE
    device.resize(SIZE)
    assert wanted(device) == 0


@pytest.mark.parametrize("target", [0, "1023K", SIZE + 1, "9M", "many", -1])
def test_an_impossible_target_is_refused(device: Balloon, guest: Guest, target: int | str) -> None:
    with pytest.raises(UsageError, match=r"1M to 8M|must be a number"):
        device.resize(target)
    assert wanted(device) == 0


def test_a_change_of_the_size_is_told_once() -> None:
    told: list[Event] = []
    guest = Guest(Balloon("balloon", tell=told.append))
    for _ in range(2):
        guest.device.write_config(spec.ACTUAL, (256).to_bytes(4, "little"))
    guest.close()
    assert told == [BalloonChanged(guest.memory.size - MIB)]


def test_the_size_is_what_the_driver_says(device: Balloon, guest: Guest) -> None:
    guest.start()
    assert device.size == SIZE
    device.write_config(spec.ACTUAL, struct.pack("<I", 256))
    assert device.size == SIZE - 256 * spec.PAGE
    device.write_config(0, struct.pack("<I", 1))  # num_pages is ours
    device.write_config(spec.ACTUAL, b"\1")
    assert device.size == SIZE - 256 * spec.PAGE
    device.write_config(spec.ACTUAL, b"\xff" * 4)
    assert device.size == 0
    guest.reset()
    assert device.size == SIZE


def test_a_target_from_the_start_is_in_the_configuration(make_guest: MakeGuest) -> None:
    device = Balloon("balloon", target="6M")
    make_guest(device)
    assert wanted(device) == 2 * MIB // spec.PAGE


def stats(**values: int) -> bytes:
    return b"".join(
        spec.STAT.pack(spec.STATS_NAMES.index(name), value) for name, value in values.items()
    )


def test_statistics_are_asked_for_and_come_fresh(device: Balloon, guest: Guest) -> None:
    guest.start()
    queue = guest.queues[spec.STATS]
    queue.add([stats(free=1, total=2)])
    queue.publish()
    device.worker.call(lambda: device.pump(device.queues[spec.STATS]))
    found: list[dict[str, int]] = []
    asking = threading.Thread(target=lambda: found.append(device.guest_statistics(timeout=20)))
    asking.start()
    queue.wait()  # the buffer comes back: that is the question
    queue.add([stats(total=20, free=10) + spec.STAT.pack(999, 1) + b"torn"])
    queue.kick()
    asking.join()
    assert found == [{"free": 10, "total": 20}]


def test_a_guest_without_statistics_is_not_waited_for_forever(
    device: Balloon, guest: Guest
) -> None:
    guest.start(SPLIT, queues=[0, 1])
    with pytest.raises(TimeoutError, match="no statistics within 0 s"):
        device.guest_statistics(timeout=0)


def test_a_second_buffer_for_statistics_is_given_back(device: Balloon, guest: Guest) -> None:
    guest.start()
    queue = guest.queues[spec.STATS]
    first = queue.add([stats(free=1)])
    queue.add([stats(free=2)])
    queue.kick()
    assert [used.token for used in queue.wait()] == [first]


def test_a_queue_without_a_role_is_answered(device: Balloon, guest: Guest) -> None:
    guest.start(queues=[0, 1, 2, 3, 4])
    assert guest.queues[3].request([b"?"]) == b""
