"""What the store and the engine refuse or find broken. The query language has errors of its own."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from jlogd.errors import JlogError, UsageError


def one_line(error: BaseException) -> str:
    """What a library says, which may be several lines, as part of a message of one."""
    return " ".join(str(error).split()).rstrip(".")


class UnknownSeries(JlogError):
    """The store has no series of that name."""

    exit_code = 1
    code = "unknown-series"

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else "" if known else "; the store holds no series at all"
        super().__init__(f'there is no series "{name}"{hint}')
        self.name = name
        self.known = tuple(known)


# A path that is not whole begins where the command is run.
NO_STORE = "give the base_dir of as_logger (--base-dir DIR), or its configuration (--config cidr.toml)"


class StoreNotFound(JlogError):
    """There is no store of counts in that directory."""

    exit_code = 1
    code = "store-not-found"


class SegmentDamaged(JlogError):
    """A segment of counts cannot be read, or is not what its checksums say."""

    code = "segment-damaged"


class SegmentGone(JlogError):
    """A segment that was in the catalogue is not in its directory any more."""

    code = "segment-gone"


class CatalogueBroken(JlogError):
    """The catalogue cannot be read or written."""

    code = "catalogue-broken"


class CatalogueDamaged(CatalogueBroken):
    """The file of the catalogue is not what was written; a rebuild moves it aside."""


class LoggerFenced(JlogError):
    """Another logger of the same origin has taken over; this one must stop."""

    code = "logger-fenced"


class GaveUp(JlogError):
    """A query took longer than it may."""

    code = "gave-up"


class TooManyRows(UsageError):
    """The answer would have more rows than whoever asked takes."""

    code = "too-many-rows"


class SumTooLarge(UsageError):
    """Counts that add up to more than the 64 bits of a column hold."""

    code = "sum-too-large"


class BadInput(UsageError):
    """A file to be imported does not hold what its format says; the message names the line."""

    code = "bad-input"
