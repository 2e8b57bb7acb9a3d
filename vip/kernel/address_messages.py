"""Addresses as the kernel is told and tells them: RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR.

    ifaddrmsg   u8 family   u8 prefix length   u8 flags   u8 scope   u32 interface index
    attributes  LOCAL 2, ADDRESS 1    the address (both for IPv4; IPv6 has ADDRESS in dumps)
                FLAGS 8               u32: NODAD, NOPREFIXROUTE, ...
                CACHEINFO 6           u32 preferred, u32 valid (seconds), two timestamps
                PROTO 11              u8, our tag; kernel 5.18 and newer
                RT_PRIORITY 9         u32, our second mark; kernel 4.18 and newer

Two marks, because an address must be known again after a crash by a run that remembers nothing, on kernels before 5.18
too. The second is the metric of a connected route, which our addresses do not have (NOPREFIXROUTE): it changes nothing.

A refresh must never create. RTM_NEWADDR creates what is not there, whatever its flags say: "userspace already relies on
it" (net/ipv4/devinet.c). A process that was stopped between looking at the clock and sending would bring an
address back that the kernel had taken away. So a refresh carries MCAUTOJOIN: when the kernel would create, it first
tries to join the address as a multicast group and refuses with EINVAL; when it modifies it does not look.

The standard library only: the guard uses this module.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from vip.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Failure,
    Netlink,
    attribute,
    attributes,
)

RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_CACHEINFO = 6
IFA_FLAGS = 8
IFA_RT_PRIORITY = 9
IFA_PROTO = 11

IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200
IFA_F_MCAUTOJOIN = 0x400

# The same as `interface.ADDRESS_TAG`, which the guard does not import.
TAG = 0x9C
# "jlog" as a metric.
METRIC = 0x6A6C6F67

_FOREVER = 0xFFFFFFFF
_IFADDRMSG = struct.Struct("=BBBBI")
_CACHEINFO = struct.Struct("=IIII")
_U32 = struct.Struct("=I")

_FLAGS_ADD = attribute(IFA_FLAGS, _U32.pack(IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
_FLAGS_REFRESH = attribute(IFA_FLAGS, _U32.pack(IFA_F_NODAD | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN))
_MARKS = attribute(IFA_PROTO, bytes([TAG])) + attribute(IFA_RT_PRIORITY, _U32.pack(METRIC))


class Spot(NamedTuple):
    """An address on an interface, as bytes and numbers: 4 bytes for IPv4, 16 for IPv6."""

    address: bytes
    device: int
    prefix_length: int


class Row(NamedTuple):
    """An address as the kernel told it. `valid` in seconds, None for ever."""

    spot: Spot
    flags: int
    ours: bool
    valid: int | None


def add(spot: Spot, valid: int) -> tuple[int, int, bytes]:
    """The message that adds an address for `valid` seconds, and refuses one that is there (EEXIST)."""
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _payload(spot) + _lifetimes(spot, valid) + _FLAGS_ADD + _MARKS


def refresh(spot: Spot, valid: int) -> tuple[int, int, bytes]:
    """The message that sets the lifetime of an address that is there, and refuses one that is not (EINVAL)."""
    return RTM_NEWADDR, NLM_F_REPLACE, _payload(spot) + _lifetimes(spot, valid) + _FLAGS_REFRESH + _MARKS


def remove(spot: Spot) -> tuple[int, int, bytes]:
    """The message that removes an address (EADDRNOTAVAIL when it is not there)."""
    return RTM_DELADDR, 0, _payload(spot)


def parse(message: bytes) -> Row:
    """An RTM_NEWADDR or RTM_DELADDR, with its header."""
    _, prefix_length, short_flags, _, device = _IFADDRMSG.unpack_from(message, 16)
    flags, tag, metric, valid = short_flags, 0, 0, _FOREVER
    address = local = b""
    for kind, start, end in attributes(message, 24):
        if kind == IFA_LOCAL:
            local = message[start:end]
        elif kind == IFA_ADDRESS:
            address = message[start:end]
        elif kind == IFA_FLAGS:
            flags = _U32.unpack_from(message, start)[0]
        elif kind == IFA_PROTO:
            tag = message[start]
        elif kind == IFA_CACHEINFO:
            valid = _CACHEINFO.unpack_from(message, start)[1]
        elif kind == IFA_RT_PRIORITY:
            metric = _U32.unpack_from(message, start)[0]
    spot = Spot(local or address, device, prefix_length)
    return Row(spot, flags, tag == TAG or metric == METRIC, None if valid == _FOREVER else valid)


def listed(netlink: Netlink) -> list[Row]:
    """Every IPv4 and IPv6 address of this namespace. Raises `OSError`."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        found += [parse(message) for message in netlink.dump(RTM_GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, 0))]
    return found


def remove_ours(netlink: Netlink) -> tuple[list[Spot], list[Failure]]:
    """Remove every address with our mark; what was there, and what the kernel refused. Raises `OSError`."""
    spots = [row.spot for row in listed(netlink) if row.ours]
    return spots, remove_all(netlink, spots)


def remove_all(netlink: Netlink, spots: Iterable[Spot]) -> list[Failure]:
    """Remove these; returns when the kernel acknowledged. One that is gone already is no failure. Raises `OSError`."""
    gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
    return [failure for failure in netlink.bulk([remove(spot) for spot in spots]) if failure.number not in gone]


def _payload(spot: Spot) -> bytes:
    if len(spot.address) == 4:
        head = _IFADDRMSG.pack(socket.AF_INET, spot.prefix_length, 0, 0, spot.device)
        return head + attribute(IFA_LOCAL, spot.address) + attribute(IFA_ADDRESS, spot.address)
    return _IFADDRMSG.pack(socket.AF_INET6, spot.prefix_length, 0, 0, spot.device) + attribute(IFA_LOCAL, spot.address)


def _lifetimes(spot: Spot, valid: int) -> bytes:
    """An IPv6 address that is preferred for no time is never chosen as a source by itself: the heartbeats of this node
    must not leave from an address that the gate may close."""
    preferred = valid if len(spot.address) == 4 else 0
    return attribute(IFA_CACHEINFO, _CACHEINFO.pack(preferred, valid, 0, 0))
