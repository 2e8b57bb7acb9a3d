"""The connections of this process: one for each address and keys, whoever uses it. `_lock` guards the table."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

from jlogd.wire.address import check_address
from jlogd.wire.connection import Connection
from jlogd.wire.credentials import Credentials, Keys

_shared: dict[tuple[str, Credentials | None], tuple[Connection, int]] = {}
_lock = threading.Lock()


def share(address: str, keys: Keys | None = None) -> Connection:
    """The process's connection to `address`; give it back with `release`. Raises UsageError."""
    address = check_address(address)
    credentials = (keys or Keys()).resolve(address)
    with _lock:
        connection, users = _shared.get((address, credentials), (None, 0))
        if connection is None or not connection.usable:
            connection, users = Connection(address, note(), credentials), 0
        _shared[address, credentials] = (connection, users + 1)
        return connection


def release(connection: Connection) -> None:
    """One user of a shared connection fewer; the last one closes it."""
    at = (connection.address, connection.credentials)
    with _lock:
        known, users = _shared.get(at, (None, 0))
        if known is connection and users > 1:
            _shared[at] = (connection, users - 1)
            return
        if known is connection:
            del _shared[at]
    connection.close()


def note() -> str:
    """Who this process is, for people."""
    return f"{Path(sys.argv[0] or 'python').name} pid {os.getpid()} on {socket.gethostname()}"


def _after_fork() -> None:
    """A child starts without connections; its parent's lock may have been held at the fork."""
    global _lock
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
