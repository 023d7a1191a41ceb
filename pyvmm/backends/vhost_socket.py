"""A vhost-user back end of somebody else's, which listens on a Unix socket."""

from __future__ import annotations

import socket

from pyvmm.errors import HostError

CONNECT_SECONDS = 5.0  # a back end that is busy with another front end does not accept


class VhostSocket:
    """See pyvmm.virtio.vhost_user_device.BackEnd."""

    def __init__(self, path: str) -> None:
        self._path = path

    def connect(self) -> socket.socket:
        """Raises HostError."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            reason = error.strerror or error
            raise HostError(
                f"A vhost-user back end must listen at {self._path}: {reason}"
            ) from error
        return connection

    def explain(self, clause: str) -> str:
        """A sentence on what it did."""
        return f"The vhost-user back end at {self._path} failed: {clause}"

    def disconnect(self) -> None:
        """Nothing of it is ours."""

    def close(self) -> None:
        """Nothing of it is ours."""
