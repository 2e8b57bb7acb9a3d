"""What every case is given: where to work, how long, the workers, and a way to say how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.crew import Crew


@dataclass(frozen=True, slots=True)
class Profile:
    """How much a run measures."""

    name: str
    slot_seconds: float  # one system's turn
    rounds: int
    slot_bytes: int  # and no more than this in one turn
    read_bytes: int  # of the log that is read back
    latency_seconds: float
    syslog_messages: int
    backlog_bytes: int


QUICK = Profile("quick", 0.1, 5, 128 << 20, 64 << 20, 2.0, 1_000_000, 1 << 30)
FULL = Profile("full", 0.3, 15, 512 << 20, 512 << 20, 20.0, 10_000_000, 10 << 30)


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances of a run."""

    directory: Path
    profile: Profile
    crew: Crew
    advance: Callable[[str], None]

    @property
    def slot_seconds(self) -> float:
        """Length of one system's turn."""
        return self.profile.slot_seconds

    @property
    def slot_bytes(self) -> int:
        """Most bytes appended in one turn."""
        return self.profile.slot_bytes

    @property
    def rounds(self) -> int:
        """Turns of each system."""
        return self.profile.rounds
