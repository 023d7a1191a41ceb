"""The `pyvmm` command as a process of its own, on pipes or on a terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds for what takes milliseconds, on a machine that is busy
COMMAND = (sys.executable, "-m", "pyvmm")
PROMPT = b"\r\n> "  # of the built-in guest


def pyvmm(
    *args: str, stdin: bytes = b"", command: Sequence[str] = COMMAND, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    return subprocess.run(
        [*command, *args], input=stdin, capture_output=True, timeout=PATIENCE, **options
    )


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that it may say on standard error."""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, done.stderr.decode()
    return lines[0]


class Running:
    """A `pyvmm run`, or another command; its output is read until what a test expects."""

    def __init__(
        self,
        *args: str,
        command: str = "run",
        terminal: bool = False,
        python: str = "",
        **options: Any,
    ):
        """Start it; `python` is run in its process before the command."""
        self.output_fd, theirs = os.openpty() if terminal else os.pipe()
        self.settings = termios.tcgetattr(theirs) if terminal else None
        code = f"import sys; from pyvmm import cli\n{python}\nsys.exit(cli.main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, command, *args],
            stdin=theirs if terminal else subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            **options,
        )
        self.output = b""
        self._seen = 0
        self._theirs = theirs
        if not terminal:
            os.close(theirs)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.output_fd)
        if self.settings:
            os.close(self._theirs)

    def expect(self, what: bytes) -> bytes:
        """Read until `what` has come after what was expected last; all up to it."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.output.find(what, self._seen)) < 0:
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self.output_fd], [], [], left)
            data = os.read(self.output_fd, 1 << 16) if ready else b""
            assert data, f"{what!r} did not come; the output is {self.output!r}"
            self.output += data
        found = self.output[self._seen : at + len(what)]
        self._seen = at + len(what)
        return found

    def write(self, data: bytes) -> None:
        """Type, or send, input."""
        if self.settings:
            os.write(self.output_fd, data)
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def rest(self) -> bytes:
        """What else it has written, once it has ended."""
        while select.select([self.output_fd], [], [], 0)[0] and (
            data := os.read(self.output_fd, 1 << 16)
        ):
            self.output += data
        return self.output[self._seen :]

    @property
    def settings_now(self) -> list[Any]:
        """The terminal's settings, as tcgetattr gives them."""
        return termios.tcgetattr(self._theirs)


def program(name: str) -> str:
    """The path of a tiny guest; `make guests` builds them."""
    return str(Path(__file__).parents[2] / f"build/guests/{name}.elf")
