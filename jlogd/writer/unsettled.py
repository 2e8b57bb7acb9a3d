"""The batches of a writer that are not settled, in order: which of them the sink may have now, and which it has.

    add --> waiting --next--> with the sink --+--> accepted, or refused: settled, and forgotten
               ^                              '--> refused for now: nothing more is handed over
               '-- again, all of them in order, once the sink has none any more --'

The log takes whatever comes first from a producer that it does not know as its beginning. So the first batch of such a
writer travels alone: a second one must not be taken while the first one is refused.

Locking: none; the writer's `_changed` guards it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from jlogd.journal.batch import Batch
from jlogd.journal.types import Receipt


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A batch that is not settled, and the receipts that wait for it: where in the batch, and for whom."""

    batch: Batch
    futures: list[tuple[int, Future[Receipt]]]
    numbered: bool  # by this writer, which sends each of its positions once


class Unsettled:
    """See the module's text. `bytes`: of all `batches`; `awaited`: how many of them the sink has; `stalled`: one was
    refused for now."""

    def __init__(self, producer: int, introduced: bool) -> None:
        """`introduced`: the log knows the writer's `producer`."""
        self.batches: deque[Sent] = deque()  # the first `_handed` of them were handed to the sink, now or before
        self.bytes = 0
        self.awaited = 0
        self.stalled = False
        self._producer = producer
        self._introduced = introduced
        self._handed = 0
        self._resent = 0  # own batches that start below this position may have been sent before

    def add(self, sent: Sent) -> None:
        """One more, after all others."""
        self.batches.append(sent)
        self.bytes += sent.batch.size

    def next(self) -> Sent | None:
        """The next batch that the sink may have now, counted as handed over."""
        if self.stalled or self._handed == len(self.batches):
            return None
        sent = self.batches[self._handed]
        if self.awaited and not self._introduced and sent.batch.producer == self._producer:
            return None
        self._handed += 1
        self.awaited += 1
        return sent

    def may_be_repeated(self, sent: Sent) -> bool:
        """Whether the log may well have it already: it was sent before, or is numbered by somebody else."""
        return not sent.numbered or sent.batch.producer_from < self._resent

    def accepted(self, sent: Sent) -> None:
        """It is in the log."""
        self.awaited -= 1
        self._drop(sent)
        self._introduced |= sent.batch.producer == self._producer

    def refused(self, sent: Sent) -> list[Sent]:
        """It never will be, nor will those that were not handed over: what is settled by that."""
        self.awaited -= 1
        self._drop(sent)
        never = [self.batches.pop() for _ in range(len(self.batches) - self._handed)]
        self.bytes -= sum(each.batch.size for each in never)
        return [sent, *never]

    def refused_for_now(self) -> None:
        """One of those that the sink had was: no other one goes before it."""
        self.awaited -= 1
        self.stalled = True

    def again(self, position: int) -> None:
        """Hand all over anew; the sink has none. `position` is where the writer is."""
        self.stalled, self._handed = False, 0
        self._resent = position

    def take_back(self, lost: Iterable[Sent], position: int) -> None:
        """Hand those over anew of which nobody will say what became of them."""
        count = sum(each in self.batches for each in lost)
        self.awaited -= count
        self._handed -= count
        self._resent = position

    def _drop(self, sent: Sent) -> None:
        if self.batches[0] is sent:
            self.batches.popleft()
        else:
            self.batches.remove(sent)
        self._handed -= 1
        self.bytes -= sent.batch.size
