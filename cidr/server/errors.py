"""What only a server says."""

from __future__ import annotations

from jlogd.errors import JlogError, UsageError


class NotAllowed(JlogError):
    """The token may not see that."""

    code = "not-allowed"


class NoToken(JlogError):
    """The server wants a token, and this is none of its own."""

    code = "no-token"


class Busy(JlogError):
    """More queries wait than may; the same a little later is answered."""

    code = "busy"


class TooMuch(UsageError):
    """The request or the answer is over a limit."""

    code = "too-much"
