"""One node's decisions, without any I/O: told what happened and what time it is, it says what to do (`actions.py`).

    clean  remove whatever is there; wait for the kernel's word
    open   have a snapshot, end a former session of this very place, begin a session
    live   claim, wait, take, give, release; end the sessions of others that fell silent (`holdings.py`)
    stop   remove everything, then say farewell; `ended` is the end

    clean -> open -> live -> clean ...   (a lost session: everything goes, then a new one begins)
    any -> stop -> ended                 (asked for)

Safety does not depend on any decision here being wise: an address is put up only when the store says it is ours, the
deadline is ahead, and no former holder can be left; it is removed, and the kernel has said so, before the store is
told that it is free. One thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from cluster.types import Snapshot, Txn, TxnResult, WatchBatch
from vip.actions import Action, Announce, Beat, Changed, Commit, Look, RemoveAll, Resync, Say, Taken
from vip.chores import ending_silent, silent, telling_conf, unpinning
from vip.clock import SECOND, seconds
from vip.config import Settings
from vip.holdings import Holdings
from vip.kernel.interface import Floating, Present
from vip.places import Identity, floatings_of
from vip.records import BLOCKED_TOLD_MAX, GoneRecord, Keys, SessionRecord, recent_losses
from vip.session import SUCCESSOR_ENDED, Session, ending
from vip.situation import Plan
from vip.timing import Timing
from vip.view import Change, StreamHole, View

Phase = Literal["clean", "open", "live", "stop", "ended"]

# How soon something that failed is tried again.
RETRY_NS = SECOND // 5
# How often what is there is compared with what should be.
LOOK_NS = SECOND
# A stopping node that cannot reach the store leaves all the same: its addresses are gone already.
FAREWELL_NS = 2 * SECOND


class Node:
    """Decides for one node. `act` after every call that tells something, and at least every tenth of a second."""

    def __init__(self, settings: Settings, identity: Identity, timing: Timing, alone: bool = False) -> None:
        """`alone`: a store of one machine; nobody else can hold anything, so nothing is waited for."""
        self.identity = identity
        self.timing = timing
        self.keys = Keys(settings.cluster)
        self.plan = Plan.of(settings)
        self.view = View(self.keys, identity.node, 0 if alone else timing.wait)
        self.session = Session(self.keys, identity.node, timing)
        self.holdings = Holdings(self.plan, self.view, identity.node, floatings_of(settings))
        self.phase: Phase = "clean"
        self.refused = ""  # why this node must not run at all: the daemon ends
        self.trouble: dict[str, str] = {}  # what is wrong now, by subject
        self.record = SessionRecord()
        self._alone = alone
        self._down: frozenset[str] = frozenset()
        self._failing: frozenset[str] = frozenset()
        self._opened = 0
        self._losses: tuple[float, ...] = ()
        self._actions: list[Action] = []
        self._removing_all = False
        self._told_silent: dict[str, int] = {}  # node -> its session that was told to be silent
        self._waiting: set[str] = set()  # kinds of commits that are on their way: one at a time
        self._retry: dict[str, int] = {}
        self._looked = 0
        self._last = 0
        self._stalled = 0
        self._stop_by = 0

    # ---- told from outside ------------------------------------------------------------------------------------------

    def sync(self, now: int, snapshot: Snapshot) -> None:
        """A snapshot was read; changes after its revision follow by `apply`."""
        known = not self.view.revision
        self._changed(now, self.view.sync(now, snapshot), known)
        self.holdings.plan_again()
        self._note_own_end()

    def apply(self, now: int, batch: WatchBatch) -> None:
        """Changes came."""
        try:
            self._changed(now, self.view.apply(now, batch))
        except StreamHole as hole:
            self.hole(str(hole))
        self._note_own_end()

    def hole(self, why: str) -> None:
        """The stream of changes broke so that some may be missing."""
        self.view.lose()
        self._say(f"reading everything again: {why}", "warning")
        self._actions.append(Resync(why))

    def committed(self, now: int, commit: Commit, sent: int, result: TxnResult | None) -> None:
        """A `Commit` was answered, or (None) its outcome is not known."""
        self._waiting.discard(commit.kind)
        done = result is not None and result.succeeded
        if commit.kind in ("claim", "give"):
            self.holdings.committed(now, commit, result)
        elif commit.kind == "open" and result is not None:
            if self.session.opened(sent, result):
                self._begin(now)
        elif commit.kind == "end":
            self._tell_ended(commit.about[0], result)
        elif commit.kind == "farewell" and (done or now >= self._stop_by):
            self._tell_end(done)
            self._end()
        if not done:
            self._retry[commit.kind] = now + RETRY_NS

    def taken(self, now: int, taken: Taken) -> None:
        """A `Take` was carried out."""
        for address, mac in taken.foreign.items():
            self._say(f"{address} is BLOCKED: {mac}, which is none of ours, has it already", "error")
        self.holdings.taken(now, taken)

    def removed(self, now: int, addresses: Iterable[Floating], failed: Mapping[str, str]) -> None:
        """A `Remove` was carried out."""
        for address, why in failed.items():
            self._say(f"{address} could not be removed: {why}", "error")
        self.holdings.removed(now, [floating.address for floating in addresses], failed)

    def removed_all(self, now: int, failed: str) -> None:
        """A `RemoveAll` was carried out; `failed`: what the kernel refused, "" for nothing."""
        self._removing_all = False
        if failed:
            self.trouble["kernel"] = f"addresses could not be removed: {failed}"
            self._say(self.trouble["kernel"], "error")
            self._retry["clean"] = now + SECOND
            return
        self.trouble.pop("kernel", None)
        self.holdings.cleared()
        if self.phase == "clean":
            self.phase = "open"

    def looked(self, now: int, present: Iterable[Present]) -> None:
        """A `Look` was carried out."""
        surplus = self.holdings.looked(present)
        if surplus:
            self._say(f"{len(surplus)} addresses are there that should not be: removing them", "warning")

    def gone(self, now: int, address: str) -> None:
        """An address of ours went without our asking: by hand, or because the deadline passed."""
        if self.holdings.gone(address) and now < self.session.deadline:
            self._say(f"{address} was removed by somebody else: putting it back", "warning")

    def health(self, down: Iterable[str], failing: Iterable[str]) -> None:
        """Blocks whose link is down, and checks that fail."""
        found = frozenset(down), frozenset(failing)
        if found != (self._down, self._failing):
            self._down, self._failing = found
            self._actions.append(Beat())

    def configure(self, settings: Settings) -> None:
        """A new configuration, of the same node, store and timing."""
        self.plan = Plan.of(settings)
        self.holdings.configure(self.plan, floatings_of(settings))
        self._actions.append(Beat())

    def stop(self, now: int) -> None:
        """Lay everything down, tell the others, end."""
        if self.phase not in ("stop", "ended"):
            self.phase = "stop"
            self._stop_by = now + FAREWELL_NS
            self._actions.append(RemoveAll())
            self._removing_all = True

    # ---- deciding ---------------------------------------------------------------------------------------------------

    def act(self, now: int, wall: float) -> list[Action]:
        """What to do now."""
        self._watch_clock(now)
        match self.phase:
            case "clean":
                self._act_clean(now)
            case "open":
                self._act_open(now, wall)
            case "live":
                self._act_live(now, wall)
            case "stop":
                self._act_stop(now)
        before, self.record = self.record.ready, self._make_record(now)
        if self.record.ready != before and self.phase == "live":
            self._actions.append(Beat())
        actions, self._actions = self._actions, []
        return actions

    def ready(self, now: int) -> bool:
        """Whether this node may put up what it claims: it waited for everybody from before its snapshot."""
        return self.phase == "live" and self.view.synced is not None and (self._alone or now >= self.view.ready_at())

    def may_hold(self, now: int) -> bool:
        """Whether it may have addresses up now: it is ready, and its deadline has not passed."""
        return self.phase == "live" and self.record.ready and now < self.session.deadline

    def _act_clean(self, now: int) -> None:
        if not self._removing_all and now >= self._retry.get("clean", 0):
            self._removing_all = True
            self._actions.append(RemoveAll())

    def _act_open(self, now: int, wall: float) -> None:
        if self.view.synced is None or {"open", "former"} & self._waiting:
            return
        former = self.view.sessions.get(self.identity.node)
        gone = self.view.gones.get(self.identity.node, GoneRecord())
        if former is None:
            if now < self._retry.get("open", 0):
                return
            self.session = Session(self.keys, self.identity.node, self.timing)
            self._losses = recent_losses(gone.losses, wall)
            self._opened = now
            self._commit("open", self.session.opening(self._make_record(now)))
        elif former.record.place == self.identity.place:
            # Only one process can run at a place, and it has just removed everything: the former one left nothing.
            if now >= self._retry.get("former", 0):
                wait = max(former.record.wait, self.timing.wait)
                txn = ending(self.keys, self.identity.node, former.revision, gone, wait, SUCCESSOR_ENDED)
                self._commit("former", txn)
        elif former.version > 1 and former.seen > self.view.synced:
            self.refused = (
                f"a node named {self.identity.node} is alive elsewhere ({former.record.place}); "
                "give this one another name in vip.node, or stop that one"
            )
        else:
            self._end_silent(now, wall)

    def _begin(self, now: int) -> None:
        self.phase = "live"
        self._retry.clear()
        self.holdings.begin(self.session)
        self._say(f"session {self.session.revision} begins; {self._until_ready(now)}")

    def _until_ready(self, now: int) -> str:
        """Even alone: addresses come up only when what a former session here asked others to wait is over."""
        wait = 0.0 if self.view.synced is None else seconds(self.view.ready_at() - now)
        return f"addresses wait {wait:.1f} s, for former holders" if wait > 0 else "no former holder can be left"

    def _act_live(self, now: int, wall: float) -> None:
        if self.session.lost:
            self._lose(self.session.lost)
            self._act_clean(now)
            return
        if now >= self.session.deadline:
            if "store" not in self.trouble:
                self.trouble["store"] = "no heartbeat was committed in time; nothing is held"
                self._say("no heartbeat was committed in time: removing every address", "error")
                self._stalled = 0  # nothing is left that could be announced
                self._removing_all = True
                self._actions.append(RemoveAll())
            return
        if self.trouble.pop("store", None):
            self._say("a heartbeat was committed again")
            self.holdings.dirty = True
        if self._removing_all or self.view.synced is None:
            return
        self._end_silent(now, wall)
        self._tell_conf(now)
        self._unpin(now, wall)
        self.holdings.decide(now, wall, self._may_claim(now))
        self._actions += self.holdings.drain_actions()
        if self._stalled and self.session.confirmed > self._stalled:
            self._stalled = 0
            self._actions.append(Announce(tuple(self.holdings.present_floatings())))
            self._say("held up, and still the owner: announcing every address again", "warning")
        if now - self._looked >= LOOK_NS and not self.holdings.busy:
            self._looked = now
            self._actions.append(Look())

    def _may_claim(self, now: int) -> bool:
        """Not before nobody else can be left, nor with an older configuration; and not at once when a whole cluster
        starts: who is first would take everything, only to give it away again."""
        if not self.ready(now) or self.plan.settings.generation < self.view.generation:
            return False
        settled = now >= self.view.ready_at() + 2 * self.timing.heartbeat
        return settled or all(seen.record.ready for seen in self.view.sessions.values())

    def _act_stop(self, now: int) -> None:
        if self._removing_all:
            return
        if not self.session.revision or self.session.lost or now >= self._stop_by:
            self._end()
        elif self._free(now, "farewell"):
            gone = self.view.gones.get(self.identity.node, GoneRecord())
            self._commit("farewell", self.session.farewell(msgspec.structs.replace(gone, losses=self._losses)))

    def _tell_end(self, done: bool) -> None:
        """The stream would say it too, but nobody is there to hear it then."""
        node = self.identity.node
        ended = [address for address in self.holdings.mine() if done and self.view.owner(address) == node]
        if ended:
            self._actions.append(Changed(tuple(Change(address, node, "", f"{node} was stopped") for address in ended)))

    def _end(self) -> None:
        self.session.lose("stopped")
        self.phase = "ended"

    def _lose(self, why: str) -> None:
        self._say(f"the session is lost: {why}; removing every address", "error")
        self.phase = "clean"
        self._stalled = 0  # that was an older session: nothing of it is announced again
        self.holdings.end()
        self._retry.clear()

    def _note_own_end(self) -> None:
        """The stream may say before any heartbeat does that this session is gone."""
        session = self.session
        if self.phase != "live" or not session.revision or self.view.synced is None:
            return
        if self.view.revision >= session.revision and not self.view.alive(self.identity.node, session.revision):
            session.lose("another node ended it, because it heard nothing for too long")

    def _end_silent(self, now: int, wall: float) -> None:
        """End the session of a node that fell silent."""
        if not self._free(now, "end"):
            return
        seen = silent(self.view, now, but=self.identity.node if self.phase == "live" else "")
        if seen is None:
            return
        if self._told_silent.get(seen.node) != seen.revision:  # it may be tried again and again: said once
            self._told_silent[seen.node] = seen.revision
            silence = f"{seen.node} was silent for {seconds(now - seen.seen):.1f} s"
            self._say(f"{silence}: asking the store to end its session", "warning")
        self._commit("end", ending_silent(self.view, seen, wall), (seen.node,))

    def _tell_ended(self, node: str, result: TxnResult | None) -> None:
        """What became of the end of a silent session; without an answer it is tried again."""
        if result is not None and result.succeeded:
            self._say(f"the session of {node} is ended", "warning")
        elif result is not None and node in self._told_silent:
            del self._told_silent[node]
            self._say(f"the session of {node} is not ended by this node: it was heard meanwhile, or another one did it")

    def _tell_conf(self, now: int) -> None:
        txn = telling_conf(self.view, self.plan) if self._free(now, "conf") else None
        if txn is not None:
            self._commit("conf", txn)

    def _unpin(self, now: int, wall: float) -> None:
        found = unpinning(self.view, wall, self.holdings.has_bundle) if self._free(now, "unpin") else None
        if found is not None:
            name, txn = found
            self._commit("unpin", txn, (name,))

    # ---- small things -----------------------------------------------------------------------------------------------

    def _make_record(self, now: int) -> SessionRecord:
        settings = self.plan.settings
        return SessionRecord(
            place=self.identity.place,
            wait=self.view.wait,
            generation=settings.generation,
            digest=self.plan.digest,
            weight=settings.weight,
            ready=self.ready(now),
            age=int(seconds(now - self._opened)) if self._opened else 0,
            losses=len(self._losses),
            down=tuple(sorted(self._down)),
            failing=tuple(sorted(self._failing)),
            blocked=dict(sorted(self.holdings.blocked().items())[:BLOCKED_TOLD_MAX]),
            gate=self.identity.gate,
            version=self.identity.version,
        )

    def _watch_clock(self, now: int) -> None:
        """A long time between two looks at the clock: the process was held up, and neighbours may have forgotten us."""
        if self._last and now - self._last > self.timing.stall:
            self._stalled = now
            self._say(f"held up for {seconds(now - self._last):.1f} s", "warning")
            self._actions.append(Beat())
        self._last = now

    def _free(self, now: int, kind: str) -> bool:
        """Whether a commit of a kind may be sent: none is on its way, and the last was not refused just now."""
        return kind not in self._waiting and now >= self._retry.get(kind, 0)

    def _commit(self, kind: Literal["open", "former", "farewell", "end", "conf", "unpin"], txn: Txn,
                about: tuple[str, ...] = ()) -> None:  # fmt: skip
        self._waiting.add(kind)
        self._actions.append(Commit(kind, txn, about))

    def _changed(self, now: int, changes: list[Change], known: bool = False) -> None:
        if any(change.shifted for change in changes):
            self.holdings.shifted(now)
        if changes:
            self.holdings.changed(changes)
            self._actions.append(Changed(tuple(changes), known))

    def _say(self, sentence: str, level: Literal["info", "warning", "error"] = "info") -> None:
        self._actions.append(Say(sentence, level))
