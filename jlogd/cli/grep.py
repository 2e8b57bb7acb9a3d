"""Records of a batch that match a regular expression.

For a body of lines the expression runs once over the whole body, in C, and Python sees only the lines with a match.
That is exact when a match within a line is also found, not later, in the whole body; so expressions for which that
may fail (`\\A`, `\\Z`, look-arounds, atomic and possessive parts) are tried record by record. A match over the whole
body may begin in one line and end in another, so each line found is tried again by itself.
"""

from __future__ import annotations

import re

from jlogd.errors import UsageError
from jlogd.journal.batch import LINES, Batch

# A longer expression is a file by mistake.
PATTERN_BYTES_MAX = 64 << 10
_PER_RECORD = re.compile(rb"\\[AZ]|\(\?(?!:|P[<=]|[aiLmsux]+\))|[*+?}]\+|\\[1-9]")


class Grep:
    """A compiled expression; `find` gives the matching records with their index in the batch."""

    def __init__(self, pattern: str) -> None:
        raw = pattern.encode(errors="surrogateescape")
        if len(raw) > PATTERN_BYTES_MAX:
            raise UsageError(f"the expression has {len(raw)} bytes; the limit is {PATTERN_BYTES_MAX}")
        try:
            self._search = re.compile(raw, re.MULTILINE).search
            self._search_one = re.compile(raw).search
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
        self._whole = _PER_RECORD.search(raw) is None

    def find(self, batch: Batch) -> list[tuple[int, bytes]]:
        """(index, record) of the records that match, in order."""
        if batch.encoding == LINES and self._whole:
            return self._find_in_lines(batch.raw_body())
        search = self._search_one
        return [(at, record) for at, record in enumerate(batch.records()) if search(record)]

    def _find_in_lines(self, body: bytes) -> list[tuple[int, bytes]]:
        found = []
        index = counted_to = position = 0
        while position <= len(body) and (match := self._search(body, position)):
            start = body.rfind(b"\n", position, match.start()) + 1 or position
            end = body.find(b"\n", match.start())
            end = len(body) if end < 0 else end
            index += body.count(b"\n", counted_to, start)
            counted_to = start
            line = body[start:end]
            if self._search_one(line):
                found.append((index, line))
            position = end + 1
        return found
