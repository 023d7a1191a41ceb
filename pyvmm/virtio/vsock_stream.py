"""One stream between a socket of the host and the guest: what may flow, and how it ends.

Bytes move straight between the socket and the guest's memory. Only what the host's program does not
take at once is kept here, no more than BUF_ALLOC bytes: that is the credit which the guest has
(VIRTIO 1.2 §5.10.6.3). The other way nothing is kept: what the guest has no room for stays in the
socket.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyvmm.layout import KIB
from pyvmm.loop import READ, WRITE, Loop
from pyvmm.value import Value
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.chain import take

BUF_ALLOC = 256 * KIB
TELL_AFTER = BUF_ALLOC // 4  # bytes that have left for the host, of which the guest is then told
HANGUP = 0  # events to wait for: epoll(7) tells of a hang-up without being asked


class Violation(Exception):
    """The guest sent what the stream's state does not allow; the text is a clause on it."""


class Header(Value):
    """A packet's header (VIRTIO 1.2 §5.10.6)."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int


class Stream:
    """A connection, requested or open. The worker's thread.

    `ready` is called when the socket has become readable, writable or hung up. Then, and after each
    call here, see whether the stream has `finished` and whether it is `eager`.
    """

    def __init__(
        self,
        connection: socket.socket,
        ports: tuple[int, int],
        loop: Loop,
        ready: Callable[[Stream], object],
    ) -> None:
        """Take over `connection`; `ports` are the host's and the guest's."""
        connection.setblocking(False)
        self.socket = connection
        self.ports = ports
        self.opened = False
        self.queued = False  # for its owner: whether it waits for a turn to send
        self._loop = loop
        self._ready = ready
        self._watched: int | None = None
        self._ops: list[int] = []  # to be sent before any data
        # To the host. Counters of bytes are modulo 2^32, as the guest's are.
        self._unsent = bytearray()
        self._forwarded = 0
        self._told = 0  # what of it the guest knows
        self._guest_shut = 0
        # To the guest.
        self._readable = True  # the socket, as far as is known
        self._sent = 0
        self._taken = 0  # of it by the guest's program
        self._room = 0  # the guest's buf_alloc
        self._host_shut = 0

    # ---- for the device ----

    def open(self) -> None:
        """Both sides have agreed: let bytes flow."""
        self.opened = True

    def announce(self, op: int) -> None:
        """Send a packet without data when there is a turn."""
        if op not in self._ops:
            self._ops.append(op)

    def tell_credit(self) -> tuple[int, int]:
        """`buf_alloc` and `fwd_cnt` for a packet, by which the guest will know them."""
        self._told = self._forwarded
        return BUF_ALLOC, self._forwarded

    @property
    def finished(self) -> bool:
        """The guest has ended the stream, and the host's program has got all that it sent."""
        return self._guest_shut == spec.SHUTDOWN_BOTH and not self._unsent

    @property
    def eager(self) -> bool:
        """Whether there may be a packet to send."""
        return bool(self._ops) or (self._readable and self._may_send() and self._free() > 0)

    def close(self) -> None:
        """Hang up at once."""
        self._watch(None)
        self.socket.close()
        self._unsent.clear()

    # ---- from the guest ----

    def take(self, packet: Header, payload: Sequence[memoryview]) -> None:
        """Do as an open stream's packet says. Raises Violation."""
        self.take_credit(packet)
        match packet.op:
            case spec.OP_RW:
                self._take_data(payload, packet.len)
            case spec.OP_CREDIT_UPDATE:
                pass
            case spec.OP_CREDIT_REQUEST:
                self.announce(spec.OP_CREDIT_UPDATE)
            case spec.OP_SHUTDOWN:
                self._shut(packet.flags & spec.SHUTDOWN_BOTH)
            case _:
                raise Violation(f"sent operation {packet.op} on an open stream")

    def take_credit(self, packet: Header) -> None:
        """Learn how much the guest has room for. Raises Violation if it took what was not sent.

        Linux may send an older count after a newer one; that is ignored.
        """
        self._room = packet.buf_alloc
        outstanding = self._sent - packet.fwd_cnt & spec.COUNTER_MASK
        if outstanding > spec.COUNTER_MASK // 2:
            raise Violation("received more than it was sent (§5.10.6.3)")
        if outstanding < (self._sent - self._taken & spec.COUNTER_MASK):
            self._taken = packet.fwd_cnt

    def abandon(self) -> None:
        """The guest has forgotten the stream; what it sent before still goes to the host."""
        self._shut(spec.SHUTDOWN_BOTH)

    def _take_data(self, payload: Sequence[memoryview], length: int) -> None:
        if self._guest_shut & spec.SHUTDOWN_SEND:
            raise Violation("sent data after its end (§5.10.6.5)")
        if len(self._unsent) + length > BUF_ALLOC:
            raise Violation("sent more than it has credit for (§5.10.6.3)")
        rest = list(payload)
        if not self._unsent:
            take(rest, self._send(rest))
        if not self._host_shut & spec.SHUTDOWN_RCV:  # else nobody is there to take it
            self._unsent += b"".join(rest)
            self._wait()

    def _shut(self, flags: int) -> None:
        self._guest_shut |= flags
        if flags & spec.SHUTDOWN_RCV:
            self._shut_socket(socket.SHUT_RD)
        if self._guest_shut & spec.SHUTDOWN_SEND and not self._unsent:
            self._shut_socket(socket.SHUT_WR)
        self._wait()

    # ---- to the guest ----

    def fill(self, payload: Sequence[memoryview]) -> tuple[int, int, int] | None:
        """Fill the next packet: its operation, flags and number of bytes. None: not now."""
        if self._ops:
            op = self._ops.pop(0)
            return op, self._host_shut if op == spec.OP_SHUTDOWN else 0, 0
        room = self._free()
        if not (self._readable and self._may_send() and room > 0):
            return None
        try:
            count = self.socket.recvmsg_into(take(list(payload), room))[0]
        except BlockingIOError:
            self._readable = False
            self._wait()
            return None
        except OSError:  # it hung up without reading all
            count = 0
        if count:
            self._sent = self._sent + count & spec.COUNTER_MASK
            return spec.OP_RW, 0, count
        self._host_shut |= spec.SHUTDOWN_SEND
        if _hung_up(self.socket):
            self._host_shut |= spec.SHUTDOWN_RCV
        self._wait()
        return spec.OP_SHUTDOWN, self._host_shut, 0

    def _may_send(self) -> bool:
        ended = self._host_shut & spec.SHUTDOWN_SEND or self._guest_shut & spec.SHUTDOWN_RCV
        return not ended

    def _free(self) -> int:
        return self._room - (self._sent - self._taken & spec.COUNTER_MASK)

    # ---- the host ----

    def _looked(self) -> None:
        """The socket is readable, writable or hung up."""
        if self._watched == HANGUP:
            self._stop_receiving()
        self._readable = True
        while self._unsent and (count := self._send([self._unsent])):
            del self._unsent[:count]
        if self._guest_shut & spec.SHUTDOWN_SEND and not self._unsent:
            self._shut_socket(socket.SHUT_WR)
        self._wait()
        self._ready(self)

    def _send(self, parts: Sequence[memoryview | bytearray]) -> int:
        """Pass on as much as is taken now; how many bytes."""
        if self._host_shut & spec.SHUTDOWN_RCV:
            return 0
        try:
            count = self.socket.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self._stop_receiving()
            return 0
        self._forwarded = self._forwarded + count & spec.COUNTER_MASK
        if self._forwarded - self._told & spec.COUNTER_MASK >= TELL_AFTER:
            self.announce(spec.OP_CREDIT_UPDATE)
        return count

    def _stop_receiving(self) -> None:
        """The host's program will read nothing more."""
        self._host_shut |= spec.SHUTDOWN_RCV
        self._unsent.clear()
        self.announce(spec.OP_SHUTDOWN)

    def _shut_socket(self, how: int) -> None:
        with suppress(OSError):  # it has hung up
            self.socket.shutdown(how)

    def _wait(self) -> None:
        """Watch for what can move something: room for what is unsent, bytes, at last a hang-up.

        A hang-up would wake again and again, so nothing is watched that is known to be there.
        """
        events = WRITE if self._unsent else 0
        if not self._readable:
            events |= READ
        ended = self._host_shut == spec.SHUTDOWN_SEND  # and may yet be reading
        self._watch(events if events or ended else None)

    def _watch(self, events: int | None) -> None:
        if events == self._watched:
            return
        self._watched = events
        if events is None:
            self._loop.unwatch(self.socket.fileno())
        else:
            self._loop.watch(self.socket.fileno(), self._looked, events)


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed it, rather than shut down one half."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
