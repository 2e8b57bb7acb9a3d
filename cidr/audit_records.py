"""Records of the log `audit`: counts that a program added up itself (`jlogd.audit`) before it logged them.

    audit1 <seconds> <series> <address>=<count> <address>=<count> ...

One line of text, at most `RECORD_BYTES_MAX`; `seconds` since 1970 UTC is when they were counted. Any program may write
such records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cidr.extract import SECONDS_MAX, parse_amount
from cidr.names import SERIES
from cidr.tallies import Seen

WORD = b"audit1"
_SECONDS = re.compile(rb"[0-9]{1,%d}" % (len(str(SECONDS_MAX)) - 1))


def read_record(record: bytes, seen: Seen) -> Iterator[tuple[str, bytes, int, int]]:
    """Series, address text, count and time of each entry; what is wrong is left out and noted in `seen`."""
    word, _, rest = record.partition(b" ")
    parts = rest.split(b" ", 2)
    if word != WORD or len(parts) != 3 or not _SECONDS.fullmatch(parts[0]):
        seen.left_out += 1
        return
    series = parts[1].decode("ascii", "replace")
    if not SERIES.fullmatch(series):
        seen.left_out += 1
        return
    when = int(parts[0])
    for entry in parts[2].split(b" "):
        address, _, amount = entry.rpartition(b"=")
        number = parse_amount(amount)
        if number is None or not address:
            seen.not_an_amount += 1
        else:
            yield series, address, number, when
