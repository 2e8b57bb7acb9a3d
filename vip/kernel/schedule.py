"""When which address is announced: pure, on a clock that is handed in.

An address is announced `times`, `gap` apart, then every `refresh`. Linux hosts ignore a change of a neighbour within a
second of the last (`locktime`), so the repetitions are more than a second apart, and the first alone may not be enough.

    due first: rank 0 (first announcement)   rank 1 (repetition)   rank 2 (refresh)
    within a rank: who has waited longest

What is due is handed out in small portions, as a budget of packets allows, so a new address never waits behind ten
thousand refreshes. A gap is counted from when an announcement went out, not from when it should have.

    state of an address: (round, token)      a token that is not the latest is a leftover in a heap: skipped

No locks: the announcer holds its own around every call.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

_FIRST, _REPETITION, _REFRESH = range(3)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """`times` in all, `gap_ns` apart, then every `refresh_ns`."""

    times: int
    gap_ns: int
    refresh_ns: int


class Schedule:
    """Which of our addresses, of 4 or 16 bytes, is to be announced when."""

    def __init__(self, rhythm: Rhythm) -> None:
        self._rhythm = rhythm
        self._waiting: tuple[list[tuple[int, int, bytes]], ...] = ([], [], [])
        self._state: dict[bytes, tuple[int, int]] = {}
        self._token = 0

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, key: bytes) -> bool:
        return key in self._state

    def start(self, keys: Iterable[bytes], now: int) -> None:
        """Announce these from the beginning, at once."""
        for key in keys:
            self._put(key, 0, now)

    def stop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._state.pop(key, None)

    def restart(self, now: int) -> None:
        """All from the beginning: after a stall, when others may have spoken meanwhile."""
        self.start(list(self._state), now)

    def take(self, count: int, now: int) -> list[bytes]:
        """At most `count` keys that are due, the most urgent first; each counts as announced now."""
        taken: list[bytes] = []
        for heap in self._waiting:
            while heap and heap[0][0] <= now and len(taken) < count:
                _, token, key = heapq.heappop(heap)
                state = self._state.get(key)
                if state is None or state[1] != token:
                    continue
                taken.append(key)
                done = min(state[0] + 1, self._rhythm.times)
                ended = done >= self._rhythm.times
                self._put(key, done, now + (self._rhythm.refresh_ns if ended else self._rhythm.gap_ns))
        return taken

    def next_due(self) -> int | None:
        """When something is due next (possibly a leftover); None when nothing is announced."""
        return min((heap[0][0] for heap in self._waiting if heap), default=None)

    def _put(self, key: bytes, done: int, due: int) -> None:
        self._token += 1
        self._state[key] = (done, self._token)
        rank = _FIRST if done == 0 else _REPETITION if done < self._rhythm.times else _REFRESH
        heapq.heappush(self._waiting[rank], (due, self._token, key))


class Budget:
    """A bucket of packets: filled at `rate` a second, holding at most a tenth of a second's worth (at least eight).

    A burst is as short as a switch's storm control looks at, and what waited while nothing was sent is not caught up.
    """

    def __init__(self, rate: int, now: int) -> None:
        self._rate = rate
        self._most = max(8.0, rate / 10)
        self._has = self._most
        self._at = now

    def allowed(self, now: int) -> int:
        """Packets that may be sent now."""
        self._has = min(self._most, self._has + (now - self._at) / 1e9 * self._rate)
        self._at = now
        return int(self._has)

    def spend(self, packets: int) -> None:
        self._has -= packets

    def wait_ns(self, packets: int) -> int:
        """How long until so many may be sent."""
        return max(0, int((packets - self._has) / self._rate * 1e9))
