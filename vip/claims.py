"""Owning by the store: the transactions that claim addresses and hand them over, and which claims are on their way.

    claim    if my session lives, and those of the former owners are gone (or are others by now), and every ownership is
             as I know it -> it is mine
    gift     if my session lives (and that of the heir), and every ownership is the one it was removed under
             -> it is the heir's, or nobody's

No locks; one thread, that of `Node`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.types import Compare, Delete, Put, Txn, TxnResult
from vip.clock import SECOND
from vip.view import View

# Addresses in one transaction: the store takes 128 operations, and compares of former owners are needed besides.
COMMIT_ADDRESSES_MAX = 115
FORMER_OWNERS_MAX = 10
COMMIT_RETRY_NS = SECOND // 10
# Claims on their way at once. Once some failed they are small, for long after: a thousand of one address each would be
# sent, where the first few that succeed show that they can be large again.
UNDER_WAY_MAX = 32


def claim(view: View, session: int, deeds: Mapping[str, bytes], former: Iterable[str]) -> Txn:
    """Own these for this node. `session`: its number; `deeds`: what is to stand there; `former`: who owned them."""
    keys = view.keys
    compares = [Compare(keys.session(view.node), "create", session)]
    for node in sorted(set(former) - {view.node}):
        # The session that owned it is gone; another of that node may live, and its number never comes again.
        seen = view.sessions.get(node)
        compares.append(Compare(keys.session(node), "create", seen.revision if seen else 0))
    for address in deeds:
        own = view.owns.get(address)
        compares.append(Compare(keys.own(address), "mod", own.mod_revision if own else 0))
    return Txn(tuple(compares), tuple(Put(keys.own(address), deed) for address, deed in deeds.items()))


def gift(view: View, session: int, held: Mapping[str, int], heir: str, deeds: Mapping[str, bytes]) -> Txn:
    """Hand over what was removed. `held`: the revision each was held under; `heir`: "" for nobody, without deeds."""
    keys = view.keys
    compares = [Compare(keys.session(view.node), "create", session)]
    compares += [Compare(keys.own(address), "mod", revision) for address, revision in held.items()]
    if not heir:
        return Txn(tuple(compares), tuple(Delete(keys.own(address)) for address in held))
    compares.append(Compare(keys.session(heir), "create", view.sessions[heir].revision))
    return Txn(tuple(compares), tuple(Put(keys.own(address), deed) for address, deed in deeds.items()))


@dataclass
class Claims:
    """Claims of this session, from when they are sent until the stream of changes tells of them."""

    _again: dict[str, int] = field(default_factory=dict)  # address -> not before; 0 while its claim is on its way
    _granted: dict[str, int] = field(default_factory=dict)  # address -> revision of its claim
    _size: int = COMMIT_ADDRESSES_MAX
    _under_way: int = 0

    def clear(self) -> None:
        """The session is lost."""
        self._again.clear()
        self._granted.clear()
        self._under_way = 0

    def possible(self, addresses: Iterable[str], told: int) -> int | None:
        """From when on these can be claimed together; None while that is on its way. `told`: how far the stream is."""
        at = 0
        for address in addresses:
            again = self._again.get(address)
            if again == 0 or self._granted.get(address, 0) > told:
                return None  # in the second case they are ours; the stream has yet to say so
            at = max(at, again or 0)
        return at

    def portions(
        self, units: Iterable[list[str]], former: Callable[[str], str]
    ) -> Iterator[tuple[list[str], set[str]]]:
        """Whole units, as many together as go into one transaction, and who owned them before; each to be `sent`.
        What is more than may be under way is left for when some of it was answered."""
        part: list[str] = []
        before: set[str] = set()
        for addresses in units:
            owners = {former(address) for address in addresses} - {""}
            full = len(part) + len(addresses) > self._size
            if part and (full or len(before | owners) > FORMER_OWNERS_MAX):
                yield part, before
                part, before = [], set()
            if self._under_way >= UNDER_WAY_MAX:
                return
            part += addresses
            before |= owners
        if part:
            yield part, before

    def sent(self, addresses: Iterable[str]) -> None:
        self._under_way += 1
        self._again.update(dict.fromkeys(addresses, 0))

    def answered(self, now: int, addresses: Iterable[str], result: TxnResult | None) -> None:
        """What became of a claim; None: that is not known."""
        granted = result is not None and result.succeeded
        self._under_way = max(self._under_way - 1, 0)  # one of a session that was lost may be answered late
        # Addresses of others may have been in it: smaller ones fail less together.
        self._size = min(max(self._size * 2 if granted else self._size // 4, 1), COMMIT_ADDRESSES_MAX)
        for address in addresses:
            self._again[address] = now + COMMIT_RETRY_NS
            if result is not None and granted:
                self._granted[address] = result.revision
