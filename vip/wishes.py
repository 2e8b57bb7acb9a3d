"""Where everything should be, as far as was thought last; and when it is to be thought over.

While others carry out their parts of a plan as they should, a new one would say the same. So one is made only when the
situation is another, something was done otherwise, all of it is done, or some time has passed.

No locks; one thread, that of `Node`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vip.assign import Wish
from vip.clock import SECOND
from vip.situation import Plan, Situation, wishes_of
from vip.units import Bundle
from vip.view import Change, View

PLAN_AGAIN_NS = 2 * SECOND
NEVER = 1 << 63


@dataclass
class Wishes:
    """A wish for every bundle, and what of that concerns this node."""

    plan: Plan
    view: View
    node: str
    situation: Situation | None = None
    frozen: frozenset[str] = frozenset()  # bundles that must not be touched
    _wishes: dict[str, Wish] = field(default_factory=dict)
    _wanted: list[Bundle] = field(default_factory=list)  # what is to be here
    _open: set[str] = field(default_factory=set)  # what is to be elsewhere than it was, and has not come there
    _must: bool = True
    _may: bool = False
    _done: bool = False
    _made: int = 0

    def __getitem__(self, bundle: str) -> Wish:
        return self._wishes[bundle]

    def get(self, bundle: str) -> Wish | None:
        return self._wishes.get(bundle)

    def configure(self, plan: Plan) -> None:
        self.plan, self.situation = plan, None

    def changed(self, changes: Iterable[Change]) -> None:
        """Addresses have other owners: as was wished, or otherwise, so that all is to be thought over."""
        for change in changes:
            bundle = self.plan.bundle_of.get(change.address)
            if bundle is None:
                continue
            wish = self._wishes.get(bundle.name)
            if wish is None or wish.node != change.after:
                self._must = True
            elif bundle.name in self._open:
                self._open.discard(bundle.name)
                self._done |= not self._open
        self._may = True

    def think_again(self) -> None:
        """Before the next look at anything."""
        self._must = True

    def think(self, now: int, situation: Situation) -> int:
        """Think it over if that is due; when to look again for it."""
        again = self._made + PLAN_AGAIN_NS if self._may else NEVER
        if self._must or now >= again or situation != self.situation:
            self._make(now, situation)
        elif self._done:
            # What came last is carried out first: a plan of thousands takes as long as putting hundreds up.
            self._done, self._must, again = False, True, now
        return again

    def concerned(self) -> list[Bundle]:
        """Bundles that this node is to have, or has something of."""
        bundle_of = self.plan.bundle_of
        others = {
            bundle.name: bundle
            for address in self.view.owned_by(self.node)
            if (bundle := bundle_of.get(address)) is not None and self._wishes[bundle.name].node != self.node
        }
        return [*self._wanted, *others.values()]

    def heir(self, address: str) -> str:
        """To whom this node is to hand it over; "" for nobody, or nobody who lives."""
        bundle = self.plan.bundle_of.get(address)
        wish = self._wishes.get(bundle.name) if bundle is not None else None
        if wish is None or wish.node == self.node or wish.node not in self.view.sessions:
            return ""
        return wish.node

    def _make(self, now: int, situation: Situation) -> None:
        self.situation, self._made = situation, now
        self._must = self._may = self._done = False
        self.frozen = frozenset(name for name, _ in situation.frozen)
        self._wishes = wishes_of(self.plan, self.view, situation)
        self._wanted = [bundle for bundle in self.plan.bundles if self._wishes[bundle.name].node == self.node]
        self._open = {name for name, wish in self._wishes.items() if wish.kind in ("take", "move", "shift")}
