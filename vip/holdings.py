"""What this node has, takes and gives: from what the store says and the plan wishes to work for the kernel and claims.

For every address of the configuration, when something changed or a time came:

    not ours in the store   there? -> remove
                            wanted here and without a live owner -> claim (a whole unit in one transaction)
    ours in the store       wanted elsewhere -> giving: remove -> [the kernel's word] -> hand it to the new owner's
                            session, or drop it; never put up again under the same record
                            else not there -> take, once no former holder can be left and the deadline is ahead

One thread, that of `Node`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.types import Compare, Delete, Put, Txn, TxnResult
from vip.actions import Action, Commit, Remove, Take, Taken
from vip.assign import Wish
from vip.clock import SECOND, seconds
from vip.kernel.interface import Floating, Present
from vip.records import OwnRecord, encode
from vip.session import Session
from vip.situation import Plan, Situation, situation_of, wishes_of
from vip.units import Bundle
from vip.view import Change, OwnSeen, View

# Addresses in one transaction: the store takes 128 operations, and compares of former owners are needed besides.
COMMIT_ADDRESSES_MAX = 115
FORMER_OWNERS_MAX = 10
# Addresses in one call to the kernel, so that nothing that matters more waits for long behind it.
KERNEL_ADDRESSES_MAX = 500
# A foreign host has it, or the kernel refused it: look again after this.
BLOCKED_RETRY_NS = 5 * SECOND
FAILED_RETRY_NS = SECOND
COMMIT_RETRY_NS = SECOND // 10
# Looking at an address costs some microseconds; between two looks at all of them there is this pause for each.
PAUSE_NS = 10_000
# While others carry out their parts of a plan as they should, a new one would say the same: one is made only when all
# of it is done, something was done otherwise, or this has passed.
PLAN_AGAIN_NS = 2 * SECOND
# Nothing should need it: everything is looked at again after this.
LOOK_AGAIN_NS = 10 * SECOND


@dataclass(slots=True)
class Giving:
    """An address on its way out, under the record it was held by. `removed`: the kernel said it is gone."""

    mod_revision: int
    removed: bool = False
    committing: bool = False
    retry: int = 0


@dataclass
class Holdings:
    """The state of every address here."""

    plan: Plan
    view: View
    node: str
    floatings: dict[str, Floating]
    dirty: bool = True
    wishes: dict[str, Wish] = field(default_factory=dict)
    present: dict[str, Floating] = field(default_factory=dict)
    _session: Session | None = None
    _taking: set[str] = field(default_factory=set)
    _removing: set[str] = field(default_factory=set)
    _claiming: dict[str, int] = field(default_factory=dict)  # address -> not again before; 0 while on its way
    _claimed: dict[str, int] = field(default_factory=dict)  # address -> revision of its claim, which the stream tells
    _giving: dict[str, Giving] = field(default_factory=dict)
    _retry: dict[str, int] = field(default_factory=dict)  # address -> not to be taken before
    _foreign: dict[str, str] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _situation: Situation | None = None
    _must_plan: bool = True
    _may_plan: bool = False
    _plan_done: bool = False
    _planned: int = 0
    _open: set[str] = field(default_factory=set)  # bundles that the plan gives to another node, and that have not come
    _wanted: list[Bundle] = field(default_factory=list)  # what the plan gives to this node
    _own_changes: int = 0
    _due: int = 0
    _next_decision: int = 0
    _next_round: int = 0
    _claim_size: int = COMMIT_ADDRESSES_MAX
    _might_claim: bool = False
    _wall: float = 0.0
    _actions: list[Action] = field(default_factory=list)

    # ---- told ----

    def begin(self, session: Session) -> None:
        self._session = session
        self.dirty = True

    def end(self) -> None:
        """The session is lost: nothing that was begun counts any more. What is there is removed by `RemoveAll`."""
        self._session = None
        self._claiming.clear()
        self._claimed.clear()
        self._giving.clear()

    def configure(self, plan: Plan, floatings: dict[str, Floating]) -> None:
        self.plan, self.floatings = plan, floatings
        self._situation = None
        self.dirty = True

    def changed(self, changes: Iterable[Change]) -> None:
        """Addresses have other owners: as the plan says, or otherwise, so that a new one is due."""
        for change in changes:
            bundle = self.plan.bundle_of.get(change.address)
            if bundle is None:
                continue
            wish = self.wishes.get(bundle.name)
            if wish is None or wish.node != change.after:
                self._must_plan = True
            elif bundle.name in self._open:
                self._open.discard(bundle.name)
                self._plan_done |= not self._open
        self._may_plan = self.dirty = True

    def plan_again(self) -> None:
        """What is known was read anew."""
        self._must_plan = self.dirty = True

    def cleared(self) -> None:
        """Everything was removed."""
        self.present.clear()
        self._removing.clear()
        for giving in self._giving.values():
            giving.removed = True
        self.dirty = True

    def taken(self, now: int, taken: Taken) -> None:
        for floating in taken.addresses:
            address = floating.address
            self._taking.discard(address)
            self._foreign.pop(address, None)
            self._failed.pop(address, None)
            if address in taken.foreign:
                self._foreign[address] = taken.foreign[address]
                self._retry[address] = now + BLOCKED_RETRY_NS
            elif address in taken.failed:
                self._failed[address] = taken.failed[address]
                self._retry[address] = now + FAILED_RETRY_NS
            else:
                self.present[address] = floating
                self._retry.pop(address, None)
        self.dirty = True

    def removed(self, now: int, addresses: Iterable[str], failed: Mapping[str, str]) -> None:
        for address in addresses:
            self._removing.discard(address)
            if address in failed:
                continue  # still there: the next decision removes it again
            self.present.pop(address, None)
            if address in self._giving:
                self._giving[address].removed = True
        self.dirty = True

    def looked(self, present: Iterable[Present]) -> list[str]:
        """What is there, read back; the surplus, which is removed."""
        found = {item.floating.address: item.floating for item in present}
        surplus = [address for address in found if address not in self.present and address not in self._taking]
        missing = [address for address in self.present if address not in found and address not in self._removing]
        for address in missing:
            del self.present[address]
        for address in surplus:
            self.present[address] = found[address]
        moved = [address for address, floating in found.items() if self.floatings.get(address, floating) != floating]
        self.dirty |= bool(missing or surplus or moved)
        return surplus

    def gone(self, address: str) -> bool:
        """It went without our asking; whether that is news."""
        if address in self._removing or address not in self.present:
            return False
        del self.present[address]
        self.dirty = True
        return True

    def committed(self, now: int, commit: Commit, result: TxnResult | None) -> None:
        if commit.kind == "claim":
            succeeded = result is not None and result.succeeded
            # Addresses of others may have been in it: smaller ones fail less together.
            grown = self._claim_size * 2 if succeeded else self._claim_size // 4
            self._claim_size = min(max(grown, 1), COMMIT_ADDRESSES_MAX)
            for address in commit.about:
                self._claiming[address] = now + COMMIT_RETRY_NS
                if result is not None and succeeded:
                    self._claimed[address] = result.revision
        for address in commit.about if commit.kind == "give" else ():
            giving = self._giving.get(address)
            if giving is not None:
                giving.committing = False
                giving.retry = now + COMMIT_RETRY_NS
        self.dirty = True

    def shifted(self, now: int) -> None:
        """Somebody moved something that nobody forced: a round began, for all."""
        if now >= self._next_round:
            self._next_round = now + round(float(self.plan.settings.round) * SECOND)

    # ---- asked ----

    @property
    def busy(self) -> bool:
        """Whether work for the kernel is on its way, so that reading back would say little."""
        return bool(self._taking or self._removing)

    def present_floatings(self) -> list[Floating]:
        """What is there and stays: nothing that is on its way out may be announced again."""
        leaving = self._removing | self._giving.keys()
        return [floating for address, floating in self.present.items() if address not in leaving]

    def blocked(self) -> dict[str, str]:
        """Address -> MAC of the foreign host that has it."""
        return self._foreign

    def mine(self) -> list[str]:
        """Addresses that this session owns in the store."""
        return [address for address in list(self.view.owned_by(self.node)) if self._mine(self.view.owns.get(address))]

    def has_bundle(self, name: str) -> bool:
        wish = self.wishes.get(name)
        return wish is not None and wish.node == self.node and wish.kind == "keep"

    def state(self, address: str, now: int) -> tuple[str, str]:
        """(state, why) of an address that this node owns in the store, in words."""
        if address in self._foreign:
            return "BLOCKED", f"{self._foreign[address]}, which is none of ours, has it"
        if address in self._failed:
            return "FAILED", self._failed[address]
        if address in self._giving:
            return "giving", "on its way to another node"
        if address in self.present:
            return "held", ""
        if self.view.synced is not None and self.view.free_at(address) > now:
            return "waiting", f"a former holder may be left for {seconds(self.view.free_at(address) - now):.1f} s"
        return "taking", ""

    # ---- deciding ----

    def drain_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def decide(self, now: int, wall: float, may_claim: bool) -> None:
        """Look at every address, if anything changed or a time has come; then carry on with what was begun."""
        if self._session is None:
            return
        self._wall = wall
        if now >= self._next_decision:
            situation = situation_of(self.plan, self.view, wall)
            if (
                self.dirty
                or now >= self._due
                or situation != self._situation
                or may_claim != self._might_claim
                or self.view.own_changes != self._own_changes
            ):
                self._next_decision = now + PAUSE_NS * len(self.floatings)
                self._might_claim = may_claim
                self._look_at_all(now, situation)
        self._give(now)

    def _look_at_all(self, now: int, situation: Situation) -> None:
        self.dirty = False
        self._own_changes = self.view.own_changes
        self._due = now + LOOK_AGAIN_NS
        if not self._might_claim and self._has_nothing():
            self._must_plan = True
            return
        if self._may_plan:
            self._due = min(self._due, self._planned + PLAN_AGAIN_NS)
            self._must_plan |= now >= self._planned + PLAN_AGAIN_NS
        if self._must_plan or situation != self._situation:
            self._make_plan(now, situation)
        elif self._plan_done:
            # What came last is carried out first: a plan of thousands takes as long as putting hundreds up.
            self._plan_done, self._must_plan, self._due = False, True, now
        self.view.forget_holds(now)
        self._release_strangers()
        claims: list[list[str]] = []
        takes: list[Floating] = []
        shifts_allowed = now >= self._next_round
        for bundle in self._concerned():
            self._decide_bundle(now, bundle, shifts_allowed, claims, takes)
        self._remove_what_is_not_ours()
        self._claim(claims)
        for at in range(0, len(takes), KERNEL_ADDRESSES_MAX):
            part = takes[at : at + KERNEL_ADDRESSES_MAX]
            self._taking.update(floating.address for floating in part)
            self._actions.append(Take(tuple(part)))

    def _has_nothing(self) -> bool:
        """A node that waits has no need of a plan, as long as nothing is its own."""
        return not (self.present or self._giving or self._taking or self.view.owned_by(self.node))

    def _make_plan(self, now: int, situation: Situation) -> None:
        self._situation, self._planned = situation, now
        self._must_plan = self._may_plan = self._plan_done = False
        self.wishes = wishes_of(self.plan, self.view, situation)
        self._wanted = [bundle for bundle in self.plan.bundles if self.wishes[bundle.name].node == self.node]
        self._open = {name for name, wish in self.wishes.items() if wish.kind in ("take", "move", "shift")}

    def _concerned(self) -> list[Bundle]:
        """Bundles that this node is to have, or has something of."""
        bundle_of = self.plan.bundle_of
        others = {
            bundle.name: bundle
            for address in self.view.owned_by(self.node)
            if (bundle := bundle_of.get(address)) is not None and self.wishes[bundle.name].node != self.node
        }
        return [*self._wanted, *others.values()]

    def _mine(self, own: OwnSeen | None) -> bool:
        session = self._session
        return (
            own is not None
            and session is not None
            and own.record.node == self.node
            and own.record.session == session.revision
        )

    def _decide_bundle(
        self, now: int, bundle: Bundle, shifts_allowed: bool, claims: list[list[str]], takes: list[Floating]
    ) -> None:
        wish = self.wishes[bundle.name]
        leaving = wish.node not in (self.node, "") and (wish.kind != "shift" or shifts_allowed)
        if wish.kind == "shift" and not shifts_allowed:
            self._due = min(self._due, self._next_round)
        for unit in bundle.units:
            unowned = []
            for address in unit.addresses:
                own = self.view.owns.get(address)
                if own is None or not self._mine(own):
                    if wish.node == self.node and not self.view.owner(address):
                        unowned.append(address)
                elif self._is_given(address, own):
                    continue
                elif leaving and address not in self._taking:
                    self._start_giving(now, address, own, wish)
                elif address not in self.present and address not in self._taking:
                    self._consider(now, address, takes)
            if unowned and self._might_claim and bundle.name not in self._frozen():
                self._consider_claim(now, unowned, claims)

    def _frozen(self) -> Mapping[str, str]:
        return dict(self._situation.frozen) if self._situation is not None and self._situation.frozen else {}

    def _is_given(self, address: str, own: OwnSeen) -> bool:
        """Whether it is on its way out under this very record; a mark for an older record is dropped."""
        giving = self._giving.get(address)
        if giving is not None and giving.mod_revision != own.mod_revision:
            del self._giving[address]
            return False
        return giving is not None

    def _start_giving(self, now: int, address: str, own: OwnSeen, wish: Wish) -> None:
        self._giving[address] = Giving(own.mod_revision, removed=address not in self.present)
        if wish.kind == "shift":
            self.shifted(now)

    def _consider(self, now: int, address: str, takes: list[Floating]) -> None:
        """Take it, or note when that may be."""
        session, floating = self._session, self.floatings.get(address)
        if session is None or floating is None or address in self._removing:
            return
        at = max(self.view.free_at(address), self._retry.get(address, 0))
        if at > now:
            self._due = min(self._due, at)
        elif now < session.deadline:
            takes.append(floating)

    def _consider_claim(self, now: int, unowned: list[str], claims: list[list[str]]) -> None:
        waits = [self._claiming[address] for address in unowned if address in self._claiming]
        if any(wait == 0 for wait in waits):
            return
        if any(self._claimed.get(address, 0) > self.view.revision for address in unowned):
            return  # they are ours; the stream has yet to say so
        if waits and max(waits) > now:
            self._due = min(self._due, max(waits))
            return
        claims.append(unowned)

    def _release_strangers(self) -> None:
        """Owned by this session, but no longer in the configuration."""
        for address in self.view.owned_by(self.node):
            own = self.view.owns[address]
            if address not in self.plan.bundle_of and self._mine(own) and not self._is_given(address, own):
                self._giving[address] = Giving(own.mod_revision, removed=address not in self.present)

    def _remove_what_is_not_ours(self) -> None:
        doomed = []
        for address, floating in self.present.items():
            if address in self._removing:
                continue
            elsewhere = self.floatings.get(address, floating) != floating
            if address in self._giving or elsewhere or not self._mine(self.view.owns.get(address)):
                doomed.append(floating)
        self._removing.update(floating.address for floating in doomed)
        for at in range(0, len(doomed), COMMIT_ADDRESSES_MAX):
            self._actions.append(Remove(tuple(doomed[at : at + COMMIT_ADDRESSES_MAX])))

    # ---- the store ----

    def _give(self, now: int) -> None:
        """Hand over what the kernel said is gone: to the session of its next owner, or to nobody."""
        session = self._session
        assert session is not None
        ready: dict[str, list[str]] = {}
        for address, giving in list(self._giving.items()):
            own = self.view.owns.get(address)
            if own is None or not self._mine(own) or own.mod_revision != giving.mod_revision:
                del self._giving[address]  # given, or lost
                continue
            if not giving.removed or giving.committing or address in self.present or address in self._taking:
                continue
            if giving.retry > now:
                self._due = min(self._due, giving.retry)
                continue
            ready.setdefault(self._heir(address), []).append(address)
        for heir, addresses in ready.items():
            for at in range(0, len(addresses), COMMIT_ADDRESSES_MAX):
                self._give_part(session, heir, addresses[at : at + COMMIT_ADDRESSES_MAX])

    def _heir(self, address: str) -> str:
        bundle = self.plan.bundle_of.get(address)
        wish = self.wishes.get(bundle.name) if bundle is not None else None
        if wish is None or wish.node == self.node or wish.node not in self.view.sessions:
            return ""
        return wish.node

    def _give_part(self, session: Session, heir: str, addresses: list[str]) -> None:
        keys = self.view.keys
        compares = [Compare(keys.session(self.node), "create", session.revision)]
        compares += [Compare(keys.own(address), "mod", self._giving[address].mod_revision) for address in addresses]
        operations: list[Put | Delete] = [Delete(keys.own(address)) for address in addresses]
        if heir:
            revision = self.view.sessions[heir].revision
            compares.append(Compare(keys.session(heir), "create", revision))
            operations = [Put(keys.own(address), self._deed(address, heir, revision)) for address in addresses]
        for address in addresses:
            self._giving[address].committing = True
        self._actions.append(Commit("give", Txn(tuple(compares), tuple(operations)), tuple(addresses)))

    def _deed(self, address: str, heir: str, session: int) -> bytes:
        wish = self.wishes[self.plan.bundle_of[address].name]
        before = self.node if heir != self.node else self._former(address)
        generation, shifted = self.plan.settings.generation, wish.kind == "shift"
        return encode(OwnRecord(heir, session, generation, self._wall, before, wish.why, shifted))

    def _former(self, address: str) -> str:
        own = self.view.owns.get(address)
        return own.record.node if own is not None else ""

    def _claim(self, claims: list[list[str]]) -> None:
        """Claim whole units, as many in one transaction as fit."""
        part: list[str] = []
        former: set[str] = set()
        for addresses in claims:
            owners = {self._former(address) for address in addresses} - {""}
            full = len(part) + len(addresses) > self._claim_size
            if part and (full or len(former | owners) > FORMER_OWNERS_MAX):
                self._claim_part(part, former)
                part, former = [], set()
            part += addresses
            former |= owners
        if part:
            self._claim_part(part, former)

    def _claim_part(self, addresses: list[str], former: set[str]) -> None:
        session, keys = self._session, self.view.keys
        assert session is not None
        compares = [Compare(keys.session(self.node), "create", session.revision)]
        for node in sorted(former - {self.node}):
            # The session that owned it is gone; another of that node may live, and its number never comes again.
            seen = self.view.sessions.get(node)
            compares.append(Compare(keys.session(node), "create", seen.revision if seen else 0))
        for address in addresses:
            own = self.view.owns.get(address)
            compares.append(Compare(keys.own(address), "mod", own.mod_revision if own else 0))
            self._claiming[address] = 0
        puts = tuple(Put(keys.own(address), self._deed(address, self.node, session.revision)) for address in addresses)
        self._actions.append(Commit("claim", Txn(tuple(compares), puts), tuple(addresses)))
