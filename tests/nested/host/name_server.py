"""Runs in the nested host: a DNS server to which every name is 192.0.2.7 (RFC 1035)."""

from __future__ import annotations

import socket
import struct

HEADER = struct.Struct("!6H")  # §4.1.1: identifier, flags, and how many of four kinds there are
RESPONSE = 0x8180  # its flags: of a server that asks others
TYPE_A, CLASS_IN, POINTER, SECONDS = 1, 1, 0xC000, 60  # §3.2, §4.1.4
ANSWER = struct.Struct("!3HIH4s")


def main() -> None:
    """Serve for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        print("ready", flush=True)
        while True:
            query, client = server.recvfrom(512)
            end = query.index(b"\0", HEADER.size) + 5  # of the question
            kind = struct.unpack_from("!H", query, end - 4)[0]
            found = int(kind == TYPE_A)
            header = HEADER.pack(struct.unpack_from("!H", query)[0], RESPONSE, 1, found, 0, 0)
            where = POINTER | HEADER.size
            address = socket.inet_aton("192.0.2.7")
            answer = ANSWER.pack(where, TYPE_A, CLASS_IN, SECONDS, len(address), address) * found
            server.sendto(header + query[HEADER.size : end] + answer, client)


if __name__ == "__main__":
    main()
