"""Taking batches in: what is checked, how much may be under way, and that no batch overtakes an earlier one.

A batch is checked without decoding it: header, both checksums, and that its length is what it says, so that nobody who
reads it later allocates what a header claims. Then it goes to the committer of its log; its outcome comes by mailbox.

Batches under way count as their bytes, and COST_MIN at least: those of one client, and those of all. Over either bound
a batch is refused for now. From then on no later batch of its producer is taken before it: a log that does not know a
producer lets it start anywhere, and would take the one before for a retry.

Locking: none; everything here belongs to the server's thread, except the call of an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable

import zstandard

from jlogd.daemon.served import Logs
from jlogd.daemon.session import Session
from jlogd.errors import Closed, FormatError, JlogError, NoSession, SlowDown
from jlogd.journal.batch import PLAIN, Batch, from_wire
from jlogd.journal.types import Receipt
from jlogd.wire.messages import COST_MIN

# Batches under way of all clients together: with their copies in ZeroMQ, most of the memory the daemon ever needs.
APPEND_BYTES_TOTAL = 64 << 20
# Producers of one client that were told to slow down and did not come back yet.
OWED_MAX = 1024


class Outcome:
    """What became of a batch; made when it is submitted, called by the committer."""

    __slots__ = ("cost", "id", "outcome", "put", "session")

    def __init__(self, put: Callable[[Outcome], None], session: Session, id_: int, cost: int) -> None:
        self.put = put
        self.session = session
        self.id = id_
        self.cost = cost
        self.outcome: Receipt | JlogError | None = None

    def __call__(self, outcome: Receipt | JlogError) -> None:
        self.outcome = outcome
        self.put(self)


class Intake:
    """See the module's text. `under_way`: bytes of batches that are not answered yet, as they count."""

    def __init__(self, logs: Logs, append_bytes: int, put: Callable[[Outcome], None]) -> None:
        """`append_bytes`: what one client may have under way; `put` is called with each outcome, by a committer."""
        self._logs = logs
        self._append_bytes = append_bytes
        self._put = put
        self.under_way = 0
        self.malformed = 0

    def take(self, session: Session, log: str, id_: int, frame: bytes | memoryview) -> None:
        """Hand one batch to its log's committer. Raises why not."""
        committer = self._logs.get(log).committer
        batch = self._checked(frame)
        cost = max(batch.size, COST_MIN)
        stream = (log, batch.producer)
        owed = session.owed.get(stream) if session.owed else None
        if owed is not None and batch.producer_from > owed:
            raise SlowDown("an earlier batch of this producer was refused; send that one first")
        mine, total = session.under_way + cost, self.under_way + cost
        if (mine > self._append_bytes and session.under_way) or (total > APPEND_BYTES_TOTAL and self.under_way):
            self._owe(session, stream, batch)
            raise SlowDown("too many batches are under way; wait for their answers")
        try:
            committer.submit(batch, Outcome(self._put, session, id_, cost))
        except Closed as error:
            self._owe(session, stream, batch)
            raise SlowDown("the daemon is shutting down") from error
        if owed is not None:
            del session.owed[stream]
        session.under_way, self.under_way = mine, total

    def settle(self, outcome: Outcome) -> None:
        """A batch is not under way any more."""
        outcome.session.under_way -= outcome.cost
        self.under_way -= outcome.cost

    def _owe(self, session: Session, stream: tuple[str, int], batch: Batch) -> None:
        if not stream[1]:
            return
        if len(session.owed) >= OWED_MAX and stream not in session.owed:
            raise NoSession("too many producers of this client were told to slow down; begin a new session")
        session.owed[stream] = batch.producer_from

    def _checked(self, frame: bytes | memoryview) -> Batch:
        try:
            batch = from_wire(frame)
            if batch.producer and batch.producer_from >= batch.producer_to:
                raise FormatError("the producer's positions do not grow", offset=32)
            declared = len(batch.body) if batch.codec == PLAIN else zstandard.frame_content_size(batch.body)
            if declared != batch.raw_bytes:
                raise FormatError("the body does not have the length its header claims", offset=16)
        except (FormatError, zstandard.ZstdError) as error:
            self.malformed += 1
            raise error if isinstance(error, FormatError) else FormatError(str(error)) from None
        return batch
