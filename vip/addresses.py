"""Addresses as they stand in a configuration: single ones and ranges, always in canonical text."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# What one range may hold; a configuration may have several.
RANGE_MAX = 10_240
ADDRESSES_ACCEPTED = 'an address such as "10.1.1.10" or "2001:db8::10", or a range such as "10.1.1.10-10.1.1.20"'
BLOCK_ACCEPTED = 'a block such as "10.1.1.0/24" or "2001:db8::/64", without bits set after the prefix'


def parse_addresses(text: str) -> tuple[str, ...]:
    """One address or all of a range, in order. Raises ValueError with what is accepted."""
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
    kind = type(first)
    return tuple(_usable(kind(number)) for number in range(int(first), int(last) + 1))


def _usable(address: IpAddress) -> str:
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        raise ValueError(f"{ADDRESSES_ACCEPTED}; {address} is of a kind that is never moved between machines")
    return str(address)


def parse_block(text: str) -> IpNetwork:
    """Raises ValueError with what is accepted."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(BLOCK_ACCEPTED) from None


def block_of(address: str, blocks: Iterable[IpNetwork]) -> IpNetwork | None:
    """The smallest of `blocks` that holds `address`."""
    parsed = ipaddress.ip_address(address)
    holding = [block for block in blocks if block.version == parsed.version and parsed in block]
    return max(holding, key=lambda block: block.prefixlen, default=None)


def in_order(addresses: Iterable[str]) -> list[str]:
    """As people read them: IPv4 before IPv6, by number."""
    return sorted(addresses, key=lambda text: ((parsed := ipaddress.ip_address(text)).version, int(parsed)))
