"""`jlogd.open` and `jlogd.create`: from the name of a log, a directory or an address, to the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jlogd.journal.journal import Journal
from jlogd.journal.types import Settings
from jlogd.log import LocalLog, Log


def is_address(target: str) -> bool:
    """Whether `target` names a log behind a daemon rather than a directory."""
    return "://" in target


def open(target: str | Path) -> Log:
    """The log at `target`: a directory, or `tcp://HOST:PORT/LOG`, or `ipc://SOCKET/LOG`.

    Raises `LogNotFound`, `FormatError`, `RemoteError`, `UsageError`.
    """
    if is_address(str(target)):
        from jlogd.wire.client import RemoteLog  # the log core works without the transport

        return RemoteLog(str(target))
    return LocalLog(Path(target))


def create(target: str | Path, settings: Settings | None = None, subscribers: Sequence[str] = ()) -> None:
    """Make a log at `target`, a directory or an address, with its first subscribers.

    Raises `LogExists`, `UsageError`, `RemoteError`.
    """
    if is_address(str(target)):
        from jlogd.wire.client import create_remote

        create_remote(str(target), settings or Settings(), subscribers)
        return
    path = Path(target)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    Journal.create(path.absolute(), settings, subscribers)
