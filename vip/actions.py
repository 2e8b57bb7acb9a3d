"""What the deciding half wants done, and what it is told: plain values between `node.py` and whoever carries them out.

Whoever carries them out (the daemon, a simulation) keeps to this:
 - `Take`, `Remove`, `RemoveAll`, `Look` are carried out one after the other, in the order given; each is answered by
   one call of the same name on the node (`taken`, `removed`, ...), in that order.
 - `RemoveAll` drops every `Take` that was not begun (answered as failed), so it never waits behind them.
 - `Commit`s may overtake each other; each is answered once by `committed`, with the clock read *before* sending, and
   with None for an outcome that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.types import Txn
from vip.kernel.interface import Floating
from vip.view import Change

CommitKind = Literal["open", "former", "farewell", "end", "claim", "give", "conf", "unpin"]


@dataclass(frozen=True, slots=True)
class Commit:
    """Run a transaction."""

    kind: CommitKind
    txn: Txn
    # Addresses it is about, or the node or bundle.
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Take:
    """Probe, add what no foreign host has, announce it."""

    addresses: tuple[Floating, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a Take: failures with reasons, foreign hosts with their MAC; the rest is there."""

    addresses: tuple[Floating, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove these and wait for the kernel's word."""

    addresses: tuple[Floating, ...]


@dataclass(frozen=True, slots=True)
class RemoveAll:
    """Remove every address with our tag and wait for the kernel's word."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read back which addresses with our tag are there."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce all these again from the beginning."""

    addresses: tuple[Floating, ...]


@dataclass(frozen=True, slots=True)
class Beat:
    """Something that others should know has changed: do not wait for the next heartbeat."""


@dataclass(frozen=True, slots=True)
class Resync:
    """The stream has a hole: read everything again and call `sync`."""

    why: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Addresses have other owners now; `mine` are those this node took up or laid down."""

    changes: tuple[Change, ...]
    # It was so before this node looked for the first time.
    known: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """A sentence for people: what was decided, and why."""

    sentence: str
    level: Literal["info", "warning", "error"] = "info"


Action = Commit | Take | Remove | RemoveAll | Look | Announce | Beat | Resync | Changed | Say
