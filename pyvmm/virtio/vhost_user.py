"""The front end's side of the vhost-user protocol: one connection to a back end.

What the back end says is checked before it is used: it may be wrong, dead, or hang.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from pyvmm.errors import HostError
from pyvmm.memory import Region
from pyvmm.value import Value
from pyvmm.virtio import vhost_user_spec as spec
from pyvmm.virtio.virtqueue import Ring

ANSWER_SECONDS = 20.0  # a back end may be opening its disk meanwhile
UNDERSTOOD = (
    spec.PROTOCOL_F_MQ
    | spec.PROTOCOL_F_REPLY_ACK
    | spec.PROTOCOL_F_BACKEND_REQ
    | spec.PROTOCOL_F_CONFIG
    | spec.PROTOCOL_F_INFLIGHT_SHMFD
)


class BackEndError(HostError):
    """The back end is gone, hangs, refuses, or breaks the protocol; the text is a clause on it."""


class Inflight(Value):
    """The memory in which a back end records what it is working on, kept for its successor.

    Nobody looks into it here. Whoever has it closes `fd`.
    """

    fd: int
    description: bytes


class VhostUser:
    """A connection, as its only user has it: the worker's thread, which waits for every answer.

    Every method raises BackEndError, after which the connection is of no use any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take the connection over and start a session on it."""
        self.socket = connection
        self.protocol_features = 0
        self.features = self._get(spec.GET_FEATURES)
        if self.features & spec.F_PROTOCOL_FEATURES:
            accepted = self._get(spec.GET_PROTOCOL_FEATURES) & UNDERSTOOD
            self._send(spec.SET_PROTOCOL_FEATURES, spec.U64.pack(accepted))
            self.protocol_features = accepted
        self._tell(spec.SET_OWNER)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def has(self, feature: int) -> bool:
        """Whether a protocol feature is in use."""
        return bool(self.protocol_features & feature)

    def ask_sign_of_life(self) -> None:
        """Find out whether it still answers."""
        self._get(spec.GET_FEATURES)

    # ---- the device ----

    def queue_count(self) -> int:
        """The most queues that it serves; 1 if it has no multiple queues."""
        if not self.has(spec.PROTOCOL_F_MQ):
            return 1
        count = self._get(spec.GET_QUEUE_NUM)
        if not 1 <= count <= spec.VRING_MAX:
            raise BackEndError(f"it offers {count} queues")
        return count

    def get_config(self, length: int) -> bytes:
        """The first `length` bytes of the configuration space, at most CONFIG_MAX."""
        if not self.has(spec.PROTOCOL_F_CONFIG):
            raise BackEndError("it has no configuration space (VHOST_USER_PROTOCOL_F_CONFIG)")
        head = spec.CONFIG.pack(0, length, 0)
        answer = self._ask(spec.GET_CONFIG, head + bytes(length), spec.CONFIG.size + length)
        return answer[spec.CONFIG.size :]

    def set_config(self, offset: int, data: bytes) -> None:
        """Change bytes of the configuration space."""
        self._tell(spec.SET_CONFIG, spec.CONFIG.pack(offset, len(data), 0) + data)

    def open_channel(self) -> Channel:
        """Let it make requests of its own. Only with PROTOCOL_F_BACKEND_REQ."""
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        with theirs:
            try:
                self._tell(spec.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            except BackEndError:
                channel.close()
                raise
        return channel

    def set_features(self, features: int) -> None:
        """What the driver has accepted."""
        self._tell(
            spec.SET_FEATURES,
            spec.U64.pack(features | self.features & spec.F_PROTOCOL_FEATURES),
        )

    def set_memory(self, regions: Sequence[Region]) -> None:
        """Share memory. User addresses, which those of rings are, are guest-physical ones here."""
        table = spec.REGIONS.pack(len(regions))
        for region in regions:
            table += spec.REGION.pack(region.base, region.size, region.base, region.offset)
        self._tell(spec.SET_MEM_TABLE, table, [region.fd for region in regions])

    # ---- rings ----

    def get_inflight(self, queues: int, size: int) -> Inflight:
        """New memory for the record of what is in flight. Only with PROTOCOL_F_INFLIGHT_SHMFD."""
        asked = spec.INFLIGHT.pack(0, 0, queues, size)
        self._send(spec.GET_INFLIGHT_FD, asked)
        answer, fds = self._receive(spec.GET_INFLIGHT_FD, spec.INFLIGHT.size)
        if len(fds) != 1:
            _close(fds)
            raise BackEndError(f"it gave {len(fds)} descriptors for its record of requests")
        return Inflight(fds[0], answer)

    def set_inflight(self, inflight: Inflight) -> None:
        """Use this record, of itself or of a predecessor."""
        self._tell(spec.SET_INFLIGHT_FD, inflight.description, [inflight.fd])

    def start_ring(self, ring: Ring, base: int, error: int) -> None:
        """Start a ring at the available index `base`; `error` is signalled when it is broken."""
        index = ring.index
        self._tell(spec.SET_VRING_NUM, spec.VRING_STATE.pack(index, ring.size))
        self._tell(spec.SET_VRING_BASE, spec.VRING_STATE.pack(index, base))
        areas = ring.descriptor_area, ring.device_area, ring.driver_area
        self._tell(spec.SET_VRING_ADDR, spec.VRING_ADDR.pack(index, 0, *areas, 0))
        self._tell(spec.SET_VRING_ERR, spec.U64.pack(index), [error])
        self._tell(spec.SET_VRING_CALL, spec.U64.pack(index), [ring.call])
        self._tell(spec.SET_VRING_KICK, spec.U64.pack(index), [ring.doorbell])
        self.enable_ring(index, True)

    def enable_ring(self, index: int, enabled: bool) -> None:
        """Have it use a ring that is started, or not."""
        if self.features & spec.F_PROTOCOL_FEATURES:  # "Ring states": otherwise it is enabled now
            self._tell(spec.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, enabled))

    def stop_ring(self, index: int) -> int:
        """Have it take nothing more from a ring; the available index that it has got to."""
        size = spec.VRING_STATE.size
        answer = self._ask(spec.GET_VRING_BASE, spec.VRING_STATE.pack(index, 0), size)
        stopped, base = spec.VRING_STATE.unpack(answer)
        if stopped != index:
            raise BackEndError(f"it stopped ring {stopped} in place of {index}")
        return int(base)

    # ---- messages ----

    def _tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send what has no answer of its own, and wait until it is done, if that can be had."""
        if not self.has(spec.PROTOCOL_F_REPLY_ACK):
            self._send(request, payload, fds)
            return
        self._send(request, payload, fds, spec.FLAG_NEED_REPLY)
        answer, _ = self._receive(request, spec.U64.size)
        if any(answer):
            raise BackEndError(f"it refuses vhost-user request {request}")

    def _get(self, request: int) -> int:
        value: int = spec.U64.unpack(self._ask(request, b"", spec.U64.size))[0]
        return value

    def _ask(self, request: int, payload: bytes, size: int) -> bytes:
        self._send(request, payload)
        return self._receive(request, size)[0]

    def _send(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0
    ) -> None:
        message = spec.HEADER.pack(request, spec.VERSION | flags, len(payload)) + payload
        self.socket.settimeout(ANSWER_SECONDS)
        try:
            sent = socket.send_fds(self.socket, [message], list(fds), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise _failed(error) from error
        if sent != len(message):
            raise BackEndError("it does not read what it is sent")

    def _receive(self, request: int, size: int) -> tuple[bytes, list[int]]:
        """The answer, which must have `size` bytes, with descriptors only where they belong."""
        deadline = time.monotonic() + ANSWER_SECONDS
        fds: list[int] = []
        try:
            header = _read(self.socket, spec.HEADER.size, deadline, fds)
            answered, flags, length = spec.HEADER.unpack(header)
            flags &= spec.VERSION_MASK | spec.FLAG_REPLY
            if (answered, flags, length) != (request, spec.VERSION | spec.FLAG_REPLY, size):
                raise BackEndError(
                    f"it answers vhost-user request {request}, for {size} bytes, "
                    f"with message {answered}, flags {flags:#x}, {length} bytes"
                )
            payload = _read(self.socket, size, deadline, fds)
            if fds and request != spec.GET_INFLIGHT_FD:
                raise BackEndError("it sends descriptors that nobody asked for")
        except BackEndError:
            _close(fds)
            raise
        return payload, fds


class Channel:
    """The socket on which a back end makes requests of its own. The worker's thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def take_config_change(self) -> None:
        """Take the one request that was negotiated, and answer it. Raises BackEndError."""
        fds: list[int] = []
        header = _read(self.socket, spec.HEADER.size, time.monotonic() + ANSWER_SECONDS, fds)
        _close(fds)
        request, flags, size = spec.HEADER.unpack(header)
        if (request, size) != (spec.BACKEND_CONFIG_CHANGE_MSG, 0):
            raise BackEndError(f"it makes request {request} of {size} bytes, which it must not")
        if flags & spec.FLAG_NEED_REPLY:
            answer = spec.HEADER.pack(request, spec.VERSION | spec.FLAG_REPLY, spec.U64.size)
            try:
                self.socket.sendall(answer + spec.U64.pack(0))
            except OSError as error:
                raise _failed(error) from error


def _read(connection: socket.socket, length: int, deadline: float, fds: list[int]) -> bytes:
    data = b""
    while len(data) < length:
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part, more, _, _ = socket.recv_fds(
                connection, length - len(data), 1, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise _failed(error) from error
        fds += more
        if not part:
            raise BackEndError("it has hung up")
        data += part
    return data


def _failed(error: OSError) -> BackEndError:
    if isinstance(error, TimeoutError):
        return BackEndError(f"it has not answered for {ANSWER_SECONDS:g} s")
    return BackEndError(f"its connection is broken: {error.strerror or error}")


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
