"""From the words of a command line to logs: the one place where commands open, create and list them.

A LOG is a directory (`var/spool/mainlog`) or an address (`tcp://127.0.0.1:5140/mainlog`,
`ipc:///run/jlogd.sock/mainlog`). A failure to find something is told with what is there instead: the log with nearly
that name, the logs of the spool that was named in place of one, the subscriber that was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import jlogd
from jlogd.cli.hints import near
from jlogd.cli.owner import act_as_owner
from jlogd.cli.params import given_keys
from jlogd.errors import JlogError, LogNotFound, SubscriberUnknown, UsageError
from jlogd.journal.layout import no_meta
from jlogd.journal.types import NAME, Settings, Start

if TYPE_CHECKING:
    from jlogd.log import Log

SCHEMES = ("tcp", "ipc")
# What makes a directory a log; see the description of the format.
LOG_FILE = "log.json"
# More names than this in an error message help nobody.
NAMES_SHOWN_MAX = 10


def open_log(target: str) -> Log:
    """The log at `target`; a missing one is a LogNotFound that says what to do."""
    if _is_remote(target):
        return _open_remote(target)
    path = _directory(target)
    if not (path / LOG_FILE).is_file():
        raise LogNotFound(_what_is_there(path))
    act_as_owner(path)
    return jlogd.open(path)


def create_log(target: str, settings: Settings, subscribers: Sequence[str]) -> None:
    """Make a log at `target`, and the directories above it."""
    if _is_remote(target):
        jlogd.create(target, settings, subscribers, **given_keys())
        return
    path = _directory(target)
    if path.is_dir() and path.samefile(".") and not any(path.iterdir()):
        raise UsageError(f"{path} is the directory you are in, and a log would take its place: name it from outside")
    act_as_owner(path)
    jlogd.create(path, settings, subscribers)


def local_directory(target: str, why: str) -> Path:
    """`target` as a directory that holds a log; an address is refused with the reason."""
    if _is_remote(target):
        raise UsageError(f"{target}: {why}")
    path = _directory(target)
    if not (path / LOG_FILE).is_file():
        raise LogNotFound(_what_is_there(path))
    return path


def logs_in(spool: Path) -> list[Path]:
    """The directories in `spool` that are logs, by name."""
    found = (path.parent for path in spool.glob(f"*/{LOG_FILE}"))
    return sorted(path for path in found if NAME.fullmatch(path.name))


def headless_in(place: str) -> list[Path]:
    """The directories in a spool that hold segments and no log file, by name; at an address, none are known."""
    if _is_remote(place):
        return []
    found = (path for path in _directory(place).iterdir() if NAME.fullmatch(path.name) and path.is_dir())
    return sorted(path for path in found if not (path / LOG_FILE).is_file() and any(path.glob("*.seg")))


def logs_at(place: str) -> list[str]:
    """The logs in a spool, or served at an address, as targets of `open_log`. Raises LogNotFound, RemoteError."""
    if _is_remote(place):
        address = place.rstrip("/")
        return [f"{address}/{name}" for name in _remote_names(address)]
    path = _directory(place)
    if not path.is_dir():
        raise LogNotFound(f"{place} is a file, not a spool" if path.exists() else f"there is no directory {place}")
    if (path / LOG_FILE).is_file():
        raise UsageError(f"{place} is a log, not a spool: jlogctl stat {place}, or jlogctl list {path.parent}")
    return [str(found) for found in logs_in(path)]


def start_in(log: Log, start: Start) -> Start:
    """`start` as the log takes it: -N becomes the number of the record N before the end."""
    if isinstance(start, int) and start < 0:
        stat = log.stat()
        return max(stat.next + start, stat.first)
    return start


@contextmanager
def subscribers_of(log: Log, *names: str | None) -> Iterator[None]:
    """Within it, an error about one of `names` not being there tells the one that was meant."""
    try:
        yield
    except SubscriberUnknown as error:
        hint = ""
        with suppress(JlogError, OSError):
            known = [subscriber.name for subscriber in log.subscribers()]
            asked = [name for name in names if name and name not in known]
            close = next((found for name in asked if (found := near(name, known))), "")
            if close:
                hint = f"; did you mean {close}?"
            elif not known:
                hint = f"; make one: jlogctl subscriber add {log.target} {(asked or ['NAME'])[0]}"
        raise SubscriberUnknown(f"{error}{hint}") from error


def _is_remote(target: str) -> bool:
    """Whether `target` names a daemon's log and not a directory. Raises UsageError for what is neither."""
    if not target.strip():
        raise UsageError("the name is empty; give a directory or an address")
    scheme, slashes, _ = target.partition("://")
    if slashes:
        if scheme not in SCHEMES:
            raise UsageError(f"{target!r}: an address begins with tcp:// or ipc://, anything else is a directory")
        return True
    scheme, colon, rest = target.partition(":")
    if colon and scheme in SCHEMES and not Path(target).exists():
        raise UsageError(f"{target!r} is no address; write {scheme}://{rest.lstrip('/')}")
    return False


def _open_remote(target: str) -> Log:
    try:
        return jlogd.open(target, **given_keys())
    except LogNotFound as error:
        address, _, name = target.rpartition("/")
        close = ""
        with suppress(JlogError):
            close = near(name, _remote_names(address))
        raise LogNotFound(f"{error}; did you mean {address}/{close}?" if close else str(error)) from None


def _remote_names(address: str) -> list[str]:
    from jlogd.wire.client import list_remote  # local commands start faster without the transport
    from jlogd.wire.credentials import Keys

    return sorted(list_remote(address, Keys(**given_keys())))


def _directory(target: str) -> Path:
    """`target` as a path that ends in a name: the directory's own for `.` and `..`."""
    if "\0" in target:
        raise UsageError("a path cannot hold a NUL byte")
    path = Path(target)
    return path if path.name not in ("", "..") else path.resolve()


def _what_is_there(path: Path) -> str:
    """Why `path` is not a log, and what to do."""
    if path.is_file():
        return f"{path} is a file, not a log; a log is a directory"
    if path.is_dir() and any(path.glob("*.seg")):
        return no_meta(path)
    inside = sorted(logs_in(path) + headless_in(str(path))) if path.is_dir() else []
    if inside:
        names = ", ".join(str(found) for found in inside[:NAMES_SHOWN_MAX])
        return f"{path} is a spool, not a log; name one of its logs: {names}"
    close = near(path.name, [found.name for found in logs_in(path.parent)])
    if close:
        return f"there is no log at {path}; did you mean {path.with_name(close)}?"
    held = "there is no log at" if not path.is_dir() else "there is no log in the directory"
    return f"{held} {path}; make one: jlogctl create {path}"
