"""Are the ports of a configuration free? Asked before a new spool is made, so that a daemon that cannot listen leaves
nothing behind. What really listens says so itself, later: this look takes nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing

from jlogd.daemon.config import Config
from jlogd.errors import CannotListen
from jlogd.wire.address import host_of


def demand_free_ports(config: Config) -> None:
    """Raises `CannotListen` when another process listens on one of them."""
    for setting, address, kind, host, port in _ports(config):
        if port and _is_taken(kind, host, port):
            why = os.strerror(errno.EADDRINUSE).lower()
            raise CannotListen(
                f"cannot listen on {address}: {why}; is another jlogd running? End it, or choose another port "
                f"({setting}). Nothing was made"
            )


def _ports(config: Config) -> Iterator[tuple[str, str, socket.SocketKind, str, int]]:
    """The setting, the address for people, and what is bound."""
    for address in config.listen.zmq:
        if address.startswith("tcp://"):
            yield "listen.zmq", address, socket.SOCK_STREAM, host_of(address), int(address.rpartition(":")[2])
    if config.http is not None:
        yield "listen.http", str(config.http), socket.SOCK_STREAM, config.http.host, config.http.port
    for source in config.source.syslog:
        for found in source.addresses():
            if not found.kind.startswith("unix"):
                kind = socket.SOCK_DGRAM if found.kind == "udp" else socket.SOCK_STREAM
                yield "source.syslog.listen", str(found), kind, found.host, found.port


def _is_taken(kind: socket.SocketKind, host: str, port: int) -> bool:
    """Whether the port is in use. Any other trouble is left to be met by what listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, kind)) as trial:
        if kind == socket.SOCK_STREAM:  # connections that were just closed keep nobody out
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False
