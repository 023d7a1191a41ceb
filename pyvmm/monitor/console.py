"""The monitor on a terminal: a prompt with history and completion, colours, and a status line.

The terminal is at the other end of a socket that carries its bytes: that of `pyvmm run`, or of
`pyvmm monitor`. The console's thread runs an event loop of its own; a command runs on a thread
beside it, so that Ctrl-C is seen meanwhile. Nothing is asked of the terminal, such as where its
cursor is: by the time it answers, its user may be with the guest.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any, TextIO, TypeVar, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style

from pyvmm.backends.terminal import FOCUS_IN, FOCUS_OUT
from pyvmm.diagnosis import headline
from pyvmm.errors import PyvmmError
from pyvmm.log import Log
from pyvmm.loop import start_thread
from pyvmm.machine import Machine
from pyvmm.monitor.history import open_history
from pyvmm.monitor.keys import SocketInput
from pyvmm.monitor.plain import PROMPT, SIZE_MAX, Terminal
from pyvmm.monitor.render import ERROR, PLAIN, Piece, render, safe
from pyvmm.monitor.result import Live, Result
from pyvmm.monitor.session import Interrupted, Session

log = Log(__name__)

T = TypeVar("T")

BLOCK = 16 << 10  # characters printed between two looks at the keyboard
COMPLETIONS_MAX = 1000
TOOLBAR_SECONDS = 1.0
STYLE = Style([])


class Console:
    """A session on a terminal. `run` is called once, on a thread of the console's own."""

    def __init__(self, session: Session, client: socket.socket, terminal: Terminal) -> None:
        self._session = session
        self._machine = session.machine
        self._client = client
        self._typed = terminal.typed
        self._size = Size(terminal.rows, terminal.columns)
        self._output = _Output(client, lambda: self._size, terminal.term)
        self._app: Application[Any] | None = None  # the one that has the keyboard

    def run(self) -> None:
        """Serve until the user leaves, the client goes, or the machine ends."""
        asyncio.run(self._run())
        if self._machine.end is not None:
            self._print([(PLAIN, headline(self._machine.end))])

    async def _run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_mistake)
        self._looked_at = asyncio.Event()
        self._looked_at.set()
        self._input = SocketInput(self._client, self._on_said, self._session.interrupt)
        self._input.start()
        self._input.feed(self._typed)
        toolbar = _Toolbar(self._machine)
        with create_app_session(self._input, self._output):
            prompt: PromptSession[str] = PromptSession(
                PROMPT,
                history=open_history(),
                completer=_Completer(self._session),
                complete_while_typing=False,
                bottom_toolbar=toolbar.text,
                style=STYLE,
            )
            prompt.app.terminal_size_polling_interval = None
            self._greet()
            task = asyncio.create_task(self._refresh(prompt.app))
            with suppress(EOFError):
                while True:
                    await self._take_line(prompt)
            task.cancel()
        if not self._input.closed:
            self._input.stop()

    def _greet(self) -> None:
        name = safe(self._machine.config.name)
        self._print(
            [(PLAIN, f"The monitor of {name}: `help` lists the commands, Ctrl-D leaves it")]
        )

    async def _take_line(self, prompt: PromptSession[str]) -> None:
        """Read a line and run it. Raises EOFError once there will be no more."""
        self._app = prompt.app
        self._input.renew()
        try:
            text = await prompt.prompt_async(set_exception_handler=False)
        except KeyboardInterrupt:  # the key: it clears the line
            return
        finally:
            self._app = None
        for line in filter(str.strip, text.splitlines()):  # several, if they were pasted
            try:
                result = await self._beside(lambda: self._session.execute(line))  # noqa: B023
                await self._show(result)
            except PyvmmError as error:
                self._print([(ERROR, safe(str(error)))])
                return

    # ---- what a command shows ----

    async def _show(self, result: Result | None) -> None:
        if isinstance(result, Live):
            await self._show_live(result)
        elif result is not None:
            try:
                for style, text in render(result):
                    for at in range(0, len(text), BLOCK):
                        self._session.check()
                        self._print([(style, text[at : at + BLOCK])], end="")
                        await asyncio.sleep(0)
            finally:
                self._print([])  # the end of the line

    async def _show_live(self, live: Live) -> None:
        """Show it in place until a key is pressed."""
        shown: StyleAndTextTuples = []
        keys = KeyBindings()

        @keys.add(Keys.Any)
        def _(event: KeyPressEvent) -> None:
            event.app.exit()
            self._session.interrupt()

        window = Window(FormattedTextControl(lambda: shown), dont_extend_height=True)
        app: Application[None] = Application(
            Layout(window), key_bindings=keys, style=STYLE, terminal_size_polling_interval=None
        )
        shown = [*render(await self._beside(live.make))]
        self._app = app
        user = asyncio.create_task(app.run_async(set_exception_handler=False))
        try:
            while not user.done():
                await asyncio.wait([user], timeout=live.interval)
                if not user.done() and self._looked_at.is_set():
                    shown = [*render(await self._beside(live.make))]
                    app.invalidate()
        except Interrupted:  # by the key
            pass
        finally:
            if not user.done():
                app.exit()
            await asyncio.wait([user])
            self._app = None
            error = user.exception()
        if error is not None:  # EOFError
            raise error

    def _print(self, pieces: list[Piece], end: str = "\n") -> None:
        print_formatted_text(self._output, [*pieces, (PLAIN, end)], STYLE)
        self._output.flush()

    # ---- beside it ----

    async def _beside(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises on a thread of its own.

        Raises EOFError, without waiting for it any longer, once there is no more input.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        start_thread("command", work)
        result = asyncio.wrap_future(future)
        closed = asyncio.ensure_future(self._input.wait_closed())
        futures: list[asyncio.Future[Any]] = [result, closed]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not result.done():
            self._session.interrupt()
            result.cancel()
            raise EOFError
        return result.result()

    async def _refresh(self, app: Application[Any]) -> None:
        """Keep the toolbar true, while somebody looks at it."""
        while True:
            await self._looked_at.wait()
            app.invalidate()
            await asyncio.sleep(TOOLBAR_SECONDS)

    def _on_said(self, said: bytes) -> None:
        """The terminal has another size, or its user looks at it, or away."""
        if said == FOCUS_OUT:
            self._looked_at.clear()
        elif said == FOCUS_IN:
            self._looked_at.set()
            if self._app is not None:
                self._output.write_raw("\r")
                self._app.renderer.reset()  # something else is on the screen now
                self._app.invalidate()
        else:
            rows, columns = (min(max(int(number), 1), SIZE_MAX) for number in said.split(b";")[1:3])
            self._size = Size(rows, columns)
            if self._app is not None:
                self._app._on_resize()


class _Output(Vt100_Output):
    """A terminal behind a socket."""

    def __init__(self, client: socket.socket, size: Callable[[], Size], term: str) -> None:
        super().__init__(cast(TextIO, _Sink(client)), size, term=term, enable_cpr=False)

    def get_rows_below_cursor_position(self) -> int:
        """As if the prompt were on the last line: where it is nobody asks the terminal."""
        return 1


class _Sink:
    """The file that _Output writes to. What cannot be sent is lost: its reader has gone."""

    encoding = "utf-8"

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def write(self, text: str) -> None:
        """Send it; wait as long as the client takes nothing."""
        with suppress(OSError):
            self._client.sendall(text.encode("utf-8", "replace"))

    def flush(self) -> None:
        """Nothing is kept."""


class _Completer(Completer):
    """The session's completions, as prompt_toolkit has them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """See Completer."""
        text = document.text_before_cursor
        try:
            start, words = self._session.complete(text)
        except PyvmmError:  # as symbols that cannot be read
            return
        for word in islice(words, COMPLETIONS_MAX):
            command = self._session.commands.get(word) if start == 0 else None
            meta = command.help if command is not None else ""
            yield Completion(word, start - len(text), display_meta=meta)


class _Toolbar:
    """The line below the prompt."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._rate = 0.0
        self._counted: tuple[float, int] | None = None

    def text(self) -> str:
        """Its text now."""
        machine = self._machine
        with suppress(PyvmmError):  # closed meanwhile
            self._count(time.monotonic(), sum(map(sum, map(dict.values, machine.exit_counts()))))
        cpus = machine.config.cpus
        words = [machine.state, f"{cpus} vCPU{'s' * (cpus > 1)}", f"{self._rate:,.0f} exits/s"]
        if machine.stopped_by:
            words.append(safe(machine.stopped_by))
        if entered := machine.timeline.of("entered"):
            minutes, seconds = divmod(int(time.monotonic() - entered), 60)
            words.append(f"up {minutes // 60}:{minutes % 60:02}:{seconds:02}")
        return f" {' · '.join(words)} "

    def _count(self, now: float, total: int) -> None:
        before, count = self._counted or (now, total)
        if self._counted is None or now - before >= TOOLBAR_SECONDS:
            self._rate = (total - count) / (now - before) if now > before else 0.0
            self._counted = now, total


def _log_mistake(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.exception("A mistake in the code of the console: %s", context.get("exception", context))
