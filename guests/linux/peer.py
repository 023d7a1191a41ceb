"""One end of a TCP connection, in a guest or in the nested host: all data is hashed at both ends.

    peer.py send MIB ADDRESS PORT    peer.py receive ADDRESS PORT

An ADDRESS of `-` waits for the connection at PORT, and prints `listening` when it does. When the
first MiB has passed, `flowing` is printed; at the end, the number of bytes and their SHA-256.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from hashlib import sha256

MIB = 1 << 20
NUMBER = struct.Struct("<Q")
# Who receives speaks first, and ends the connection, for the sake of Debian 12's passt: it resets a
# guest's connection on which nothing comes back, and once it has sent something twice it may not
# tell the guest of the end.
GREETING = b"!"


def connect(address: str, port: int) -> socket.socket:
    """The connection to `address`, or the first that comes."""
    if address != "-":
        return socket.create_connection((address, port))
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("listening", flush=True)
        return server.accept()[0]


def sent(connection: socket.socket, mib: int) -> Iterator[memoryview]:
    """Send how much comes, and random data, each MiB of which begins with its number.

    Give the data in pieces.
    """
    block = memoryview(bytearray(os.urandom(MIB)))
    connection.recv(len(GREETING))
    connection.sendall(NUMBER.pack(mib * MIB))
    for number in range(mib):
        NUMBER.pack_into(block, 0, number)
        connection.sendall(block)
        yield block
    connection.recv(1)  # its end: all has arrived


def received(connection: socket.socket) -> Iterator[memoryview]:
    """What comes, in pieces."""
    block = memoryview(bytearray(MIB))
    connection.sendall(GREETING)
    (left,) = NUMBER.unpack(connection.recv(NUMBER.size, socket.MSG_WAITALL))
    while left and (length := connection.recv_into(block, min(left, MIB))):
        left -= length
        yield block[:length]


def main(how: str, *arguments: str) -> None:
    """Send or receive."""
    address, port = arguments[-2:]
    digest, total = sha256(), 0
    with connect(address, int(port)) as connection:
        pieces = sent(connection, int(arguments[0])) if how == "send" else received(connection)
        for piece in pieces:
            digest.update(piece)
            if total < MIB <= total + len(piece):
                print("flowing", flush=True)
            total += len(piece)
    print(f"{total} bytes, SHA-256 {digest.hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
