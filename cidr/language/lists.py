"""The blocks of a query: as they are written, and out of files.

A file of blocks holds one block or address a line; what follows a `#`, and empty lines, say nothing. `in list @file`
keeps of the blocks asked about what lies in the file's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace

from cidr.addresses import disjoint, parse_block
from cidr.language import tree
from cidr.language.errors import Mark, QueryError
from cidr.types import ALL_V4, ALL_V6, Block
from jlogd.errors import UsageError

# In one query. A row of a list costs a search of every segment; a longer list is a series of its own.
BLOCKS_MAX = 10_000


def blocks_of(text: str, show: tree.Show) -> tuple[Block, ...]:
    """The blocks of a tree without lists, in their order, none twice."""
    found: dict[Block, None] = {}
    for item in show.blocks:
        if isinstance(item, tree.AllBlocks):
            found.update(dict.fromkeys((ALL_V4, ALL_V6)))
        elif isinstance(item, tree.Block):
            found[_written(text, item)] = None
        else:
            raise QueryError(text, item.mark, "a list is a file where the query is typed; it cannot be read here")
    clause = show.clause("in list")
    if clause is not None:
        raise QueryError(text, clause.mark, "a list is a file where the query is typed; it cannot be read here")
    if len(found) > BLOCKS_MAX:
        raise QueryError(text, show.blocks[-1].mark, f"{len(found)} blocks; at most {BLOCKS_MAX} are accepted")
    return tuple(found)


def inline(text: str, show: tree.Show, read: Callable[[str], str]) -> tree.Show:
    """`show` with blocks in place of lists."""
    items: list[tree.BlockItem] = []
    for item in show.blocks:
        items += _nodes(_listed(text, item, read), item.mark) if isinstance(item, tree.ListFile) else [item]
    show = replace(show, blocks=tuple(items))
    clause = show.clause("in list")
    if not isinstance(clause, tree.InList):
        return show
    rest = replace(show, clauses=tuple(one for one in show.clauses if one is not clause))
    kept = intersect(blocks_of(text, rest), _listed(text, clause.file, read))
    if not kept:
        raise QueryError(text, clause.mark, "no block of the list lies in the blocks asked about")
    return replace(rest, blocks=tuple(_nodes(kept, clause.mark)))


def refuse(path: str) -> str:
    """Reads no file: for those who answer the queries of others."""
    raise ValueError("lists are files where the query is typed, not here; write the blocks")


def intersect(blocks: Iterable[Block], others: Iterable[Block]) -> list[Block]:
    """What lies in both, as disjoint blocks in order."""
    left, right = disjoint(tuple(blocks)), disjoint(tuple(others))
    both = [one for one in left if _inside(one, right)] + [one for one in right if _inside(one, left)]
    return disjoint(tuple(both))


def _inside(block: Block, others: list[Block]) -> bool:
    """Whether one of the disjoint, sorted `others` holds `block`."""
    at = bisect_right(others, (block.family, block.first), key=lambda other: (other.family, other.first))
    return at > 0 and others[at - 1].holds(block)


def _written(text: str, item: tree.Block) -> Block:
    if "/" not in item.text:
        try:
            host = parse_block(item.text)
        except UsageError as error:
            raise QueryError(text, item.mark, str(error)) from None
        what = f"{item.text} is an address; a block has a prefix length: write {host} for this address alone"
        raise QueryError(text, item.mark, what)
    try:
        return parse_block(item.text)
    except UsageError as error:
        raise QueryError(text, item.mark, str(error)) from None


def _nodes(blocks: Iterable[Block], mark: Mark) -> list[tree.BlockItem]:
    return [tree.Block(str(block), mark) for block in blocks]


def _listed(text: str, item: tree.ListFile, read: Callable[[str], str]) -> list[Block]:
    try:
        lines = read(item.path).splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise QueryError(text, item.mark, f"{item.path} cannot be read: {why.lower()}") from None
    found = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        try:
            found.append(parse_block(words))
        except UsageError as error:
            raise QueryError(text, item.mark, f"{item.path}, line {number}: {error}") from None
        if len(found) > BLOCKS_MAX:
            raise QueryError(text, item.mark, f"{item.path} holds more than {BLOCKS_MAX} blocks")
    if not found:
        raise QueryError(text, item.mark, f"{item.path} holds no blocks")
    return found
