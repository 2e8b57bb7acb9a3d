"""Interfaces: read through pyroute2, and the events that say that it is time to read them again.

Of the events of the kernel only three kinds are let through by a filter: a link changed or went, an address went. What
we add and refresh ourselves, thousands of events, never wakes this process. An event about a link is only a reason to
read all links and compare: events may be lost, states are not.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vip.kernel.address_messages import RTM_DELADDR, Row, parse
from vip.kernel.errors import KernelError, in_words
from vip.kernel.interface import LinkState
from vip.kernel.listener import attach_filter
from vip.kernel.netlink import HEADER, set_receive_buffer, split

RTM_NEWLINK = 16
RTM_DELLINK = 17

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
# Ten thousand addresses that go at once, at about 1 KB of kernel memory each.
_RECEIVE_BYTES = 32 << 20
_READ_BYTES = 64 << 10
_READS_MAX = 256

_LOAD_HALF, _EQUAL, _RETURN = 0x28, 0x15, 0x06


def read() -> dict[str, LinkState]:
    """All interfaces by name. Raises `KernelError`."""
    try:
        with IPRoute() as route:
            return {state.name: state for state in map(_state, route.get_links())}
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno or errno.EIO
        raise KernelError(f"cannot read the interfaces: {in_words(number)}") from None


class LinkEvent:
    """Some interface changed, came or went."""


class Events:
    """A socket of events of this network namespace. Raises `OSError`."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        attach_filter(self.socket, _filter())
        set_receive_buffer(self.socket, _RECEIVE_BYTES)
        self.socket.bind((0, _GROUPS))

    def close(self) -> None:
        self.socket.close()

    def read(self) -> Iterator[Row | LinkEvent]:
        """Addresses that went, and that links changed. Raises `OSError` (ENOBUFS) when some of it was lost."""
        for _ in range(_READS_MAX):
            try:
                data = self.socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            for message in split(data):
                yield parse(message) if HEADER.unpack_from(message)[1] == RTM_DELADDR else LinkEvent()


def _state(link: Any) -> LinkState:
    flags = link["flags"]
    return LinkState(
        name=link.get_attr("IFLA_IFNAME"),
        index=link["index"],
        up=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        mac=link.get_attr("IFLA_ADDRESS") or "",
        carrier_changes=link.get_attr("IFLA_CARRIER_CHANGES") or 0,
    )


def _filter() -> list[tuple[int, int, int, int]]:
    """By the type in the header, which the filter reads in network order and the kernel wrote in its own."""
    kinds = [int.from_bytes(struct.pack("=H", kind), "big") for kind in (RTM_DELADDR, RTM_NEWLINK, RTM_DELLINK)]
    return [
        (_LOAD_HALF, 0, 0, 4),
        (_EQUAL, 3, 0, kinds[0]),
        (_EQUAL, 2, 0, kinds[1]),
        (_EQUAL, 1, 0, kinds[2]),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
    ]
