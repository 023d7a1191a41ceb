"""What users of the console have typed, kept between runs in a file that is theirs alone."""

from __future__ import annotations

import os
from contextlib import suppress

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from pyvmm.log import Log

log = Log(__name__)


def open_history() -> History:
    """The history in $XDG_STATE_HOME/pyvmm/history (XDG Base Directory Specification 0.8).

    Where it cannot be written it is kept for this console only.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.path.join(state, "pyvmm", "history")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))
    except OSError as error:
        log.info("The console's history is not kept: %s: %s", path, error.strerror)
        return InMemoryHistory()
    return _FileHistory(path)


class _FileHistory(FileHistory):
    def store_string(self, string: str) -> None:
        """See History; a full disk takes nothing from the console."""
        with suppress(OSError):
            super().store_string(string)
