"""The keys that a client's terminal sends, and what its other end says between them.

Two things are said in-band, in the terminal's own words (XTerm Control Sequences): its new size, as
in-band resize notifications, CSI 48 ; rows ; columns ; height ; width t; and whether the user looks
at it, as focus events, CSI I and CSI O.
"""

from __future__ import annotations

import asyncio
import codecs
import contextvars
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from prompt_toolkit.input import Input
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

CHUNK = 4096
INPUT_MAX = 64 << 10  # bytes for one line; who sends more is no person
IN_BAND = re.compile(rb"\x1b\[(?:48;\d{1,6};\d{1,6}(?:;\d{0,6})*t|[IO])")
PART = re.compile(rb"\x1b\[(?:4|48[;\d]{0,32})?\Z")  # of the above, the rest is to come


class SocketInput(Input):
    """Keys from a socket, read as long as the event loop of its thread runs.

    `on_said` is called with what is said in-band; `on_interrupt` when Ctrl-C comes while nobody
    reads keys; those typed before it are forgotten, as a terminal's driver does. At the end of the
    input, or where it is too much, `closed` is true.
    """

    def __init__(
        self,
        client: socket.socket,
        on_said: Callable[[bytes], object],
        on_interrupt: Callable[[], object],
    ) -> None:
        self._client = client
        self._on_said = on_said
        self._on_interrupt = on_interrupt
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._keys: list[KeyPress] = []
        self._parser = Vt100Parser(self._keys.append)
        self._ready: Callable[[], None] | None = None
        self._part = b""
        self._left = INPUT_MAX
        self._closed = asyncio.Event()

    def start(self) -> None:
        """Read from now on."""
        asyncio.get_running_loop().add_reader(self._client, self._read)

    def stop(self) -> None:
        """Read no more, and have it be closed."""
        asyncio.get_running_loop().remove_reader(self._client)
        self._closed.set()
        if self._ready is not None:
            self._ready()

    def renew(self) -> None:
        """A line has been taken: the next may be as long."""
        self._left = INPUT_MAX

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._closed.wait()

    def feed(self, data: bytes) -> None:
        """Take what the client has sent."""
        self._left -= len(data)
        data = self._part + data
        part = PART.search(data)
        self._part = part[0] if part else b""
        data = data.removesuffix(self._part)
        for said in IN_BAND.findall(data):
            self._on_said(said)
        self._parser.feed(self._decode(IN_BAND.sub(b"", data)))
        if self._ready is not None:
            self._ready()
        else:
            self._look_for_interrupt()

    def _look_for_interrupt(self) -> None:
        keys = [key.key for key in self._keys]
        if Keys.ControlC in keys:
            del self._keys[: len(keys) - keys[::-1].index(Keys.ControlC)]
            self._on_interrupt()

    def _read(self) -> None:
        data = b""
        with suppress(OSError):  # the client has gone
            data = self._client.recv(CHUNK)
        if not data or len(data) > self._left:
            self.stop()
        else:
            self.feed(data)

    # ---- what prompt_toolkit asks ----

    @property
    def closed(self) -> bool:
        """See Input."""
        return self._closed.is_set()

    def fileno(self) -> int:
        """See Input."""
        return self._client.fileno()

    def typeahead_hash(self) -> str:
        """See Input."""
        return f"socket-{id(self)}"

    def read_keys(self) -> list[KeyPress]:
        """See Input."""
        keys = self._keys.copy()
        self._keys.clear()
        return keys

    def flush_keys(self) -> list[KeyPress]:
        """See Input: the Escape key is one by itself if nothing follows it."""
        self._parser.flush()
        return self.read_keys()

    def raw_mode(self) -> AbstractContextManager[None]:
        """See Input: the client's matter."""
        return nullcontext()

    def cooked_mode(self) -> AbstractContextManager[None]:
        """See Input: the client's matter."""
        return nullcontext()

    def attach(self, input_ready_callback: Callable[[], None]) -> AbstractContextManager[None]:
        """See Input."""
        if self._keys or self.closed:
            asyncio.get_running_loop().call_soon(input_ready_callback)
        context = contextvars.copy_context()  # by which prompt_toolkit knows its application
        return self._reading(lambda: context.run(input_ready_callback))

    def detach(self) -> AbstractContextManager[None]:
        """See Input."""
        return self._reading(None)

    @contextmanager
    def _reading(self, ready: Callable[[], None] | None) -> Iterator[None]:
        before, self._ready = self._ready, ready
        try:
            yield
        finally:
            self._ready = before
