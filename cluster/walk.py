"""What a transaction does to a table of keys: the one walk that the stores without etcd share.

    compares    all hold?  ->  success, else failure
    operations  in their order: a `Get` sees what was written before it; every change has the same, next revision

A table says what it has (`revision`, `matching`) and takes one change at a time (`apply`); whether it is a dictionary
or a file, and what makes all of it one step, is its own matter.

No locks; pure but for `apply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cluster.types import Compare, Delete, Event, KeyValue, Put, Txn, TxnResult, check_txn


class Table(Protocol):
    """Keys as they are now."""

    @property
    def revision(self) -> int:
        """That of the last transaction that changed something."""

    def matching(self, key: str, prefix: bool) -> Sequence[KeyValue]:
        """The key, or with `prefix` all keys that begin so, in the order of their names."""

    def apply(self, event: Event) -> None:
        """Write a key, or forget it."""


def walk(txn: Txn, table: Table) -> tuple[TxnResult, list[Event]]:
    """Run a transaction: its result, whose revision is the new one when anything changed, and what changed."""
    check_txn(txn)
    before = table.revision
    succeeded = all(_holds(compare, table) for compare in txn.compares)
    found: list[tuple[KeyValue, ...]] = []
    changed: list[Event] = []
    for operation in txn.success if succeeded else txn.failure:
        match operation:
            case Put():
                events = [_written(operation, table, before + 1)]
            case Delete(key, prefix):
                events = [Event(item.key, before + 1, None) for item in table.matching(key, prefix)]
            case _:
                found.append(tuple(table.matching(operation.key, operation.prefix)))
                continue
        for event in events:
            table.apply(event)
        changed += events
    return TxnResult(succeeded, before + bool(changed), tuple(found)), changed


def _holds(compare: Compare, table: Table) -> bool:
    """Whether one compare holds; an absent key has 0 for all numbers, and no value."""
    item = next(iter(table.matching(compare.key, False)), None)
    if compare.target == "value":
        return item is not None and item.value == compare.value
    if item is None:
        return compare.number == 0
    numbers = {"create": item.create_revision, "mod": item.mod_revision, "version": item.version}
    return numbers[compare.target] == compare.number


def _written(operation: Put, table: Table, revision: int) -> Event:
    """The key after it was written; its identity is that of its creation."""
    before = next(iter(table.matching(operation.key, False)), None)
    created, version = (before.create_revision, before.version + 1) if before is not None else (revision, 1)
    item = KeyValue(operation.key, operation.value, created, revision, version)
    return Event(operation.key, revision, item)
