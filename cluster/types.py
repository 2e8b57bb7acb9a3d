"""Keys, transactions and watches: the words every store is spoken to in.

    revision   one number for the whole store; every transaction that changes something raises it by one
    key        text; `create_revision`, `mod_revision`: the revisions of its creation and last change (0: absent);
               `version`: how often it was written since it was created
    txn        compares -> if all hold: success operations, else failure operations; one revision, all or nothing
    watch      every change under a prefix from a revision on, once, in order, all changes of one revision together

Every call names the seconds it may take (`within`) and raises `DeadlinePassed` after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

# What etcd accepts in one transaction by default (--max-txn-ops): compares, success and failure operations each.
TXN_OPERATIONS_MAX = 128
# etcd accepts 1.5 MiB in one request by default.
VALUE_BYTES_MAX = 1 << 20
KEY_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it is at some revision."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys under a prefix at one revision, in the order of their names; read from the agreed state."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """`target` of `key` equals `number` (or `value`, for the target value). An absent key has 0 for all numbers."""

    key: str
    target: Literal["create", "mod", "version", "value"]
    number: int = 0
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, or with `prefix` all keys that begin so."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or with `prefix` all keys that begin so."""

    key: str
    prefix: bool = False


Operation = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Txn:
    """If all `compares` hold then `success`, else `failure`. Operations of one branch touch each key once."""

    compares: tuple[Compare, ...] = ()
    success: tuple[Operation, ...] = ()
    failure: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Which branch ran, the revision after it, and what its `Get`s found, one tuple each in their order."""

    succeeded: bool
    revision: int
    found: tuple[tuple[KeyValue, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A key was written (`item`), or deleted (`item` is None)."""

    key: str
    revision: int
    item: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes of one or more whole revisions, in order, the last of which is `revision`.

    Empty (`revision` 0): a sign of life. A watch that breaks begins again after the last revision it delivered.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What answers, for people and warnings."""

    kind: str
    version: str
    cluster: str
    endpoint: str
    # What the store has on its disk, and what it says is wrong with it, in words.
    bytes: int = 0
    alarms: tuple[str, ...] = ()


class Watch(Protocol):
    """A stream of changes. One thread reads it; `close` may be called from any."""

    def next(self) -> WatchBatch:
        """The next batch. Waits as long as `idle` of `Store.watch`; raises `WatchEnded`, `Compacted`."""

    def close(self) -> None:
        """End the watch; a `next` that waits raises `WatchEnded` soon."""


class Store(Protocol):
    """One connection to the store, for one thread at a time; one per purpose, so that none waits on another."""

    def read(self, prefix: str, *, within: float) -> Snapshot:
        """All keys under `prefix`, no older than the call. Raises `StoreError`."""

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        """Run a transaction. After `StoreUnavailable` it may have been committed, or may still be later."""

    def watch(self, prefix: str, start_revision: int, *, idle: float, within: float) -> Watch:
        """Changes under `prefix` from `start_revision` on; a silence of `idle` seconds ends it."""

    def status(self, *, within: float) -> StoreStatus:
        """Who answers."""

    def close(self) -> None:
        """Let go of the connection and of watches. Idempotent, from any thread."""


def check_txn(txn: Txn) -> None:
    """Refuse what a store would refuse. Raises ValueError: that is a mistake in the program."""
    if max(len(txn.compares), len(txn.success), len(txn.failure)) > TXN_OPERATIONS_MAX:
        raise ValueError(f"more than {TXN_OPERATIONS_MAX} compares or operations in one transaction")
    for branch in (txn.success, txn.failure):
        written = [operation for operation in branch if not isinstance(operation, Get)]
        for operation in written:
            if not 0 < len(operation.key) <= KEY_CHARACTERS_MAX:
                raise ValueError(f"a key of {len(operation.key)} characters")
            if isinstance(operation, Put) and len(operation.value) > VALUE_BYTES_MAX:
                raise ValueError(f"{operation.key}: a value of {len(operation.value)} bytes")
        _check_once(written)


def _check_once(written: Sequence[Put | Delete]) -> None:
    puts = [operation.key for operation in written if isinstance(operation, Put)]
    if len(set(puts)) < len(puts):
        raise ValueError("a transaction writes a key twice")
    for operation in written:
        if isinstance(operation, Delete):
            hit = [key for key in puts if key == operation.key or (operation.prefix and key.startswith(operation.key))]
            if hit:
                raise ValueError(f"a transaction writes and deletes {hit[0]}")
