"""What comes from a terminal: keys, and what its other end says between them."""

from __future__ import annotations

import asyncio
import socket
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.backends.terminal import FOCUS_IN, FOCUS_OUT
from pyvmm.monitor.keys import INPUT_MAX, SocketInput

SIZE = b"\x1b[48;24;80;0;0t"
ESCAPE = b"\x1b"
WORDS = st.sampled_from([b"a", "é".encode(), b"\x1b[A", b"\x1bOP", SIZE, FOCUS_IN, FOCUS_OUT])


class Taken:
    """An input, and what it has told of."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.interrupts = 0
        self.client, self.other = socket.socketpair()
        self.input = SocketInput(self.client, self.said.append, self._interrupt)

    def _interrupt(self) -> None:
        self.interrupts += 1

    def close(self) -> None:
        self.client.close()
        self.other.close()

    @property
    def keys(self) -> list[str]:
        return [press.data for press in self.input.read_keys()]


@given(words=st.lists(WORDS, max_size=8), data=st.data())
def test_keys_and_words_are_the_same_however_they_are_cut(
    words: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(words)
    places = [at for at in range(len(stream)) if not stream[:at].endswith(ESCAPE)]
    chosen = data.draw(st.sets(st.sampled_from(places))) if places else set()
    taken = Taken()
    for start, end in pairwise([0, *sorted(chosen - {0}), len(stream)]):
        taken.input.feed(stream[start:end])
    assert taken.said == [word for word in words if word in (SIZE, FOCUS_IN, FOCUS_OUT)]
    typed = b"".join(word for word in words if word not in taken.said)
    assert "".join(taken.keys) == typed.decode()
    taken.close()


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_are_too_strange(pieces: list[bytes]) -> None:
    taken = Taken()
    for piece in pieces:
        taken.input.feed(piece)
        assert len(taken.input._part) < 64
    taken.input.flush_keys()
    taken.close()


def test_ctrl_c_interrupts_only_while_nobody_reads() -> None:
    taken = Taken()
    taken.input.feed(b"forgotten\x03kept")
    assert taken.interrupts == 1
    assert taken.keys == list("kept")

    async def read() -> None:
        with taken.input.attach(lambda: None):
            taken.input.feed(b"\x03")

    asyncio.run(read())
    assert taken.interrupts == 1
    assert taken.keys == ["\x03"]
    taken.close()


def test_the_end_and_too_much_close_it() -> None:
    async def closes(data: bytes) -> None:
        taken = Taken()
        taken.input.start()
        taken.other.setblocking(False)
        if data:
            while not taken.input.closed:
                await asyncio.sleep(0)
                try:
                    taken.other.send(data)
                except OSError:
                    continue
        taken.other.close()
        await asyncio.wait_for(taken.input.wait_closed(), 30)
        taken.close()

    asyncio.run(closes(b""))
    asyncio.run(closes(b"x" * (INPUT_MAX // 4)))
