"""How many of what is to be given each node gets, and in which order a name likes the nodes.

Pure functions; every node computes the same.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from functools import lru_cache

# The golden ratio in 64 bits: multiplying by it lets every bit below decide about those above.
_MIX, _MIXED_MAX = 0x9E3779B97F4A7C15, (1 << 64) - 1


def shares(loads: Mapping[str, tuple[int, float]], count: int) -> dict[str, int]:
    """How many more each node gets when `count` are given; `loads`: what it has, and its weight.

    One after the other goes to the node that is then least loaded for its weight. Whoever has got a part of his share
    already and asks again, with what is left, is told the rest of it: carrying out a plan does not change it.
    """
    burdens = [((load + 1) / weight, name) for name, (load, weight) in loads.items()]
    heapq.heapify(burdens)
    found = dict.fromkeys(loads, 0)
    for _ in range(count):
        name = burdens[0][1]
        found[name] += 1
        load, weight = loads[name]
        heapq.heapreplace(burdens, ((load + found[name] + 1) / weight, name))
    return found


def affinity(node: str, name: str) -> int:
    """A number that every node computes alike and nobody can guess a pattern in; a name likes the smallest best."""
    return (_number(node) ^ _number(name)) * _MIX & _MIXED_MAX


@lru_cache(maxsize=1 << 15)
def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
