"""What of a file may be cut off after a round that failed: only what is provably what that round appended.

    recorded | a beginning of ours               all of it goes: back to the recorded length
    recorded | of others | what we appended      ours goes; what others wrote stays, and the file is theirs from now on
    recorded | anything else                     nothing goes: no byte could be taken away without taking one of theirs

The proof is the contents, byte for byte. That others wrote the very same bytes is no loss: one of the two stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from jlogd.journal.disk import Buffer
from jlogd.manager.store import TextFile

# How much of a file is compared at a time.
COMPARE_BYTES = 1 << 20


def length_without(file: TextFile, recorded: int, ours: Sequence[Buffer], done: int) -> int:
    """The length that a file has without what a failed round appended behind `recorded` bytes; it is that of the file
    when nothing may go. The round was to append `ours`, and was told that `done` bytes of it were; it may have been
    more."""
    size = file.size()
    if size <= recorded:
        return size
    if _holds(file, recorded, ours, size - recorded):
        return recorded
    if 0 < done <= size - recorded and _holds(file, size - done, ours, done):
        return size - done
    return size


def _holds(file: TextFile, at: int, ours: Sequence[Buffer], length: int) -> bool:
    """Whether the file has the first `length` bytes of `ours` at `at`."""
    for buffer in ours:
        view = memoryview(buffer)[:length]
        for start in range(0, len(view), COMPARE_BYTES):
            piece = view[start : start + COMPARE_BYTES]
            if file.pread(len(piece), at) != piece:
                return False
            at += len(piece)
        length -= len(view)
    return not length
