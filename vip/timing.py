"""How long things may take, and what follows from that. `docs/vip.md` has the arithmetic and the proof.

    heartbeat h   how often a session is renewed by a committed transaction
    window W      how long after *sending* a committed heartbeat its node may hold addresses
    lateness J    how late the kernel's gate may close after the deadline
    wait          how long a successor waits after it last saw the holder: wait >= (W (1 + r) + J) (1 + r)
    silence       after this without a heartbeat any member may end a session: wait and a little more

`r` (RATE_ERROR) bounds how differently two CLOCK_BOOTTIMEs may run.
"""

from __future__ import annotations

from dataclasses import dataclass

from vip.clock import MILLISECOND, ns

# Slewing by NTP is at most 500 ppm, plus what the crystals differ. In parts of one.
RATE_ERROR = 0.002
# What is added for rounding, and so that a session is ended after, not before, its addresses may be taken.
ROUNDING_NS = 10 * MILLISECOND
SILENCE_MORE_NS = 100 * MILLISECOND
# Heartbeats that may go missing in a row: fewer and a single lost packet moves addresses.
HEARTBEATS_MIN = 4
WINDOW_SECONDS_MIN = 1.0
WINDOW_SECONDS_MAX = 300.0

# name -> (heartbeat, window) in seconds. A window must outlive an election of etcd, or every hiccup of the store drops
# every address: 1 s election timeout -> up to 2 s without a leader.
PROFILES: dict[str, tuple[float, float]] = {
    "default": (0.5, 3.5),
    # For an etcd with --heartbeat-interval=50 --election-timeout=300 on one LAN.
    "lan": (0.2, 1.2),
    # For a store that is often restarted or far away: addresses outlive 20 s without it, and dead nodes as long.
    "patient": (1.0, 20.0),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """The numbers of one node. All in nanoseconds."""

    heartbeat: int
    window: int
    lateness: int

    @property
    def wait(self) -> int:
        """What a successor waits from its last sight of this node's heartbeat."""
        return round((self.window * (1 + RATE_ERROR) + self.lateness) * (1 + RATE_ERROR)) + ROUNDING_NS

    @property
    def silence(self) -> int:
        """After this without a heartbeat the session may be ended by anybody."""
        return silence_of(self.wait)

    @property
    def answer_within(self) -> int:
        """How long a heartbeat may take: late ones count from their sending, so patience costs nothing but D."""
        return max(self.window // 3, self.heartbeat)

    @property
    def stream_idle(self) -> int:
        """A watch silent for so long is broken: the own heartbeats alone would have been heard."""
        return max(3 * self.heartbeat, ns(1.0))

    @property
    def stall(self) -> int:
        """Two looks at the clock further apart than this: the process was held up."""
        return self.window // 4


def silence_of(wait: int) -> int:
    """When a session that published `wait` may be ended."""
    return wait + SILENCE_MORE_NS


def timing_of(profile: str, lateness: int, heartbeat: float = 0, window: float = 0) -> Timing:
    """A profile, with the given seconds in place of its own."""
    usual_heartbeat, usual_window = PROFILES[profile]
    return Timing(ns(heartbeat or usual_heartbeat), ns(window or usual_window), lateness)
