"""What goes from the pulls to the outputs: parcels of batches, gaps and marks of one source, in order.

A mark is a line of the manager's own that stands where records are missing or something else is to be known. Marks are
written where the records would be, so that whoever reads the file sees it:

    --- jlogd: 4000 records of mainlog at east1 are missing here, 184501 to 188500: dropped at the cap of mgr1 ---
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jlogd.journal.batch import Batch, Gap
from jlogd.manager.template import Origin

WHY = {
    "dropped": "dropped at the subscriber's cap",
    "damaged": "damaged on the node's disk",
    "missing": "their segment is gone from the node",
    "passed": "the subscriber was moved past them, or another consumer took them",
}
# The reason a pull gives to a hole between what it has and what the node delivers.
PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Mark:
    """A line of the manager at sequence number `first`; it stands for no record."""

    first: int
    text: str

    @property
    def next(self) -> int:
        return self.first


Item = Batch | Gap | Mark


@dataclass(frozen=True, slots=True)
class Source:
    """One log of one node, pulled as one subscriber. `output` says where it goes."""

    origin: Origin
    subscriber: str
    output: str

    @property
    def key(self) -> str:
        """What it is called in the ledger."""
        return f"{self.origin.node}/{self.origin.log}/{self.subscriber}"

    def __str__(self) -> str:
        return f"{self.origin.log} at {self.origin.node}"


@dataclass(slots=True)
class Parcel:
    """Items of one source, in order; `uuid` is the identity of the log they are from, `bytes` what they hold in memory.

    `restart`: they do not follow what was pulled before, and that is known to be right (a new log, or a decision of a
    person); a mark says so in front of them. It is how often that had happened before, so that it happens once.
    `token` is for whoever put the parcel, `era` for outputs: how often the log had begun anew, in the ledger's count.
    """

    source: Source
    uuid: str
    items: Sequence[Item]
    bytes: int = 0
    restart: int | None = None
    token: int = 0
    era: int = 0

    @property
    def next(self) -> int:
        """Sequence number that follows the last item."""
        return self.items[-1].next


def gap_text(source: Source, gap: Gap) -> str:
    """The line that stands for records that will not come."""
    many = f"{gap.count} records" if gap.count != 1 else "1 record"
    verb = "are" if gap.count != 1 else "is"
    detail = f" ({gap.detail})" if gap.detail else ""
    why = WHY.get(gap.reason, gap.reason) + detail
    return mark_line(f"{many} of {source} {verb} missing here, {gap.first} to {gap.last}: {why}")


def mark_line(text: str) -> str:
    """A marked line, without its newline."""
    return f"--- jlogd: {' '.join(text.split())} ---"


def line_bytes(item: Gap | Mark, source: Source) -> bytes:
    """What is written for a gap or a mark, with its newline."""
    text = item.text if isinstance(item, Mark) else gap_text(source, item)
    return text.encode(errors="replace") + b"\n"
