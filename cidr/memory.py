"""Which freed memory a process that answers queries keeps: that of sums.

Adding up segments takes and frees columns of some MiB, each for a millisecond or less, in several threads; taking each
anew was a sixth of a cold query. What stays is small beside the cache.
"""

from __future__ import annotations

from jlogd.memory import keep_freed

# What is done with larger columns takes longer than to get them.
BLOCK_BYTES = 16 << 20
KEPT_BYTES = 32 << 20
ARENAS_MAX = 4


def keep_freed_memory() -> None:
    """Keep what is freed for what is added up next."""
    keep_freed(BLOCK_BYTES, KEPT_BYTES, ARENAS_MAX)
