"""What a repair is going to do: found by `diagnose`, carried out by `repair`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from jlogd.journal.head import Head
from jlogd.journal.layout import Meta
from jlogd.journal.slots import SLOT_BYTES, STRIDE

# A state file has this length from the moment it is made.
STATE_BYTES = STRIDE + SLOT_BYTES
# rewritten: in place, from what is left of it; rebuilt: from the segments; made: it was missing; moved: taken out;
# recovered: the end of the log, found anew as after a crash
Action = Literal["rewritten", "rebuilt", "made", "moved", "recovered"]
# How to find the end of the log: not at all, as after a crash, or without believing the head.
Recovery = Literal["", "recover", "restart"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a repair does. `path` is relative to the log; `bytes` and `records` are what a file held that is
    moved, or the length of one that is changed."""

    path: str
    action: Action
    why: str
    bytes: int = 0
    records: int = 0


@dataclass(frozen=True)
class StateFile:
    """A two-slot file to be written: what is to stand in it."""

    path: Path
    kind: bytes
    payload: bytes


@dataclass
class Plan:
    """What is to be done, in the words of `steps` and in terms of files."""

    steps: list[Step] = field(default_factory=list)
    copied: list[Path] = field(default_factory=list)  # kept as they were before they are changed
    moved: list[Path] = field(default_factory=list)
    meta: Meta | None = None  # the `log.json` to be written
    make_subscribers: bool = False
    states: list[StateFile] = field(default_factory=list)
    recovery: Recovery = ""
    head: Head | None = None  # the best one known
