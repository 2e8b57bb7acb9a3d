"""Who should have what: a pure function of what every node knows alike, so every node gets the same answer.

    assign(bundles, members, owners, pins, limits) -> {bundle: Wish(node, why, kind)}

It may be wrong without being unsafe: who *may* have an address is decided by the store, and for how long by the clock.

In this order, for each bundle:
 1. moved by an operator (a pin) -> there, if that node can
 2. its owner cannot have it any more, or it has none -> the best class of nodes that can, in it the order of
    preference, else so that the loads end up even for their weights; which of these gets which is said by a hash of
    node and name (rendezvous)
 3. its owner keeps it
 4. then, if nothing is on its way and every node is mature: failback (to a node higher in preference, if the group
    wants it and that node has been stable for long enough), and balance (from the most to the least loaded, while that
    makes the spread more even) - together at most `max_moves`

Which nodes can have a bundle, and how well, is said by `fitness.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vip.fitness import WORDS, Fitness, Member, fitness, why_unable, why_unfit
from vip.shares import affinity, shares
from vip.units import Bundle

Kind = Literal["keep", "take", "move", "shift", "nobody"]
OWNERLESS = "was without an owner"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may move without need, and when a node is mature. Seconds."""

    max_moves: int = 0
    mature: float = 5.0


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a bundle should be, the sentence that says why, and what that means for its owner.

    keep: it stays; take: it has no owner; move: its owner must give it away; shift: may give it away, nobody forces it;
    nobody: no node can have it.
    """

    node: str
    why: str
    kind: Kind


Owners = Mapping[str, str]
# What decides how a bundle fares: its blocks, checks and groups, and its owner.
Likeness = tuple[frozenset[str], frozenset[str], frozenset[str], str]


def assign(
    bundles: Sequence[Bundle],
    members: Iterable[Member],
    owners: Owners,
    pins: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    frozen: Mapping[str, str] | None = None,
) -> dict[str, Wish]:
    """A wish for every bundle. `owners`: bundle -> live owner; `frozen`: bundle -> why it must not be touched."""
    return _Assignment(bundles, members, owners, pins or {}, limits or Limits(), frozen or {}).run()


class _Assignment:
    """One run. `load` counts bundles by node, `wishes` grows to the answer."""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        members: Iterable[Member],
        owners: Owners,
        pins: Mapping[str, str],
        limits: Limits,
        frozen: Mapping[str, str],
    ) -> None:
        self.bundles = sorted(bundles, key=lambda bundle: bundle.name)
        self.members = {member.name: member for member in sorted(members, key=lambda member: member.name)}
        self.owners = {name: node for name, node in owners.items() if node in self.members}
        self.pins = pins
        self.limits = limits
        self.frozen = frozen
        self.load = dict.fromkeys(self.members, 0)
        self.wishes: dict[str, Wish] = {}
        self._classes: dict[Likeness, dict[str, Fitness]] = {}
        self._kept: dict[Likeness, Wish | None] = {}
        self._placed: dict[tuple[object, ...], Wish] = {}
        self._nobody: dict[Likeness, Wish] = {}

    def run(self) -> dict[str, Wish]:
        homeless = []
        for bundle in self.bundles:
            wish = self.settled(bundle)
            if wish is None:
                homeless.append(bundle)
            else:
                self.wish(bundle, wish)
        self.place(homeless)
        if self.quiet():
            left = self.fail_back(self.most_moves())
            self.balance(left)
        return self.wishes

    def wish(self, bundle: Bundle, wish: Wish) -> None:
        self.wishes[bundle.name] = wish
        if wish.node:
            self.load[wish.node] += 1

    # ---- one bundle ----

    def likeness(self, bundle: Bundle) -> Likeness:
        """Bundles that are alike in this fare alike: what is found for one of ten thousand holds for all."""
        return bundle.blocks, bundle.checks, bundle.groups, self.owners.get(bundle.name, "")

    def classes(self, bundle: Bundle) -> dict[str, Fitness]:
        """The class of every node that can have the bundle."""
        likeness = self.likeness(bundle)
        found = self._classes.get(likeness)
        if found is None:
            all_ = {name: self.fitness(bundle, member) for name, member in self.members.items()}
            found = {name: fitness for name, fitness in all_.items() if fitness is not None}
            self._classes[likeness] = found
        return found

    def fitness(self, bundle: Bundle, member: Member) -> Fitness | None:
        """The class of a node for a bundle; None when it cannot have it at all."""
        return fitness(bundle, member, self.owners.get(bundle.name) == member.name, self.limits.mature)

    def settled(self, bundle: Bundle) -> Wish | None:
        """The wish for a bundle that needs no search; None for one that needs a place."""
        if bundle.name in self.frozen:
            owner, why = self.owners.get(bundle.name, ""), self.frozen[bundle.name]
            return Wish(owner, f"stays with {owner}: {why}", "keep") if owner else Wish("", why, "nobody")
        if bundle.name in self.pins:
            pinned = self.pinned(bundle, self.owners.get(bundle.name, ""))
            if pinned is not None:
                return pinned
        likeness = self.likeness(bundle)
        if likeness not in self._kept:
            self._kept[likeness] = self.kept(bundle)
        return self._kept[likeness]

    def kept(self, bundle: Bundle) -> Wish | None:
        """The wish for a bundle whose owner keeps it."""
        owner = self.owners.get(bundle.name, "")
        if not owner:
            return None
        classes = self.classes(bundle)
        now = classes.get(owner)
        if now is Fitness.FIT:
            return Wish(owner, f"stays with {owner}, which is fit", "keep")
        best = min(classes.values(), default=None)
        if now is not None and best is not None and now <= best:
            return Wish(owner, f"stays with {owner}, which is {WORDS[now]}: no other node is better", "keep")
        if best is None:
            return Wish(owner, f"stays with {owner}, which cannot serve it: no node can", "keep")
        return None

    def pinned(self, bundle: Bundle, owner: str) -> Wish | None:
        node = self.pins.get(bundle.name, "")
        member = self.members.get(node)
        if member is None or self.fitness(bundle, member) in (None, Fitness.DRAINED):
            return None
        if node == owner:
            return Wish(node, f"moved to {node} by an operator", "keep")
        return Wish(node, f"an operator moves it to {node}", "move" if owner else "take")

    # ---- places for bundles without a usable owner ----

    def place(self, homeless: Sequence[Bundle]) -> None:
        """Each to a node of its best class: where it is preferred, else so that the loads end up even."""
        alike: dict[tuple[str, ...], list[Bundle]] = {}
        for bundle in homeless:
            candidates = self.candidates(bundle)
            preferred = [node for node in bundle.leader.prefer if node in candidates]
            if not candidates:
                self.wish(bundle, self.nobody(bundle))
            elif preferred:
                place = bundle.leader.prefer.index(preferred[0])
                self.wish(bundle, self.placed(bundle, preferred[0], place))
            else:
                alike.setdefault(candidates, []).append(bundle)
        # Whoever has the least choice goes first.
        for candidates in sorted(alike, key=lambda names: (len(names), names)):
            self.spread(alike[candidates], candidates)

    def candidates(self, bundle: Bundle) -> tuple[str, ...]:
        """The nodes of the best class."""
        classes = self.classes(bundle)
        best = min(classes.values(), default=None)
        return tuple(name for name, fitness in classes.items() if fitness is best)

    def spread(self, bundles: Sequence[Bundle], candidates: tuple[str, ...]) -> None:
        """Over these nodes. First how many each gets, then which: each goes to the first node of its own order
        (rendezvous) that has room. So what is left of a plan stays as it was while others carry out their parts of it,
        in whatever order: with nodes that claim at the same time nobody's claim is in another's way."""
        room = shares({name: (self.load[name], self.members[name].weight) for name in candidates}, len(bundles))
        for bundle in bundles:
            name = bundle.name
            node = min([node for node in candidates if room[node]], key=lambda node: affinity(node, name))
            room[node] -= 1
            self.wish(bundle, self.placed(bundle, node, None))

    def placed(self, bundle: Bundle, node: str, preference: int | None) -> Wish:
        """The wish for a bundle that gets a place; the same for all that are alike."""
        key = (*self.likeness(bundle), node, preference)
        if key not in self._placed:
            self._placed[key] = self.explained(bundle, node, preference)
        return self._placed[key]

    def explained(self, bundle: Bundle, node: str, preference: int | None) -> Wish:
        if preference is None:
            reason = f"{node} is among the least loaded for their weights"
        else:
            reason = f"{node} is number {preference + 1} of its preference"
        best = self.classes(bundle)[node]
        # The words are kept as long as the node owns it, so they must stay true when the moment is over.
        if best is not Fitness.FIT and not (best is Fitness.IMMATURE and self.all_new()):
            reason += f"; it was {WORDS[best]} when this was decided, and no node better"
        owner = self.owners.get(bundle.name, "")
        if owner:
            return Wish(node, f"{owner} gives it up ({why_unfit(bundle, self.members[owner])}); {reason}", "move")
        return Wish(node, f"{OWNERLESS}; {reason}", "take")

    def all_new(self) -> bool:
        """Whether no node is stable yet: then the whole cluster has just started, which is no news of any node."""
        return all(not member.stable(self.limits.mature) and not member.losses for member in self.members.values())

    def nobody(self, bundle: Bundle) -> Wish:
        likeness = self.likeness(bundle)
        if likeness not in self._nobody:
            self._nobody[likeness] = Wish("", self.why_nobody(bundle), "nobody")
        return self._nobody[likeness]

    def why_nobody(self, bundle: Bundle) -> str:
        if not self.members:
            return "no node is alive"
        reasons = [f"{name}: {why_unable(bundle, member)}" for name, member in self.members.items()]
        return "no node can have it: " + "; ".join(reasons[:8])

    # ---- what nobody forces ----

    def quiet(self) -> bool:
        """Nothing is on its way, and all nodes are stable and of one mind."""
        if any(wish.kind in ("take", "move") for wish in self.wishes.values()):
            return False
        return all(
            member.ready and not member.lacks and not member.older and member.stable(self.limits.mature)
            for member in self.members.values()
        )

    def most_moves(self) -> int:
        return self.limits.max_moves or max(1, len(self.bundles) // 20)

    def fail_back(self, most: int) -> int:
        """Bring bundles home to nodes they prefer; how many moves are left."""
        for bundle in self.bundles:
            if not most:
                break
            wish, leader = self.wishes[bundle.name], bundle.leader
            if not leader.prefer or wish.kind != "keep" or leader.failback != "auto" or self.held(bundle):
                continue
            better = leader.prefer[: leader.prefer.index(wish.node)] if wish.node in leader.prefer else leader.prefer
            home = next((name for name in better if self.is_home(bundle, name)), None)
            if home is None:
                continue
            why = f"goes home from {wish.node}: {home} is number {leader.prefer.index(home) + 1} of its preference"
            self.shift(bundle, home, f"{why} and has been stable for {leader.failback_after:g} s")
            most -= 1
        return most

    def is_home(self, bundle: Bundle, name: str) -> bool:
        member = self.members.get(name)
        if member is None or self.fitness(bundle, member) is not Fitness.FIT:
            return False
        return member.stable(bundle.leader.failback_after)

    def held(self, bundle: Bundle) -> bool:
        """Not to be moved without need."""
        return bundle.name in self.frozen or bundle.name in self.pins or not self.wishes[bundle.name].node

    def shift(self, bundle: Bundle, node: str, why: str) -> None:
        self.load[self.wishes[bundle.name].node] -= 1
        self.load[node] += 1
        self.wishes[bundle.name] = Wish(node, why, "shift")

    def balance(self, most: int) -> None:
        """From the most to the least loaded node, as long as that makes the spread more even."""
        movable = self.movable()
        while most:
            moved = self.even_out(movable)
            if moved is None:
                return
            most -= 1

    def movable(self) -> dict[str, list[Bundle]]:
        """By node, what may be moved away from it to balance: neither preferred nor held."""
        found: dict[str, list[Bundle]] = {name: [] for name in self.members}
        for bundle in self.bundles:
            wish = self.wishes[bundle.name]
            if wish.kind == "keep" and not self.held(bundle) and bundle.leader.failback == "auto":
                if bundle.leader.prefer and wish.node in self.preferred_alive(bundle):
                    continue
                if self.classes(bundle).get(wish.node) is Fitness.FIT:
                    found[wish.node].append(bundle)
        return found

    def preferred_alive(self, bundle: Bundle) -> set[str]:
        return set(bundle.leader.prefer) & set(self.members)

    def even_out(self, movable: dict[str, list[Bundle]]) -> Bundle | None:
        def by_load(name: str) -> tuple[float, str]:
            return self.load[name] / self.members[name].weight, name

        for source in sorted(self.members, key=by_load, reverse=True):
            heavy = self.load[source] / self.members[source].weight
            for target in sorted(self.members, key=by_load):
                if (self.load[target] + 1) / self.members[target].weight >= heavy:
                    break
                bundle = self.fitting(movable[source], target)
                if bundle is not None:
                    movable[source].remove(bundle)
                    many, few = self.load[source], self.load[target]
                    why = f"balance: {source} has {many} groups or single addresses, {target} only {few}"
                    self.shift(bundle, target, why)
                    return bundle
        return None

    def fitting(self, bundles: Sequence[Bundle], target: str) -> Bundle | None:
        """The first bundle that the target is fit for."""
        return next((bundle for bundle in bundles if self.classes(bundle).get(target) is Fitness.FIT), None)
