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

from cluster.types import TxnResult
from vip.actions import Action, Commit, Remove, Take, Taken
from vip.assign import Wish
from vip.claims import COMMIT_ADDRESSES_MAX, COMMIT_RETRY_NS, Claims, claim, gift
from vip.clock import SECOND, seconds
from vip.kernel.interface import Floating, Present
from vip.records import OwnRecord, encode
from vip.session import Session
from vip.situation import Plan, Situation, situation_of
from vip.units import Bundle
from vip.view import Change, OwnSeen, View
from vip.wishes import Wishes

# Addresses in one call to the kernel, so that nothing that matters more waits for long behind it.
KERNEL_ADDRESSES_MAX = 500
# A foreign host has it, or the kernel refused it: look again after this.
BLOCKED_RETRY_NS = 5 * SECOND
FAILED_RETRY_NS = SECOND
# Looking at an address costs some microseconds; between two looks at all of them there is this pause for each.
PAUSE_NS = 10_000
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
    present: dict[str, Floating] = field(default_factory=dict)
    _session: Session | None = None
    _taking: set[str] = field(default_factory=set)
    _removing: set[str] = field(default_factory=set)
    _claims: Claims = field(default_factory=Claims)
    _giving: dict[str, Giving] = field(default_factory=dict)
    _retry: dict[str, int] = field(default_factory=dict)  # address -> not to be taken before
    _foreign: dict[str, str] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _own_changes: int = 0
    _due: int = 0
    _next_decision: int = 0
    _next_round: int = 0
    _might_claim: bool = False
    _wall: float = 0.0
    _actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wishes = Wishes(self.plan, self.view, self.node)

    # ---- told ----

    def begin(self, session: Session) -> None:
        self._session = session
        self.dirty = True

    def end(self) -> None:
        """The session is lost: nothing that was begun counts any more. What is there is removed by `RemoveAll`."""
        self._session = None
        self._claims.clear()
        self._giving.clear()

    def configure(self, plan: Plan, floatings: dict[str, Floating]) -> None:
        self.plan, self.floatings = plan, floatings
        self.wishes.configure(plan)
        self.dirty = True

    def changed(self, changes: Iterable[Change]) -> None:
        """Addresses have other owners."""
        self.wishes.changed(changes)
        self.dirty = True

    def plan_again(self) -> None:
        """What is known was read anew."""
        self.wishes.think_again()
        self.dirty = True

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
            self._claims.answered(now, commit.about, result)
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
                or situation != self.wishes.situation
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
            self.wishes.think_again()
            return
        self._due = min(self._due, self.wishes.think(now, situation))
        self.view.forget_holds(now)
        self._release_strangers()
        claims: list[list[str]] = []
        takes: list[Floating] = []
        shifts_allowed = now >= self._next_round
        for bundle in self.wishes.concerned():
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
            if unowned and self._might_claim and bundle.name not in self.wishes.frozen:
                self._consider_claim(now, unowned, claims)

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
        at = self._claims.possible(unowned, self.view.revision)
        if at is not None and at > now:
            self._due = min(self._due, at)
        elif at is not None:
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
            ready.setdefault(self.wishes.heir(address), []).append(address)
        for heir, addresses in ready.items():
            for at in range(0, len(addresses), COMMIT_ADDRESSES_MAX):
                self._give_part(session, heir, addresses[at : at + COMMIT_ADDRESSES_MAX])

    def _give_part(self, session: Session, heir: str, addresses: list[str]) -> None:
        held, deeds = {}, {}
        for address in addresses:
            giving = self._giving[address]
            giving.committing = True
            held[address] = giving.mod_revision
            if heir:
                deeds[address] = self._deed(address, heir, self.view.sessions[heir].revision)
        txn = gift(self.view, session.revision, held, heir, deeds)
        self._actions.append(Commit("give", txn, tuple(addresses)))

    def _deed(self, address: str, heir: str, session: int) -> bytes:
        wish = self.wishes[self.plan.bundle_of[address].name]
        before = self.node if heir != self.node else self._former(address)
        generation, shifted = self.plan.settings.generation, wish.kind == "shift"
        return encode(OwnRecord(heir, session, generation, self._wall, before, wish.why, shifted))

    def _former(self, address: str) -> str:
        own = self.view.owns.get(address)
        return own.record.node if own is not None else ""

    def _claim(self, units: list[list[str]]) -> None:
        session = self._session
        assert session is not None
        for addresses, former in self._claims.portions(units, self._former):
            deeds = {address: self._deed(address, self.node, session.revision) for address in addresses}
            self._claims.sent(addresses)
            self._actions.append(Commit("claim", claim(self.view, session.revision, deeds, former), tuple(addresses)))
