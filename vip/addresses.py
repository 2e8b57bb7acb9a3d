"""Addresses as they stand in a configuration: single ones and ranges, always in canonical text."""

from __future__ import annotations

import ipaddress
import socket
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# What one range may hold; a configuration may have several.
RANGE_MAX = 10_240
ADDRESSES_ACCEPTED = 'an address such as "10.1.1.10" or "2001:db8::10", or a range such as "10.1.1.10-10.1.1.20"'
BLOCK_ACCEPTED = 'a block such as "10.1.1.0/24" or "2001:db8::/64", without bits set after the prefix'


def parse_addresses(text: str) -> tuple[str, ...]:
    """One address or all of a range, in order. Raises ValueError with what is accepted."""
    first, last = parse_range(text)
    kind = type(first)
    return tuple(str(kind(number)) for number in range(int(first), int(last) + 1))


def count_addresses(text: str) -> int:
    """How many `parse_addresses` finds, without making them."""
    first, last = parse_range(text)
    return int(last) - int(first) + 1


@lru_cache(maxsize=16)  # a configuration is checked address by address, and asks about each more than once in a row
def parse_range(text: str) -> tuple[IpAddress, IpAddress]:
    """The first and the last address. Raises ValueError with what is accepted."""
    first_text, dash, last_text = text.partition("-")
    try:
        first = ipaddress.ip_address(first_text.strip())
        last = ipaddress.ip_address(last_text.strip()) if dash else first
    except ValueError:
        raise ValueError(ADDRESSES_ACCEPTED) from None
    if first.version != last.version or int(last) < int(first):
        raise ValueError(f"{ADDRESSES_ACCEPTED}; a range goes from a lower to a higher address of the same kind")
    if int(last) - int(first) >= RANGE_MAX:
        raise ValueError(f"a range of at most {RANGE_MAX} addresses")
    # What is refused comes in blocks larger than a range may be, or at the very beginning: both ends say it for all.
    for end in (first, last):
        if end.is_multicast or end.is_loopback or end.is_unspecified or end.is_link_local:
            raise ValueError(f"{ADDRESSES_ACCEPTED}; {end} is of a kind that is never moved between machines")
    return first, last


def parse_block(text: str) -> IpNetwork:
    """Raises ValueError with what is accepted."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(BLOCK_ACCEPTED) from None


def block_of(address: str, blocks: Iterable[IpNetwork]) -> IpNetwork | None:
    """The smallest of `blocks` that holds `address`."""
    return block_finder(blocks)(address)


def block_finder(blocks: Iterable[IpNetwork]) -> Callable[[str], IpNetwork | None]:
    """`block_of` for many addresses, in canonical text: nothing is parsed twice."""
    smallest_first = sorted(blocks, key=lambda block: -block.prefixlen)
    known = [(block.version, int(block.network_address), int(block.netmask), block) for block in smallest_first]

    def find(address: str) -> IpNetwork | None:
        version, family = (6, socket.AF_INET6) if ":" in address else (4, socket.AF_INET)
        number = int.from_bytes(socket.inet_pton(family, address))
        return next((block for kind, net, mask, block in known if kind == version and number & mask == net), None)

    return find


def outside_finder(blocks: Iterable[IpNetwork]) -> Callable[[str], str | None]:
    """The first address of a text (`parse_addresses`) that lies in none of `blocks`; None when all do.

    Blocks that touch are one stretch of numbers, so a range costs one search, however long it is.
    """
    stretches: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for block in sorted(blocks, key=lambda block: (block.version, int(block.network_address))):
        known = stretches[block.version]
        first, last = int(block.network_address), int(block.broadcast_address)
        if known and first <= known[-1][1] + 1:
            known[-1] = known[-1][0], max(known[-1][1], last)
        else:
            known.append((first, last))

    def outside(text: str) -> str | None:
        first, last = parse_range(text)
        known = stretches[first.version]
        at = bisect_right(known, int(first), key=lambda stretch: stretch[0]) - 1
        if at < 0 or known[at][1] < int(first):
            return str(first)
        return None if int(last) <= known[at][1] else str(type(first)(known[at][1] + 1))

    return outside


def in_order(addresses: Iterable[str]) -> list[str]:
    """As people read them: IPv4 before IPv6, by number."""
    return sorted(addresses, key=lambda text: ((parsed := ipaddress.ip_address(text)).version, int(parsed)))
