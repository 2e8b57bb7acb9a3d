"""Addresses: where a daemon listens, and which log at it is meant.

    tcp://HOST:PORT        beyond the loopback only with keys, see jlogd/wire/credentials.py and jlogd/daemon/auth.py
    ipc://PATH             a unix socket
    ADDRESS/LOG            the target of a client: the last component names the log

Everything here is text; only `check_socket_free` looks at the system.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from jlogd.errors import UsageError
from jlogd.journal.types import check_name

_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
# sun_path of sockaddr_un, without its terminating zero.
IPC_PATH_BYTES_MAX = 107
SCHEMES = ("tcp://", "ipc://")


@dataclass(frozen=True, slots=True)
class Target:
    """A log at a daemon."""

    address: str
    log: str


def is_target(text: str) -> bool:
    """Whether `text` is meant as an address rather than a directory."""
    return "://" in text


def parse_target(text: str) -> Target:
    """`ADDRESS/LOG`. Raises UsageError."""
    address, _, log = text.rpartition("/")
    if not text.startswith(SCHEMES) or address in ("tcp:/", "ipc:/", "tcp:", "ipc:"):
        raise UsageError(f"{text!r} is not the address of a log: write tcp://HOST:PORT/LOG or ipc://PATH/LOG")
    return Target(check_address(address), check_name("log", log))


def check_address(address: str) -> str:
    """The address itself. Raises UsageError when it is not one."""
    if address.startswith("ipc://"):
        return _check_ipc(address)
    found = _TCP.fullmatch(address)
    if not found or int(found[2]) > 65535:
        raise UsageError(f"{address!r} is not an address: write tcp://HOST:PORT or ipc://PATH")
    return address.replace("//localhost:", "//127.0.0.1:")


def host_of(address: str) -> str:
    """The host of a TCP address."""
    found = _TCP.fullmatch(address)
    return found[1].strip("[]") if found else ""


def is_loopback(address: str) -> bool:
    """Whether a TCP address is reached from this host only. A name is not, whatever it means today."""
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_socket_free(address: str) -> None:
    """Raise UsageError when another process listens on an ipc address: a bind would silently take it over."""
    if not address.startswith("ipc://"):
        return
    path = Path(address.removeprefix("ipc://"))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"cannot listen on {address}: a file that is not a socket is there; choose another path")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        # A full backlog on a busy listener answers EAGAIN rather than success; both mean that someone is there.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass
        except OSError:
            return
    raise UsageError(f"cannot listen on {address}: another process does; stop it or choose another path")


def _check_ipc(address: str) -> str:
    path = address.removeprefix("ipc://")
    if not path or path.startswith("@") or path.endswith("/") or "\0" in path:
        raise UsageError(f"{address!r} is not an address: write ipc://PATH with the path of a unix socket")
    if len(path.encode(errors="surrogateescape")) > IPC_PATH_BYTES_MAX:
        raise UsageError(
            f"{address}: the path of a unix socket may have {IPC_PATH_BYTES_MAX} bytes; use a shorter or a relative one"
        )
    return address
