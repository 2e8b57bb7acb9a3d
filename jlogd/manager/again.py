"""Whether the bytes that were set aside after a crash have come again: are they in what was written since?

    set aside   |----- the same -----|--- lines, in any order ---|
    written     |----- the same -----|--- ...                        PATH from the recorded length on, its next parts

In a file of one source the same bytes come again, one by one; what was set aside is read beside them, and nothing is
kept in memory. Where they differ (several sources share the file, and take turns in another order; or somebody else
appended) it goes on line by line: each line must come again as often as it is there, wherever. The last one, which may
have been cut off in the middle, must be the beginning of one that comes. What somebody else wrote and what came again
too is the same bytes, of which one copy stays.

Reads only what the ledger has. It is a question after a crash: it costs a round nothing but while it is open.
"""

from __future__ import annotations

from collections import Counter

from jlogd.manager.ledger import Aside, Ledger
from jlogd.manager.parts import part_number, part_path
from jlogd.manager.store import Store, TextFile

READ_BYTES = 1 << 20
# Compared at a time: a round waits for it.
STEP_BYTES = 16 << 20
# What can be ours is what one round had: its limit and a batch. More is not looked at line by line, for their hashes
# are in memory.
LINES_BYTES_MAX = 64 << 20
# What is ours comes again at once, or when its node is back; who has not found it in so much will not.
SEARCH_BYTES_MAX = 256 << 20


class Search:
    """See the module's text. `found`: all of it came again; `ended`: it is known, or not looked for any more."""

    def __init__(self, ledger: Ledger, aside: Aside) -> None:
        self.found = not aside.size
        self._over = False
        self._ledger = ledger
        self._aside = aside
        self._number = part_number(aside.path, aside.target)  # the part that is read, and from where
        state = ledger.file(aside.path)
        self._at = aside.at if state is not None and state.inode == aside.inode else 0
        self._same = 0  # bytes that came again, one by one
        self._line_at = 0  # where the line begins that is at its end
        self._lines: dict[int, int] | None = None  # hashes of the lines that are missing, and how often
        self._rest = b""  # the last line, if it has no end
        self._carry = b""  # the beginning of a line that was written
        self._searched = 0

    @property
    def ended(self) -> bool:
        return self.found or self._over

    def go_on(self, store: Store, side: TextFile) -> None:
        """Compare what was written meanwhile. Raises OSError, `LedgerFailed`."""
        read = 0
        while not self.ended and read < STEP_BYTES:
            data = self._written(store)
            if not data:
                return
            read += len(data)
            if self._lines is None:
                self._compare(side, data)
            else:
                self._strike(data)

    def _written(self, store: Store) -> bytes:
        """What follows of what was written; empty when there is no more yet."""
        target, path = self._aside.target, part_path(self._aside.target, self._number)
        state = self._ledger.file(path)
        length = state.length - self._at if state is not None and state.target == target else 0
        data = b""
        if length > 0 and state is not None and store.identity(path) == state.inode:
            file = store.open(path)
            try:
                data = file.pread(min(length, READ_BYTES), self._at)
            finally:
                file.close()
        if data or self._ledger.part(target) <= self._number:
            self._at += len(data)
            return data
        self._number, self._at = self._number + 1, 0
        return self._written(store)

    def _compare(self, side: TextFile, data: bytes) -> None:
        """One by one."""
        expected = side.pread(len(data), self._same)
        if not expected:  # someone made it shorter
            self._over = True
            return
        if data.startswith(expected):
            if b"\n" in expected:
                self._line_at = self._same + expected.rindex(b"\n") + 1
            self._same += len(expected)
            self.found = self._same >= self._aside.size
            return
        if self._aside.size - self._line_at > LINES_BYTES_MAX:
            self._over = True
            return
        missing = side.pread(self._aside.size - self._line_at, self._line_at)
        self._carry = missing[: self._same - self._line_at]
        *lines, self._rest = missing.split(b"\n")
        self._lines = dict(Counter(map(hash, lines)))
        self._strike(data)

    def _strike(self, data: bytes) -> None:
        """Take the lines that came from those that are missing."""
        assert self._lines is not None
        whole, end, self._carry = (self._carry + data).rpartition(b"\n")
        if end:
            for line in self._lines.keys() & (came := Counter(map(hash, whole.split(b"\n")))).keys():
                self._lines[line] -= came[line]
                if self._lines[line] <= 0:
                    del self._lines[line]
            if self._rest and (whole.startswith(self._rest) or b"\n" + self._rest in whole):
                self._rest = b""
        self._searched += len(data)
        self.found = not self._lines and not self._rest
        self._over = self._searched >= SEARCH_BYTES_MAX
