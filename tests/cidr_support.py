"""Small stores, and queries against them, for the tests of `cidr`."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cidr_model import UTC as UTC_ZONE
from cidr_model import Model

# Friday the 25th of April 2008, noon UTC.
NOW = int(datetime(2008, 4, 25, 12, tzinfo=UTC).timestamp())


def at(text: str, zone: ZoneInfo = UTC_ZONE) -> int:
    """Seconds of YYYYMMDDTHHMMSS."""
    return int(datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=zone).timestamp())


def quarter(end: str, counts: dict[str, int]) -> tuple[int, int, dict[str, int]]:
    """A quarter of an hour that ends at a stamp."""
    return at(end) - 900, at(end), counts


# The synthetic vectors of the old documentation's digest: stamps name the end of an interval.
VECTORS = {
    "spam": [
        quarter("20080424T001500", {"10.0.0.1": 5, "10.0.0.2": 3}),
        quarter("20080424T003000", {"10.0.0.1": 2, "10.0.1.7": 4}),
        quarter("20080425T001500", {"10.0.0.1": 1}),
    ],
    "virus": [quarter("20080424T003000", {"10.0.0.2": 6, "192.0.2.9": 1})],
}
# The addresses of the old documentation's examples, with counts that give the numbers printed there.
PUBLISHED = {
    "spam": [
        quarter("20080424T120000", {"10.79.18.1": 14000, "10.79.18.2": 4421}),
        quarter("20080430T120000", {"10.79.18.1": 21217, "10.79.18.2": 20929, "10.79.18.3": 21000}),
    ],
    "virus": [
        quarter("20080424T120000", {"10.79.18.1": 71}),
        quarter("20080430T120000", {"10.79.18.1": 1193, "10.79.18.3": 2}),
    ],
}


def vectors() -> Model:
    return Model(VECTORS)


def published() -> Model:
    return Model(PUBLISHED)
