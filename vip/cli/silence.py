"""Which sessions are silent, as a command sees it: one that looks once has not been listening before.

A heartbeat carries the time of its sender's wall clock. Is that within the session's `wait` of ours, the session
counts as heard. Otherwise it is doubted, and listened to: it is silent once its heartbeat stood unchanged for the whole
`wait`, by our own clock; so a clock that is wrong costs a moment, never a wrong answer about a node that lives.

For people only: nothing that a daemon does depends on it. No locks; one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vip.clock import ns, seconds
from vip.view import SessionSeen, View

# What is waited at least, for sessions that do not say what others must wait.
WAIT_NS_MIN = ns(1.0)
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Heard:
    """The last heartbeat of a session: since when it stands here, and whether another one was seen before it."""

    session: int
    mod_revision: int
    since: int
    beats: bool


class Listener:
    """Remembers heartbeats from one look at the store to the next."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}

    def hear(self, view: View, now: int) -> None:
        """Take in one look."""
        self._heard = {name: self._next(seen, now) for name, seen in view.sessions.items()}

    def _next(self, seen: SessionSeen, now: int) -> Heard:
        known = self._heard.get(seen.node)
        if known is None or known.session != seen.revision:
            return Heard(seen.revision, seen.mod_revision, now, False)
        if known.mod_revision != seen.mod_revision:
            return Heard(seen.revision, seen.mod_revision, now, True)
        return known

    def undecided(self, view: View, now: int, wall: float) -> list[str]:
        """Nodes that must be listened to some more."""
        return [
            name
            for name, seen in view.sessions.items()
            if _doubted(seen, wall) and not self._heard[name].beats and now - self._heard[name].since < _wait(seen)
        ]

    def silent(self, view: View, now: int, wall: float) -> dict[str, str]:
        """Nodes whose session is silent, with the words for it."""
        return {
            name: _words(seen, wall)
            for name, seen in view.sessions.items()
            if _doubted(seen, wall) and now - self._heard[name].since >= _wait(seen)
        }


def listen(listener: Listener, look: Callable[[], tuple[View, int, float]]) -> dict[str, str]:
    """Look until every session is decided; at most its `wait`, and not at all when all were heard lately."""
    while True:
        view, now, wall = look()
        listener.hear(view, now)
        if not listener.undecided(view, now, wall):
            return listener.silent(view, now, wall)
        time.sleep(POLL_SECONDS)


def _wait(seen: SessionSeen) -> int:
    return max(seen.record.wait, WAIT_NS_MIN)


def _doubted(seen: SessionSeen, wall: float) -> bool:
    return abs(wall - seen.record.at) > seconds(_wait(seen))


def _words(seen: SessionSeen, wall: float) -> str:
    quiet = max(wall - seen.record.at, seconds(_wait(seen))) if seen.record.at else seconds(_wait(seen))
    return f"no heartbeat for {quiet:.0f} s: its daemon is dead, stopped, or has no way to the store"
