"""Sockets for listeners: bound, non-blocking, with their addresses and the kernel's own counters.

No locks; each socket belongs to the thread that made it or to the source it was handed to.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from contextlib import suppress

from jlogd.errors import CannotListen
from jlogd.sources.config import Address

# Connections the kernel keeps for us while we are busy (it may cap this at net.core.somaxconn).
BACKLOG = 512
# Not in the socket module: privileged form of SO_RCVBUF, the memory counters of a socket, and who connected.
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8
_PEERCRED = struct.Struct("3i")


def listen_on(address: Address, receive_buffer: int, socket_mode: int) -> socket.socket:
    """A bound, non-blocking socket at `address`. Raises `JlogError` saying why it cannot be had."""
    datagram = address.kind in ("udp", "unixgram")
    family = (
        socket.AF_UNIX
        if address.kind.startswith("unix")
        else socket.AF_INET6
        if ":" in address.host
        else socket.AF_INET
    )
    made = socket.socket(family, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if family == socket.AF_UNIX:
            _bind_path(made, address, socket_mode)
        else:
            if not datagram:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address.host, address.port))
        if datagram:
            _ask_buffer(made, receive_buffer)
        else:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        hint = (
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE" if 0 < address.port < 1024 else "choose another"
        )
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen on {address}: {reason}; end what holds it, or {hint}") from error
    except BaseException:
        made.close()
        raise
    return made


def _bind_path(made: socket.socket, address: Address, mode: int) -> None:
    path = address.host
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise CannotListen(f"cannot listen on {address}: there is a file of that name that is no socket; remove it")
        if _answers(path, made.type):
            raise CannotListen(
                f"cannot listen on {address}: another program listens there; end it, or choose another path"
            )
        os.unlink(path)  # left behind by a program that was killed
    made.bind(path)
    os.chmod(path, mode)


def _answers(path: str, kind: int) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:  # its backlog is full, or it is of the other kind: somebody is there
            return True
        return True


def _ask_buffer(made: socket.socket, size: int) -> None:
    """As large a receive buffer as we may have: beyond net.core.rmem_max only root gets it."""
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def bound_address(made: socket.socket, address: Address) -> Address:
    """The address as it was given out: with the real port."""
    if made.family == socket.AF_UNIX:
        return address
    return Address(address.kind, address.host, made.getsockname()[1])


def forget_path(address: Address, inode: int) -> None:
    """Remove the name of a unix socket, if it is still ours."""
    with suppress(OSError):
        if os.lstat(address.host).st_ino == inode:
            os.unlink(address.host)


def kernel_drops(made: socket.socket) -> int:
    """Datagrams the kernel threw away because nobody read them in time, as a 32-bit counter; 0 when it does not say."""
    if sys.platform != "linux":
        return 0
    try:
        info = made.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return _MEMINFO.unpack(info)[_MEMINFO_DROPS] if len(info) == _MEMINFO.size else 0


def peer_owner(made: socket.socket, name: object) -> str:
    """Whose connection it is: the address without the port, or `uid=0` for a unix socket."""
    if isinstance(name, tuple):
        return str(name[0])
    return peer_name(made, name).rpartition(" ")[2]


def peer_name(made: socket.socket, name: object) -> str:
    """Who is at the other end: `127.0.0.1:41234`, `[::1]:41234`, or `pid=12 uid=0` for a unix socket."""
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    if made.family == socket.AF_UNIX and made.type == socket.SOCK_STREAM:
        with suppress(OSError):
            pid, uid, _ = _PEERCRED.unpack(made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
            return f"pid={pid} uid={uid}"
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
