"""From a row of an answer to the query one level down, or up."""

from __future__ import annotations

from dataclasses import replace

from cidr.language import tree
from cidr.types import Block, Family

# Prefix lengths that one looks at in turn: bytes of IPv4, and what is given out of IPv6.
STEPS = {Family.V4: (0, 8, 16, 24, 32), Family.V6: (0, 16, 32, 48, 56, 64, 128)}


def down(show: tree.Show, block: Block) -> tree.Show | None:
    """`show` for one block, with rows one level longer; None when it is a single address."""
    longer = next((bits for bits in STEPS[block.family] if bits > block.bits), None)
    return None if longer is None else at(show, block, longer)


def at(show: tree.Show, block: Block, bits: int | None) -> tree.Show:
    """`show` for one block, with rows of `bits`; None for its own total."""
    size = tree.Cidrsize(None) if bits is None else tree.Cidrsize(tree.Size(str(bits)))
    rest = tuple(one for one in show.clauses if one.name not in ("cidrsize", "in list"))
    before = sum(one.name in ("since", "on", "from", "between") for one in rest)
    clauses = (*rest[:before], size, *rest[before:])
    if show.what == "heavy":
        clauses = rest
    return replace(show, blocks=(tree.Block(str(block)),), clauses=clauses)
