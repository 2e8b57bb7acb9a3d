"""Which freed memory a daemon keeps: that of messages.

Batches and deliveries are blocks of about a MiB that live for some milliseconds; taking each anew was half of the
processor time of a node that delivers. The watch gives back what is kept when memory is short.
"""

from __future__ import annotations

from jlogd.memory import keep_freed

# A delivery has two MiB, seldom more.
BLOCK_BYTES = 4 << 20
KEPT_BYTES = 16 << 20


def keep_freed_memory() -> None:
    """Keep what is freed for the next message."""
    keep_freed(BLOCK_BYTES, KEPT_BYTES)
