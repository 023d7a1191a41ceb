"""Loggers of the standard library that are made when they are first used.

Importing `logging` costs a start-up 5 ms, and most machines have nothing to say.
"""

from __future__ import annotations

from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


DEVICE_LOGS = "pyvmm.device."  # what the names of devices' loggers begin with
NAMES: set[str] = set()  # of all loggers that there are


class Log:
    """Stands for `logging.getLogger(name)`."""

    def __init__(self, name: str) -> None:
        self._name = name
        NAMES.add(name)

    @property
    def logger(self) -> logging.Logger:
        """The logger itself."""
        import logging

        return logging.getLogger(self._name)

    def debug(self, message: str, *args: object) -> None:
        """See logging.Logger.debug."""
        self.logger.debug(message, *args, stacklevel=2)

    def info(self, message: str, *args: object) -> None:
        """See logging.Logger.info."""
        self.logger.info(message, *args, stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        """See logging.Logger.warning."""
        self.logger.warning(message, *args, stacklevel=2)

    def exception(self, message: str, *args: object) -> None:
        """See logging.Logger.exception."""
        self.logger.exception(message, *args, stacklevel=2)
