"""How the C library deals with memory that was freed, for a process that takes and frees large blocks all the time.

glibc takes blocks above a size from the kernel and gives them back one by one: the kernel clears every page of them
anew, and makes other threads wait while it changes what is mapped. So what was freed is kept for the next block, and
how much of it is bounded: for each arena, and by how many arenas threads share.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed(block_bytes: int, kept_bytes: int, arenas_max: int | None = None) -> None:
    """Keep what is freed for what comes next, where the C library knows how to.

    Blocks above `block_bytes` are taken from the kernel and given back as before; what is freed at the end of an arena
    and exceeds `kept_bytes` is given back; threads share `arenas_max` arenas, or as many as the library likes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, block_bytes)
        library.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        if arenas_max is not None:
            library.mallopt(_M_ARENA_MAX, arenas_max)
