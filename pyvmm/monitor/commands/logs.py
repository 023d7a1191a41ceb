"""What the machine logs, by the part that does it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated

from pyvmm.errors import UsageError
from pyvmm.log import DEVICE_LOGS, NAMES
from pyvmm.monitor.command import command
from pyvmm.monitor.kinds import Choice, Word
from pyvmm.monitor.result import Result, Table
from pyvmm.monitor.session import Session

PACKAGE = "pyvmm"
INHERIT = "default"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    INHERIT: logging.NOTSET,
}


class Logger(Word):
    """Who logs: a device, a module without its `pyvmm.`, or pyvmm for all."""

    metavar = "LOGGER"

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        for name in (f"{DEVICE_LOGS}{text}", f"{PACKAGE}.{text}", text):
            if name in (PACKAGE, *NAMES):
                return name
        raise UsageError(f"LOGGER must be one of those that `log` shows, not {text!r}")

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        return (name for name in map(_short, sorted((PACKAGE, *NAMES))) if name.startswith(text))


def _short(name: str) -> str:
    return name.removeprefix(DEVICE_LOGS).removeprefix(f"{PACKAGE}.")


LoggerName = Annotated[str, Logger()]
Level = Annotated[str, Choice(tuple(LEVELS))]


@command("log", examples=["log", "log vda error", "log virtio.net debug", "log pyvmm info"])
def log(session: Session, logger: LoggerName = "", level: Level = "") -> Result | None:
    """Show who logs from which level on, or set the level of one.

    `default` is that of pyvmm, which is for all that have none of their own. The log is on the
    standard error output of the machine's process.
    """
    if level:
        set_level(logger, LEVELS[level])
        return None
    names = [logger] if logger else sorted((PACKAGE, *NAMES))
    columns = ("logger", "level", "own")
    return Table(columns, [[_short(name), *_level(logging.getLogger(name))] for name in names])


def _level(logger: logging.Logger) -> tuple[str, bool]:
    return logging.getLevelName(logger.getEffectiveLevel()).lower(), logger.level != logging.NOTSET


def set_level(name: str, level: int) -> None:
    """Log what has at least that level; 0 is that of the logger above. Any thread."""
    if not logging.getLogger().handlers:  # without one, what is below a warning is shown nowhere
        logging.basicConfig(format="pyvmm: %(message)s")
    logging.getLogger(name).setLevel(level)
