"""The two ends of client truth, each a process of its own so that nothing else in the test delays them.

vip_echo.py echo NODE                        answers UDP on port 7 with its name, from the address it was asked at
vip_echo.py ask FILE PER_SECOND ADDRESS...   asks, and notes each answer in FILE; ends when stdin is closed
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

_PORT = 7


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def echo(node: str) -> None:
    sockets = []
    for family, level, option in (
        (socket.AF_INET, socket.IPPROTO_IP, 8),  # IP_PKTINFO
        (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    ):
        made = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(level, option, 1)
        made.bind(("", _PORT))
        sockets.append(made)
    print("ready", flush=True)
    while True:
        for asked in select.select(sockets, [], [])[0]:
            data, ancillary, _, sender = asked.recvmsg(512, 256)
            try:
                asked.sendmsg([data + node.encode()], [_from_there(*ancillary[0])], 0, sender)
            except OSError:  # the address went meanwhile, or the gate is closed
                continue


def _from_there(level: int, kind: int, value: bytes) -> tuple[int, int, bytes]:
    """To answer from the address it was asked at, and from any interface."""
    if level == socket.IPPROTO_IP:
        _, local, _ = struct.unpack("i4s4s", value[:12])
        return level, kind, struct.pack("i4s4s", 0, local, bytes(4))
    return level, socket.IPV6_PKTINFO, value[:16] + struct.pack("i", 0)


def ask(path: str, per_second: int, addresses: list[str]) -> None:
    sockets = {}
    for address in addresses:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        sockets[made] = address
    sent = dict.fromkeys(addresses, 0)
    gap = 1_000_000_000 // per_second
    due = now_ns()
    print("ready", flush=True)
    with open(path, "w") as notes:
        while True:
            wait = max(0, due - now_ns()) / 1e9
            ready = select.select([sys.stdin, *sockets], [], [], wait)[0]
            if sys.stdin in ready:
                notes.write(json.dumps({"sent": sent}) + "\n")
                return
            for heard in ready:
                _note(heard, sockets[heard], notes)
            if now_ns() >= due:
                for made, address in sockets.items():
                    _send(made, address)
                    sent[address] += 1
                due = max(due + gap, now_ns() - 5 * gap)  # late ones are caught up, but not for ever


def _send(made: socket.socket, address: str) -> None:
    try:
        made.sendto(struct.pack("=Q", now_ns()), (address, _PORT))
    except OSError:  # no neighbour (yet), or the answer to an earlier one: port unreachable
        return


def _note(heard: socket.socket, address: str, notes) -> None:
    try:
        data = heard.recv(512)
    except OSError:
        return
    asked = struct.unpack_from("=Q", data)[0]
    note = {"address": address, "asked": asked, "received": now_ns(), "node": data[8:].decode()}
    notes.write(json.dumps(note) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        ask(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
