"""How the C library deals with the memory of sums, for a process that answers queries.

Adding up segments takes and frees columns of some MiB, each for a millisecond or less, in several threads. glibc takes
blocks of that size from the kernel and gives them back one by one: the kernel clears every page of them anew, and
makes the other threads wait while it changes what is mapped. A cold query spends a sixth of its time so. So what was
freed is used again; how much of it stays is bounded, and small beside the cache.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# Larger blocks are taken from the kernel and given back, one by one: what is done with those takes longer than that.
BLOCK_BYTES = 16 << 20
# What is freed at the end of an arena and exceeds this is given back.
KEPT_BYTES = 32 << 20
# Threads share so many; each keeps as much by itself.
ARENAS_MAX = 4


def keep_freed_memory() -> None:
    """Keep what is freed for what is added up next, where the C library knows how to."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(_M_ARENA_MAX, ARENAS_MAX)
