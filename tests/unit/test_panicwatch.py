from __future__ import annotations

import pytest

from pyvmm.panicwatch import PanicWatch

OUTPUT = (
    b"[    2.1] Run /init as init process\r\n"
    b"[    2.4] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
    b"[    2.4] CPU: 0 PID: 1 Comm: swapper/0\r\n"
    b"[    2.5] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n"
)
MESSAGE = "Kernel panic - not syncing: VFS: Unable to mount root fs"


@pytest.mark.parametrize("size", [1, 2, 7, 26, 64, len(OUTPUT)])
def test_a_panic_is_seen_however_the_output_is_cut(size):
    watch = PanicWatch()
    ended = [watch.feed(OUTPUT[at : at + size]) for at in range(0, len(OUTPUT), size)]
    assert ended[-1]
    assert watch.message == MESSAGE


def test_a_panic_ends_with_its_last_line_and_not_before():
    watch = PanicWatch()
    begin, end = OUTPUT.index(b"CPU: 0"), OUTPUT.index(b"---[")
    assert not watch.feed(OUTPUT[:begin])
    assert watch.message == MESSAGE
    assert not watch.feed(OUTPUT[begin:end])
    assert watch.feed(OUTPUT[end:])


def test_the_message_grows_until_its_line_ends():
    watch = PanicWatch()
    watch.feed(b"Kernel panic - not syncing")
    assert watch.message == "Kernel panic - not syncing"
    watch.feed(b": Fatal exception")
    watch.feed(b"\r\nRebooting in 5 seconds..")
    assert watch.message == "Kernel panic - not syncing: Fatal exception"


def test_output_without_a_panic_is_none():
    watch = PanicWatch()
    assert not any(
        watch.feed(chunk) for chunk in (b"", b"Kernel panic", b" - all well", b"x" * 999)
    )
    assert watch.message == ""


def test_the_end_alone_is_no_panic():
    watch = PanicWatch()
    assert not watch.feed(b"---[ end Kernel panic")


def test_what_is_kept_is_bounded_and_printable():
    watch = PanicWatch()
    watch.feed(b"Kernel panic - not syncing: \x1b[2J\x07" + b"x" * 10_000)
    watch.feed(b"y" * 10_000)
    assert len(watch.message) < 300
    assert watch.message.isprintable()
