"""What a node knows of the store: a snapshot, then every change in order, and *when it saw them on its own clock*.

Times seen are what safety rests on (`docs/vip.md`, the proof):

    seen      of a session: when its last heartbeat was processed here; its holder's deadline is at most `wait` after
    hold      of an address: until when a former holder may still announce it; set when its session ends uncleanly
    synced    when the snapshot was processed: whatever happened before it is covered by waiting from then on

A change that does not follow from what is known (a number left out) raises `StreamHole`: then everything is read again
and `synced` begins anew. No locks; one thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from cluster.types import Event, KeyValue, Snapshot, WatchBatch
from vip.records import (
    ConfRecord,
    DrainRecord,
    GoneRecord,
    Keys,
    OwnRecord,
    PinRecord,
    SessionRecord,
    decode,
    end_of,
)


class StreamHole(Exception):  # never leaves the deciding half
    """A change is missing, or does not fit what is known."""


@dataclass(slots=True)
class SessionSeen:
    """A live session. `revision` is its identity; `mod_revision` and `version` those of its last heartbeat."""

    node: str
    revision: int
    mod_revision: int
    version: int
    seen: int
    record: SessionRecord


@dataclass(frozen=True, slots=True)
class OwnSeen:
    """An ownership as it stands in the store; it may be void."""

    address: str
    mod_revision: int
    version: int
    create_revision: int
    record: OwnRecord


@dataclass(frozen=True, slots=True)
class Change:
    """An address has another live owner than before ("" for none)."""

    address: str
    before: str
    after: str
    why: str
    shifted: bool = False
    # By the wall clock of who wrote it, for people.
    since: float = 0.0


@dataclass
class View:
    """The store under one prefix, as seen from here. `wait` is what this node itself asks others to wait."""

    keys: Keys
    node: str
    wait: int
    revision: int = 0
    synced: int | None = None
    sessions: dict[str, SessionSeen] = field(default_factory=dict)
    owns: dict[str, OwnSeen] = field(default_factory=dict)
    owned: dict[str, dict[str, None]] = field(default_factory=dict)  # the same, addresses by node, oldest first
    holds: dict[str, int] = field(default_factory=dict)
    gones: dict[str, GoneRecord] = field(default_factory=dict)
    drains: dict[str, DrainRecord] = field(default_factory=dict)
    pins: dict[str, tuple[PinRecord, int]] = field(default_factory=dict)
    confs: dict[str, ConfRecord] = field(default_factory=dict)
    # The highest generation that owned anything or lives; and counts that rise with every change of their kind.
    generation: int = 0
    own_changes: int = 0
    longest_wait: int = 0

    # ---- taking in ----

    def sync(self, now: int, snapshot: Snapshot) -> list[Change]:
        """Begin anew from a snapshot; holds that are known stay."""
        first = not self.revision
        before = {address: self.owner(address) for address in self.owns}
        for table in (self.sessions, self.owns, self.owned, self.gones, self.drains, self.pins, self.confs):
            table.clear()
        self.longest_wait = max(self.longest_wait, self.wait)
        for item in snapshot.items:
            self._put(now, item)
        self.revision, self.synced = snapshot.revision, now
        self.own_changes += 1
        addresses = before.keys() | self.owns.keys()
        if first:  # what is found is no change, so it is told as it was told by who made it
            before = {address: own.record.before for address, own in self.owns.items()}
            addresses = {address for address in self.owns if self.owner(address)}
            return sorted(self._changes(addresses, before, always=True), key=lambda change: change.since)
        return list(self._changes(addresses, before))

    def lose(self) -> None:
        """The stream broke for good: nothing is known until the next `sync`."""
        self.synced = None

    def apply(self, now: int, batch: WatchBatch) -> list[Change]:
        """Take in a batch. Raises `StreamHole`, after which only `sync` helps."""
        before: dict[str, str] = {}
        touched: set[str] = set()
        for revision, group in groupby(batch.events, key=lambda event: event.revision):
            if revision <= self.revision:
                continue
            events = list(group)
            for address in self._affected(events):
                touched.add(address)
                before.setdefault(address, self.owner(address))
            # What was written belongs to why something was deleted: the last words of a session come with its end.
            for event in events:
                if event.item is not None:
                    self._check_and_put(now, event.item)
            for event in events:
                if event.item is None:
                    self._delete(now, event)
            self.revision = revision
        return list(self._changes(touched, before))

    # ---- asking ----

    def alive(self, node: str, session: int) -> bool:
        """Whether that very session lives."""
        seen = self.sessions.get(node)
        return seen is not None and seen.revision == session

    def owner(self, address: str) -> str:
        """The node whose live session owns the address; "" for none."""
        own = self.owns.get(address)
        if own is None or not self.alive(own.record.node, own.record.session):
            return ""
        return own.record.node

    def live_owners(self) -> dict[str, str]:
        """The same for every address that has one. Asked by other threads too: what goes meanwhile is left out."""
        return {
            address: node
            for node, seen in self.sessions.items()
            for address in self.owned_by(node)
            if (own := self.owns.get(address)) is not None and own.record.session == seen.revision
        }

    def free_at(self, address: str) -> int:
        """When no former holder can be left, as far as this node knows: hold, and the wait since the snapshot."""
        assert self.synced is not None
        return max(self.holds.get(address, 0), self.synced + self.longest_wait)

    def ready_at(self) -> int:
        """When this node has waited for everybody from before its snapshot."""
        assert self.synced is not None
        return self.synced + self.longest_wait

    def owned_by(self, node: str) -> Collection[str]:
        """Addresses that some session of this node owns, or owned last."""
        return self.owned.get(node, {}).keys()

    # ---- inside ----

    def _affected(self, events: Iterable[Event]) -> Iterator[str]:
        """Addresses whose live owner these events may change."""
        for event in events:
            kind, name = self.keys.split(event.key)
            if kind == "own":
                yield name
            elif kind == "sess" and (event.item is None or name not in self.sessions):
                yield from list(self.owned_by(name))

    def _changes(self, addresses: Iterable[str], before: Mapping[str, str], always: bool = False) -> Iterator[Change]:
        for address in sorted(addresses):
            was, now = before.get(address, ""), self.owner(address)
            if was != now or always:
                own = self.owns.get(address)
                if own is not None and now:
                    record = own.record
                    yield Change(address, was, now, record.why, record.shifted, record.since)
                else:
                    yield Change(address, was, "", self._why_free(was, own))

    def _why_free(self, was: str, own: OwnSeen | None) -> str:
        """A record that still stands was not given up: its session ended."""
        if own is None or own.record.node != was:
            return f"{was} gave it up"
        gone = self.gones.get(was)
        if gone is None or gone.session != own.record.session:
            return f"{was} is gone"
        return f"{was} ended: {end_of(gone)}"

    def _check_and_put(self, now: int, item: KeyValue) -> None:
        """Every write of a session or an ownership must be the one after the last known."""
        kind, name = self.keys.split(item.key)
        known: SessionSeen | OwnSeen | None = None
        created = 0
        if kind == "sess":
            session = self.sessions.get(name)
            known, created = session, session.revision if session else 0
        elif kind == "own":
            own = self.owns.get(name)
            known, created = own, own.create_revision if own else 0
        if kind in ("sess", "own"):
            follows = (
                item.version == 1
                if known is None
                else (item.version == known.version + 1 and item.create_revision == created)
            )
            if not follows:
                raise StreamHole(f"{item.key}: version {item.version} does not follow what is known")
        self._put(now, item)

    def _put(self, now: int, item: KeyValue) -> None:
        kind, name = self.keys.split(item.key)
        match kind:
            case "sess":
                record = decode(item.value, SessionRecord)
                self.sessions[name] = SessionSeen(
                    name, item.create_revision, item.mod_revision, item.version, now, record
                )
                self.longest_wait = max(self.longest_wait, record.wait)
                self.generation = max(self.generation, record.generation)
            case "own":
                own = decode(item.value, OwnRecord)
                self._disown(name)
                self.owned.setdefault(own.node, {})[name] = None
                self.owns[name] = OwnSeen(name, item.mod_revision, item.version, item.create_revision, own)
                self.generation = max(self.generation, own.generation)
                self.own_changes += 1
            case "gone":
                gone = decode(item.value, GoneRecord)
                self.gones[name] = gone
                self.longest_wait = max(self.longest_wait, gone.wait)
            case "drain":
                self.drains[name] = decode(item.value, DrainRecord)
            case "pin":
                self.pins[name] = decode(item.value, PinRecord), item.mod_revision
            case "conf":
                self.confs[name] = decode(item.value, ConfRecord)

    def _delete(self, now: int, event: Event) -> None:
        kind, name = self.keys.split(event.key)
        if kind == "sess":
            self._end_session(now, name)
        elif kind == "own":
            self._disown(name)
            self.own_changes += 1
        else:
            tables: dict[str, dict[str, Any]] = {
                "gone": self.gones,
                "drain": self.drains,
                "pin": self.pins,
                "conf": self.confs,
            }
            tables.get(kind, {}).pop(name, None)

    def _disown(self, address: str) -> None:
        known = self.owns.pop(address, None)
        if known is not None:
            self.owned[known.record.node].pop(address, None)

    def _end_session(self, now: int, node: str) -> None:
        """A session ended: hold what it had, unless it ended clean, for as long as its holder may still announce."""
        session = self.sessions.pop(node, None)
        if session is None:
            raise StreamHole(f"the session of {node} ended, but was not known")
        self.own_changes += 1
        gone = self.gones.get(node)
        told = gone is not None and gone.session == session.revision
        if told and gone is not None and gone.clean:
            return
        until = session.seen + max(session.record.wait, self.wait)
        for address in self.owned_by(node):
            if self.owns[address].record.session == session.revision:
                self.holds[address] = max(self.holds.get(address, 0), until)
        if told and gone is not None and gone.version and gone.version != session.version:
            raise StreamHole(f"{node} was last heard at version {gone.version}, here at {session.version}")

    def forget_holds(self, now: int) -> None:
        """Drop holds that are over."""
        over = [address for address, until in self.holds.items() if until <= now]
        for address in over:
            del self.holds[address]
