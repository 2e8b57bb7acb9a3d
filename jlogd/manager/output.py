"""What an output is: the place records go to. Files are one kind of several behind this interface.

    write(parcels)       everything durable at its place, or an error; the ledger is written next
    settled(changes)     the ledger has it
    (an error)           the same parcels come again, to this or to a fresh output: what was written is to be undone, or
                         known again

An output belongs to the thread of the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jlogd.errors import JlogError
from jlogd.manager.ledger import Changes
from jlogd.manager.parcel import Parcel


class OutputFailed(JlogError):
    """What was to be written could not be; it is tried again."""

    code = "output-failed"


class Output(Protocol):
    """See the module's text."""

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        """Make the parcels durable; what the ledger is to remember of it. Raises `OutputFailed` or OSError."""

    def settled(self, changes: Changes) -> None:
        """The ledger has the changes."""

    def idle(self, now: float) -> Changes:
        """Called when there is time; what the ledger is to remember of what was done. `now` is seconds since 1970."""

    def reset(self) -> None:
        """Forget everything that is not in the ledger: it was opened anew."""

    def close(self) -> Changes:
        """Let go; what the ledger is to remember at the end."""

    def stats(self) -> dict[str, int]:
        """Counters, for metrics. From any thread."""
