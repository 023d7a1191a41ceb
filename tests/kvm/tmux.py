"""A terminal with a person at it: tmux(1), its screen and its keys."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

PATIENCE = 30.0  # seconds until a test that waits is called stuck
ROWS, COLUMNS = 16, 80
NUMBERS = itertools.count()
CHANGING = re.compile(r"[\d,]+ exits/s · up \d+:\d\d:\d\d")


class Tmux:
    """A terminal that runs `pyvmm` with some arguments, and says its exit status at the end."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None) -> None:
        self._name = f"pyvmm-test-{os.getpid()}-{next(NUMBERS)}"
        python = shlex.join([sys.executable, "-W", "ignore", "-m", "pyvmm", *args])
        script = (
            f"before=$(stty -g); {python}; echo status $?; [ $before = $(stty -g) ] && echo kept"
        )
        self._tmux(
            *("-f", os.devnull, "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS)),
            *(f"-e{name}={value}" for name, value in (env or {}).items()),
            f"sh -c {shlex.quote(script + '; read line')}",
        )

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def keys(self, *keys: str) -> None:
        """Press keys, in the names of tmux(1); what is no name is typed."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    @property
    def screen(self) -> list[str]:
        """Its lines, without empty ones at the end, and with what changes by itself masked."""
        text = CHANGING.sub("N exits/s · up TIME", self._tmux("capture-pane", "-p"))
        return [line.rstrip() for line in text.rstrip("\n").split("\n")]

    def until(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is as wanted; the screen."""
        deadline = time.monotonic() + PATIENCE
        while not condition(screen := self.screen):
            assert time.monotonic() < deadline, "never as wanted:\n" + "\n".join(screen)
        return screen

    def until_screen(self, *lines: str) -> None:
        """Wait until the screen is exactly this."""
        self.until(lambda screen: screen == list(lines))

    def _tmux(self, *args: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self._name, *args], check=True, capture_output=True, text=True
        ).stdout
