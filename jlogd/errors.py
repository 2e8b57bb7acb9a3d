"""Every error jlogd raises on purpose: one root, small classes by domain.

Each message says what happened, where, and what to do next. `exit_code` is what a command ends with
(1 nothing found or not healthy, 2 wrong usage, 3 failed). `code` is the word that crosses the wire, so that a
remote failure is raised as the same class as a local one.
"""

from __future__ import annotations


class JlogError(Exception):
    """Root of all errors of jlogd."""

    exit_code = 3
    code = "failed"


class UsageError(JlogError):
    """The caller asked for something that is not accepted: a name, a number, an option."""

    exit_code = 2
    code = "usage"


class ConfigError(UsageError):
    """The configuration is wrong; the message names file, line and field."""

    code = "config"


class BadKey(UsageError):
    """A key is not one, or its file may not be used: missing, readable by others, not ours."""

    code = "bad-key"


class NotGranted(JlogError):
    """The daemon's configuration does not grant this client what it asked for."""

    code = "not-granted"


class LogNotFound(JlogError):
    """There is no log at that place."""

    exit_code = 1
    code = "log-not-found"


class LogExists(JlogError):
    """A log of that name is already there."""

    code = "log-exists"


class SubscriberUnknown(JlogError):
    """The log has no subscriber of that name."""

    exit_code = 1
    code = "subscriber-unknown"


class SubscriberExists(JlogError):
    """The log already has a subscriber of that name."""

    code = "subscriber-exists"


class SubscriberBusy(JlogError):
    """Another consumer holds that name; one consumer at a time."""

    code = "subscriber-busy"


class TooLarge(UsageError):
    """A record or a batch is over the limit."""

    code = "too-large"


class FormatError(JlogError):
    """Bytes on disk or on the wire are not what the format says.

    `path` and `offset` (bytes) say where, when known; `advice` what to do next.
    """

    code = "format"

    def __init__(self, message: str, path: str = "", offset: int | None = None, advice: str = "") -> None:
        where = f" in {path}" if path else ""
        at = f" at byte {offset}" if offset is not None else ""
        next_ = f"; {advice}" if advice else ""
        super().__init__(f"{message}{where}{at}{next_}")
        self.message = message
        self.path = path
        self.offset = offset


class CannotListen(JlogError):
    """An address cannot be listened on: it is in use, or not this machine's, or not allowed."""

    code = "cannot-listen"


class UnknownVersion(FormatError):
    """Sound bytes of a format that this version does not know: nothing is guessed."""

    code = "unknown-version"


class LockUnavailable(JlogError):
    """Locks do not work on this mount (ENOLCK, ENOSYS, ...): not the same as a lock held by another."""

    code = "lock-unavailable"


class SpoolUnfit(JlogError):
    """The mount of a spool does not do what a log needs; see `jlogctl check-spool`."""

    code = "spool-unfit"


class SpoolMissing(JlogError):
    """The spool that the configuration demands is not there: a mount is missing, or another one is in its place."""

    code = "spool-missing"


class SpoolInUse(JlogError):
    """Another daemon runs on the spool."""

    code = "spool-in-use"


class OwnedElsewhere(JlogError):
    """Another host owns the log."""

    code = "owned-elsewhere"


class Fenced(JlogError):
    """A newer epoch exists: this process no longer owns the log and must stop."""

    code = "fenced"


class LogFull(JlogError):
    """A subscriber with the policy `block` is at its cap: appends are refused until it moves."""

    code = "log-full"


class SpoolFull(JlogError):
    """The file system has no space (or the quota is used up); nothing was accepted."""

    code = "spool-full"


class LogInUse(JlogError):
    """Processes have the log open, and what was asked for needs it closed."""

    code = "log-in-use"


class MissingLibrary(JlogError):
    """What was asked for needs an optional library that is not installed; the message names the extra."""

    code = "missing-library"


class LogFailed(JlogError):
    """The log accepts nothing more until it is opened again: it was removed, or something failed that never should."""

    code = "log-failed"


class DiskFailed(LogFailed):
    """The disk failed twice in a row; the log accepts nothing until it was recovered, which is tried every second."""

    code = "disk-failed"


class ProducerGap(JlogError):
    """A numbered batch does not follow the last accepted one of its producer."""

    code = "producer-gap"


class Closed(JlogError):
    """The object was closed, or belongs to the process this one was forked from."""

    code = "closed"


class RemoteError(JlogError):
    """The daemon could not be reached, or answered something this client does not understand."""

    code = "remote"


class NotAuthenticated(RemoteError):
    """The keys of client and daemon do not fit: one does not know the other, or one of them has none."""

    code = "not-authenticated"


class ProtocolError(RemoteError):
    """The peer broke the protocol."""

    code = "protocol"


class SlowDown(RemoteError):
    """The daemon holds as much as it may for now; the same again a little later is accepted."""

    code = "slow-down"


class NoSession(RemoteError):
    """The daemon does not know this connection (any more); it must say hello first."""

    code = "no-session"


class NotServed(JlogError):
    """The daemon does not offer this operation to this client."""

    code = "not-served"


def _tree(root: type[JlogError]) -> dict[str, type[JlogError]]:
    """The errors of this module by code: what other parts of the house raise never crosses the wire."""
    found = {root.code: root}
    for child in root.__subclasses__():
        if child.__module__ == __name__:
            found.update(_tree(child))
    return found


def from_wire(code: str, message: str) -> JlogError:
    """The error a peer sent as `code` and `message`; an unknown code becomes a `RemoteError`."""
    return _tree(JlogError).get(code, RemoteError)(message)
