"""Counting what was turned away, by reason and peer, in bounded memory whatever peers come up with.

Locking: `_mutex` guards the table; it is held for one look at a time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

# Peers that are told apart; whoever comes later is counted under OTHERS.
PEERS_MAX = 64
OTHERS = "others"
_PEER_CHARACTERS_MAX = 64
# The same about the same peer is worth a line in the daemon's log this often.
SAY_SECONDS = 60.0


class Tally:
    """Counts by (reason, peer). Reasons are words of the program, peers are whatever they are."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._peers: set[str] = set()
        self._said: dict[tuple[str, str], float] = {}

    def count(self, reason: str, peer: str, number: int = 1) -> bool:
        """`number` more of it; whether that is worth a line in the log."""
        peer = (peer or "unknown")[:_PEER_CHARACTERS_MAX]
        now = time.monotonic()
        with self._mutex:
            if peer not in self._peers:
                if len(self._peers) >= PEERS_MAX:
                    peer = OTHERS
                else:
                    self._peers.add(peer)
            self._counts[reason, peer] += number
            said = self._said.get((reason, peer))
            if said is not None and now - said < SAY_SECONDS:
                return False
            self._said[reason, peer] = now
            return True

    def counts(self) -> dict[tuple[str, str], int]:
        """What was counted so far."""
        with self._mutex:
            return dict(self._counts)
