"""How the C library deals with the memory of messages, for a process that is a daemon.

Batches and deliveries are blocks of about a MiB that live for some milliseconds. glibc takes blocks of that size from
the kernel one by one and gives them back one by one, and the kernel clears every page of them anew: half of the
processor time of a node that delivers. So a little of what was freed is kept for the next message. What is kept is
bounded for each of the C library's arenas, and the watch gives it back when memory is short.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Larger blocks are taken from the kernel and given back, one by one: a delivery has two MiB, seldom more.
BLOCK_BYTES = 4 << 20
# What is freed at the end of an arena and exceeds this is given back.
KEPT_BYTES = 16 << 20


def keep_freed_memory() -> None:
    """Keep what is freed for the next message, where the C library knows how to."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
