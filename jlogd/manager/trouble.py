"""Trouble: why something is not written, and when it is tried again, after pauses that grow."""

from __future__ import annotations

from dataclasses import dataclass

# Pauses before something that failed is tried again: a full disk is looked at often enough, and not all the time.
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 30.0


@dataclass(slots=True)
class Trouble:
    """Why a source waits, since when, and until when (both monotonic seconds)."""

    error: str
    since: float
    until: float
    pause: float


def longer(before: Trouble | None, error: str, now: float) -> Trouble:
    """What follows `before`, of the same thing, at `now`."""
    pause = RETRY_SECONDS_MIN if before is None else min(2 * before.pause, RETRY_SECONDS_MAX)
    return Trouble(error, now if before is None else before.since, now + pause, pause)
