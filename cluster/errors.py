"""What can go wrong with a store. All are `JlogError`s; whoever asks decides whether to ask again."""

from __future__ import annotations

from jlogd.errors import JlogError


class StoreError(JlogError):
    """The store did not do what was asked."""

    code = "store"


class StoreUnavailable(StoreError):
    """The store could not be reached or has no quorum. Whether a change was made is unknown."""

    code = "store-unavailable"


class DeadlinePassed(StoreUnavailable):
    """The answer did not come in time. Whether a change was made is unknown."""

    code = "store-deadline"


class Compacted(StoreError):
    """A watch asked for changes that the store has forgotten: read everything again."""

    code = "store-compacted"


class WatchEnded(StoreUnavailable):
    """A watch broke; start another one after the last revision it delivered."""

    code = "store-watch-ended"


class StoreReplaced(StoreError):
    """Another cluster answers, or this one was set back: what was agreed before may not be known to it."""

    code = "store-replaced"


class StoreRefused(StoreError):
    """The store understood and refuses: no space, no permission, too large, or not valid."""

    code = "store-refused"


class NotLoggedIn(StoreRefused):
    """The store wants a user and a password, or other ones."""

    code = "store-login"
