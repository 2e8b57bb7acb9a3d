"""Addresses: text to numbers and back, one at a time (a block of a query) or a column at once (an answer, a file).

IPv4 addresses that arrive as `::ffff:a.b.c.d` are IPv4 from here on: this is the one place where the two families meet.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
from numpy.typing import NDArray

from cidr.types import Block, Family
from jlogd.errors import UsageError

U64 = (1 << 64) - 1
_MAPPED = 0xFFFF << 32
_OCTETS = np.array([str(value) for value in range(256)], dtype=object)


def parse_address(text: str) -> tuple[Family, int]:
    """Family and number of one address. Raises UsageError."""
    try:
        found = ip_address(text.strip())
    except ValueError:
        raise UsageError(f'"{text}" is not an IPv4 or IPv6 address') from None
    return _family(found)


def _family(found: IPv4Address | IPv6Address) -> tuple[Family, int]:
    number = int(found)
    if isinstance(found, IPv4Address):
        return Family.V4, number
    if number >> 32 == _MAPPED >> 32:
        return Family.V4, number & 0xFFFFFFFF
    return Family.V6, number


def parse_block(text: str) -> Block:
    """A block such as 10.0.0.0/8; an address alone is a block of one. Raises UsageError, for set host bits too."""
    address, slash, length = text.strip().partition("/")
    family, first = parse_address(address)
    mapped = family is Family.V4 and ":" in address
    if not slash:
        return Block(family, first, family.width)
    if not length.isascii() or not length.isdigit():
        raise UsageError(f'"{length}" in {text} is not a prefix length: give 0 to {family.width}')
    bits = int(length) - (96 if mapped else 0)
    if not 0 <= bits <= family.width:
        raise UsageError(f"/{length} in {text} is not a prefix length: give 0 to {family.width}")
    block = cover(family, first, bits)
    if block.first != first:
        raise UsageError(f"{text} has bits set beyond its prefix; the block is {block}")
    return block


def cover(family: Family, address: int, bits: int) -> Block:
    """The block of that prefix length around an address."""
    keep = family.width - bits
    return Block(family, address >> keep << keep, bits)


def disjoint(blocks: tuple[Block, ...]) -> list[Block]:
    """The blocks without those that lie in another, in order."""
    kept: list[Block] = []
    for block in sorted(set(blocks), key=lambda b: (b.family, b.first, b.bits)):
        if not kept or not kept[-1].holds(block):
            kept.append(block)
    return kept


def address_texts(family: NDArray[np.uint8], high: NDArray[np.uint64], low: NDArray[np.uint64]) -> list[str]:
    """The addresses of an answer as text."""
    texts = np.empty(len(low), dtype=object)
    v4 = family == Family.V4
    texts[v4] = v4_texts(low[v4].astype(np.uint32))
    for row in np.flatnonzero(~v4):
        texts[row] = str(IPv6Address(int(high[row]) << 64 | int(low[row])))
    return list(texts)


def v4_texts(address: NDArray[np.uint32]) -> NDArray[np.object_]:
    """Dotted quads."""
    dot = "."
    a, b, c, d = (_OCTETS[(address >> np.uint32(shift)) & np.uint32(255)] for shift in (24, 16, 8, 0))
    joined: NDArray[np.object_] = a + dot + b + dot + c + dot + d
    return joined


def split(number: int) -> tuple[int, int]:
    """High and low half of an address."""
    return number >> 64, number & U64
