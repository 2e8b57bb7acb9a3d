"""The help of the language: for each word what it does, how it is written, and an example that is run by a test."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """A clause: its form, what it does, an example."""

    form: str
    text: str
    example: str


_ALL = "show count for 0.0.0.0/0 in spam"

TOPICS: dict[str, Topic] = {
    "show count": Topic(
        "show count for BLOCK, ... in SERIES, ... [CLAUSE ...]",
        "Counts of the addresses in the blocks, a column for each series. Clauses in any order, each once.",
        "show count for 10.0.0.0/8, 192.0.2.0/24 in spam, virus",
    ),
    "for": Topic(
        "for BLOCK, ... | all | list @FILE",
        "Blocks of either family, with their prefix length. all is 0.0.0.0/0 and ::/0. A file holds a block a line.",
        "show count for all in spam cidrsize 24/64",
    ),
    "in": Topic(
        "in SERIES | * | ~REGEX | union(A, B) | minus(A, B) | A minus B | ratio(A, B)",
        "What is counted: * is every series, ~regex those whose name it is found in; ratio divides row by row.",
        "show count for 0.0.0.0/0 in ~^spam, ratio(spam, union(spam, virus)) cidrsize 24",
    ),
    "in list": Topic(
        "in list @FILE",
        "Keeps of the blocks asked about what lies in the blocks of a file.",
        _ALL + " in list @blocks.txt",
    ),
    "since": Topic("since DATE", "From DATE up to the last whole minute.", _ALL + " since 20080423"),
    "on": Topic("on DATE", "The day of DATE, in the store's zone.", _ALL + " on 20080424"),
    "from": Topic(
        "from DATE to DATE",
        "From one instant up to another; a day means its first moment. Intervals that lie wholly in it count.",
        _ALL + " from 20080424T001500 to 20080424T003000",
    ),
    "date": Topic(
        "20080424 | 2008-04-24T12:00[:00][Z|+0200] | today | yesterday | now | -6h",
        "Without a zone, the store's. -1d12h is so long ago; units are s, m, h, d and w.",
        _ALL + " from 2008-04-24T00:00Z to 20080425",
    ),
    "cidrsize": Topic(
        "cidrsize N | A to B | V4/V6 | blocks",
        "Rows are blocks of this prefix length, 24 or 24/64 for both families; A to B: of all these lengths, nested; "
        "blocks: one row, the total, for each block asked about. Without it rows are addresses.",
        _ALL + " cidrsize 16 to 24",
    ),
    "aggregate": Topic(
        "aggregate [hourly | daily | monthly]",
        "A row for each hour, day or month of each block; alone: one total, as without it.",
        _ALL + " aggregate daily",
    ),
    "order by": Topic(
        "order by cidr | count | hosts | N | SERIES [ascending]",
        "By address, or the largest first: of the first column, of distinct hosts, of column N, of a series. "
        "Equal rows are ordered by address.",
        "show count for 0.0.0.0/0 in spam, virus order by virus",
    ),
    "limit": Topic("limit N", "At most N rows; with aggregate daily, N blocks.", _ALL + " order by count limit 10"),
    "threshold": Topic(
        "threshold N | N%",
        "Only rows whose first column is at least N. With heavy also a share of the total.",
        _ALL + " threshold 5",
    ),
    "distinct hosts": Topic(
        "distinct hosts", "A column: how many addresses of the row were counted.", _ALL + " cidrsize 24 distinct hosts"
    ),
    "percent": Topic(
        "percent", "A column: the row's share of the first column's total.", _ALL + " cidrsize 24 percent"
    ),
    "cumulative": Topic(
        "cumulative", "A column: the shares added up from the first row on.", _ALL + " order by count cumulative"
    ),
    "show heavy": Topic(
        "show heavy for BLOCK, ... in SERIES [threshold N | N%] [cidrsize A to B] [DATES] [limit N]",
        "The longest prefixes that hold at least N (1% of the total when nothing is said) once what is shown below "
        "them is taken away: where it comes from, each count explained once.",
        "show heavy for 0.0.0.0/0 in spam threshold 20%",
    ),
    "show top movers": Topic(
        "show top movers for BLOCK, ... in SERIES between DAY and DAY | A to B and C to D [cidrsize N] [limit N]",
        "What changed most from one time to another, longer times scaled to shorter ones.",
        "show top movers for 0.0.0.0/0 in spam between 20080424 and 20080425 cidrsize 24",
    ),
    "explain": Topic("explain show ...", "What a query would read, without asking it.", "explain " + _ALL),
    "show available": Topic("show available", "The series, and from when to when they were counted.", "show available"),
    "cache details": Topic("cache details", "What is held in memory, and the hit rate.", "cache details"),
}
