"""What a check of a spool's directory says: one line each, with the reason and what to do.

PASS     shown here and now to do what a spool needs.
FAIL     shown not to: records or locks can be lost there. A daemon refuses the directory.
UNKNOWN  cannot be shown from here, or is weaker than one may expect; the line says who can tell.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Literal

import msgspec

Status = Literal["PASS", "FAIL", "UNKNOWN"]
Number = int | float | str | bool

# Only these two mean "somebody else has it": every other error of a lock call means that locks do not work.
CONTENDED = (errno.EAGAIN, errno.EACCES)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Of two names of one number, the one that manuals use.
_NAMES = {errno.EAGAIN: "EAGAIN", errno.EOPNOTSUPP: "EOPNOTSUPP"}


class Finding(msgspec.Struct, frozen=True):
    """One line of the verdict. `check` names it for programs; `numbers` holds what was measured, units in the names."""

    check: str
    status: Status
    reason: str
    remedy: str = ""
    numbers: dict[str, Number] = {}

    @property
    def failed(self) -> bool:
        return self.status == "FAIL"

    @property
    def cut_short(self) -> bool:
        """Whether a full disk kept this from being tried: it then says nothing about the mount."""
        return bool(self.numbers.get("no_room"))


def passed(check: str, reason: str, **numbers: Number) -> Finding:
    """A line that says it works."""
    return Finding(check, "PASS", reason, "", numbers)


def failed(check: str, reason: str, remedy: str, **numbers: Number) -> Finding:
    """A line that says it does not."""
    return Finding(check, "FAIL", reason, remedy, numbers)


def unknown(check: str, reason: str, remedy: str, **numbers: Number) -> Finding:
    """A line that says it cannot be told from here."""
    return Finding(check, "UNKNOWN", reason, remedy, numbers)


def call_failed(check: str, what: str, number: int, remedy: str) -> Finding:
    """A line that says that an operation which must work did not. A full disk is no fault of the mount."""
    if number in NO_ROOM:
        again = "make room, then run jlogctl check-spool"
        return Finding(check, "UNKNOWN", f"{what}: there is no room to try it", again, {"no_room": True})
    return failed(check, what, remedy)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those that failed."""
    return [one for one in findings if one.failed]


def error_text(number: int) -> str:
    """EAGAIN (resource temporarily unavailable)."""
    name = _NAMES.get(number) or errno.errorcode.get(number, str(number))
    return f"{name} ({os.strerror(number).lower()})"
