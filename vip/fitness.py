"""Whether a node can have a bundle, how well, and in words why not.

Classes of nodes, best first; the last are taken only when there is no better: fit, immature (just started, or lost its
session lately), failing (a check says no), drained. A node without the link of a block cannot have its addresses at
all, nor one that is not ready, or whose configuration is older - except what it already has.

Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from vip.units import Bundle

# A node that lost its session f times lately is mature after `mature` times 2 to the f seconds, at most this.
MATURE_SECONDS_MAX = 900.0


class Fitness(IntEnum):
    """Classes of nodes, best first."""

    FIT = 0
    IMMATURE = 1
    FAILING = 2
    DRAINED = 3


WORDS = {
    Fitness.FIT: "fit",
    Fitness.IMMATURE: "not yet stable",
    Fitness.FAILING: "failing a check",
    Fitness.DRAINED: "drained",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A live node, as its session tells it."""

    name: str
    weight: float = 1.0
    drained: bool = False
    # Blocks whose link is down, and checks that fail, there.
    down: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    # It may put addresses up (it has waited for all former owners), and it is not stopping.
    ready: bool = True
    # Its configuration is older than one that was in force.
    older: bool = False
    # Seconds since its session began; sessions it lost lately.
    age: float = 1_000_000.0
    losses: int = 0
    # Groups that it does not have, or has otherwise than the node that computes.
    lacks: frozenset[str] = frozenset()

    def stable(self, after: float) -> bool:
        """Whether it is up for `after` seconds, or longer where it lost sessions lately."""
        return self.age >= mature_after(after, self.losses)


def mature_after(mature: float, losses: int) -> float:
    """Seconds a node must be up before it counts as stable."""
    return float(min(mature * 2.0 ** min(losses, 20), max(mature, MATURE_SECONDS_MAX)))


def fitness(bundle: Bundle, member: Member, owner: bool, mature: float) -> Fitness | None:
    """The class of a node for a bundle; None when it cannot have it at all. `owner`: it has it already."""
    if bundle.blocks & member.down:
        return None
    if not owner and (not member.ready or member.older or bundle.groups & member.lacks):
        return None
    if member.drained:
        return Fitness.DRAINED
    if bundle.checks & member.failing:
        return Fitness.FAILING
    if not owner and not member.stable(mature):
        return Fitness.IMMATURE
    return Fitness.FIT


def why_unfit(bundle: Bundle, owner: Member) -> str:
    """Why an owner is to give a bundle up."""
    if bundle.blocks & owner.down:
        return _no_link(bundle, owner)
    if owner.drained:
        return "drained"
    return f"failing {', '.join(sorted(bundle.checks & owner.failing))}"


def why_unable(bundle: Bundle, member: Member) -> str:
    """Why a node cannot have a bundle at all."""
    if bundle.blocks & member.down:
        return _no_link(bundle, member)
    if member.older:
        return "its configuration is older than one that was in force"
    if bundle.groups & member.lacks:
        return "its configuration has it not, or otherwise"
    return "waits until no former owner can be left, or stops"


def _no_link(bundle: Bundle, member: Member) -> str:
    return f"no link for {', '.join(sorted(bundle.blocks & member.down))}"
