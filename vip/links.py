"""Which links count as up: one that lost its carrier is down at once, and up again only when it stayed so.

No locks; one thread.
"""

from __future__ import annotations

from vip.clock import SECOND

# A link that flickers would move addresses to and fro; a switch that starts may also not forward for some seconds.
STABLE_NS = 3 * SECOND


class Links:
    """Remembers when links came back."""

    def __init__(self) -> None:
        self._known = False
        self._since: dict[str, int] = {}  # up since, by name; 0: since before we looked

    def stable(self, now: int, up: set[str]) -> set[str]:
        """Of the links that are `up`, those that count."""
        first = 0 if not self._known else now
        self._since = {name: self._since.get(name, first) for name in up}
        self._known = True
        return {name for name, since in self._since.items() if not since or now - since >= STABLE_NS}
