"""Ports of the loopback for servers that tests start: nobody listens there, and no connection is given one of them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

# Below what Linux gives to connections (ip_local_port_range, from 32768): a server that is started anew finds its own.
_PORTS = range(10_240, 32_768)
# Processes that run at the same time begin far from one another.
_STRIDE = 97
_last = os.getpid() * _STRIDE


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, none of them twice in the life of this process."""
    global _last
    found: list[int] = []
    while len(found) < count:
        _last += 1
        port = _PORTS[_last % len(_PORTS)]
        with suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            found.append(port)
    return found
