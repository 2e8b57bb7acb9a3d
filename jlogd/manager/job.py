"""What a round has for one file: its bytes, as they are, and the counts that go into the ledger with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jlogd.journal.batch import LINES, Batch
from jlogd.journal.disk import Buffer


@dataclass(slots=True)
class Job:
    """See the module's text. `sources` has records written and lost by source; `until` is when the date in the
    path is over, for a file that is made for this."""

    target: str
    until: int = 0
    buffers: list[Buffer] = field(default_factory=list)
    lines: int = 0
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, source: str, data: Sequence[Buffer], lines: int, records: int, lost: int) -> None:
        """More bytes, with so many newlines, of so many records."""
        self.buffers += data
        self.lines += lines
        before = self.sources.get(source, (0, 0))
        self.sources[source] = before[0] + records, before[1] + lost


def text_of(batch: Batch) -> tuple[list[Buffer], int]:
    """A batch as lines, and how many newlines they are. The body of *lines* is the text already."""
    if batch.encoding == LINES:
        body = batch.raw_body() if batch.codec else batch.body
        return [body, b"\n"], batch.count
    text = batch.text()
    return [text], text.count(b"\n")


def rest(buffers: list[Buffer], done: int) -> list[Buffer]:
    """What an append of `done` bytes left over."""
    for at, buffer in enumerate(buffers):
        if done < len(buffer):
            return [memoryview(buffer)[done:], *buffers[at + 1 :]]
        done -= len(buffer)
    return []
