"""`jlogd.open` and `jlogd.create`: from the name of a log, a directory or an address, to the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jlogd.errors import UsageError
from jlogd.journal.journal import Journal
from jlogd.journal.types import Settings
from jlogd.log import LocalLog, Log

if TYPE_CHECKING:
    from jlogd.wire.credentials import KeyFile, ServerKey


def is_address(target: str) -> bool:
    """Whether `target` names a log behind a daemon rather than a directory."""
    return "://" in target


def open(
    target: str | Path,
    *,
    key: KeyFile | None = None,
    server_key: ServerKey | None = None,
    insecure: bool = False,
) -> Log:
    """The log at `target`: a directory, or `tcp://HOST:PORT/LOG`, or `ipc://SOCKET/LOG`.

    At an address beyond this host, `key` is the file of this client's secret key, and `server_key` the daemon's public
    key, as text or as the path of its `.pub` file; several are tried in turn. Without them the environment (JLOGD_KEY,
    JLOGD_SERVER_KEY) and ~/.config/jlogd (client.key, server.pub) are asked. `insecure` goes without.

    Raises `LogNotFound`, `FormatError`, `RemoteError`, `NotAuthenticated`, `NotGranted`, `BadKey`, `UsageError`.
    """
    if is_address(str(target)):
        from jlogd.wire.client import RemoteLog  # the log core works without the transport
        from jlogd.wire.credentials import Keys

        return RemoteLog(str(target), keys=Keys(key, server_key, insecure))
    return LocalLog(Path(target))


def create(
    target: str | Path,
    settings: Settings | None = None,
    subscribers: Sequence[str] = (),
    *,
    key: KeyFile | None = None,
    server_key: ServerKey | None = None,
    insecure: bool = False,
) -> None:
    """Make a log at `target`, a directory or an address, with its first subscribers. For the keys, see `open`.

    Raises `LogExists`, `UsageError`, `RemoteError`, `NotGranted`.
    """
    if is_address(str(target)):
        from jlogd.wire.client import create_remote
        from jlogd.wire.credentials import Keys

        create_remote(str(target), settings or Settings(), subscribers, Keys(key, server_key, insecure))
        return
    path = Path(target)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(above for above in path.absolute().parents if above.exists())
        raise UsageError(f"{file} is a file, and a log lies in a directory; name another place") from None
    Journal.create(path.absolute(), settings, subscribers)
