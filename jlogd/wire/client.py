"""A log at a daemon: the same `Log` as one in a directory, over the process's connection to that daemon."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

from jlogd.errors import Closed, ProtocolError
from jlogd.journal.producers import producer_id
from jlogd.journal.types import Caps, LogStat, Settings, Start, check_name
from jlogd.log import Log
from jlogd.subscriber.subscriber import Subscriber
from jlogd.wire import messages, shared
from jlogd.wire.address import check_address, parse_target
from jlogd.wire.connection import REQUEST_SECONDS, Connection
from jlogd.wire.credentials import Keys
from jlogd.wire.feed import RemoteFeed
from jlogd.wire.sink import RETRY_SECONDS, RemoteSink
from jlogd.writer.writer import LINGER_MS, OnFull, Writer

__all__ = ["RemoteFeed", "RemoteLog", "RemoteSink", "create_remote", "list_remote"]

A = TypeVar("A", bound=messages.FromDaemon)


class RemoteLog(Log):
    """A log at a daemon.

    Connections come back by themselves. Writers hold what is not acknowledged and send it again; when the daemon stays
    away for `retry_seconds`, they fail. Subscribers go on where they were; those that follow wait for ever.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = REQUEST_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        keys: Keys | None = None,
    ) -> None:
        """`target` is `tcp://HOST:PORT/LOG` or `ipc://PATH/LOG`; `timeout` (seconds) is that of every single request.

        Raises `LogNotFound`, `RemoteError` (nobody answers there), `NotAuthenticated`, `NotGranted`, `UsageError`.
        """
        found = parse_target(target)
        self.name = found.log
        self.target = target
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._closed = False
        self._connection = shared.share(found.address, keys)
        try:
            self._opened = self._ask(messages.OpenLog(1, self.name), messages.Opened)
        except BaseException:
            self.close()
            raise

    @property
    def uuid(self) -> str:
        """The log's identity, the same for ever."""
        return self._opened.uuid

    def writer(self, *, producer: str = "", linger_ms: float = LINGER_MS, on_full: OnFull = "raise") -> Writer:
        self._check()
        sink = RemoteSink(self._connection, self.name, self._retry_seconds)
        try:
            return Writer(
                sink, producer=producer, linger_ms=linger_ms, compression=self._opened.compression, on_full=on_full
            )
        except BaseException:
            sink.close()
            raise

    def subscriber(
        self,
        name: str | None = None,
        *,
        start: Start = "begin",
        follow: bool = False,
        stop: threading.Event | None = None,
    ) -> Subscriber:
        self._check()
        if name is not None:
            check_name("subscriber", name)
        feed = RemoteFeed(
            self._connection, self.name, name or "", start if name is None else None, follow=follow
        )  # fmt: skip
        return Subscriber(feed, follow=follow, stop=stop)

    def add_subscriber(self, name: str, start: Start = "begin", caps: Caps | None = None) -> None:
        start_on_wire = messages.start_to_wire(start)
        self._ask(messages.SubscriberAdd(1, self.name, name, start_on_wire, caps), messages.Done)

    def remove_subscriber(self, name: str) -> None:
        self._ask(messages.SubscriberRemove(1, self.name, name), messages.Done)

    def set_subscriber(self, name: str, start: Start) -> None:
        self._ask(messages.SubscriberSet(1, self.name, name, messages.start_to_wire(start)), messages.Done)

    def set_caps(self, name: str, caps: Caps | None) -> None:
        self._ask(messages.SubscriberCaps(1, self.name, name, caps), messages.Done)

    def clone_subscriber(self, name: str, source: str) -> None:
        self._ask(messages.SubscriberClone(1, self.name, name, source), messages.Done)

    def stat(self) -> LogStat:
        stat = self._ask(messages.Stat(1, self.name), messages.StatIs).stat
        stat.target = self.target
        return stat

    def producer_position(self, producer: str) -> int | None:
        return self._ask(messages.Position(1, self.name, producer_id(producer)), messages.PositionIs).position

    def close(self) -> None:
        """Let go of the log, and of the connection when nothing else in this process uses it."""
        if not self._closed:
            self._closed = True
            shared.release(self._connection)

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"{self.target} was closed")
        self._connection.check()

    def _ask(self, message: messages.AnyRequest, answer: type[A]) -> A:
        self._check()
        return _ask(self._connection, message, answer, self._timeout)


def create_remote(
    target: str, settings: Settings | None = None, subscribers: Sequence[str] = (), keys: Keys | None = None
) -> None:
    """Have a daemon make a log at `target`. Raises `LogExists`, `UsageError`, `RemoteError`, `NotGranted`."""
    found = parse_target(target)
    connection = shared.share(found.address, keys)
    try:
        message = messages.CreateLog(1, found.log, list(subscribers), settings)
        _ask(connection, message, messages.Opened, REQUEST_SECONDS)
    finally:
        shared.release(connection)


def list_remote(address: str, keys: Keys | None = None) -> list[str]:
    """The names of the logs at the daemon that listens on `address`, as far as they are granted to this client.

    Raises `RemoteError`, `UsageError`.
    """
    connection = shared.share(check_address(address), keys)
    try:
        return _ask(connection, messages.ListLogs(1), messages.Logs, REQUEST_SECONDS).logs
    finally:
        shared.release(connection)


def _ask(connection: Connection, message: messages.AnyRequest, answer: type[A], timeout: float) -> A:
    found = connection.request(message, timeout)
    if not isinstance(found, answer):
        raise ProtocolError(f"the daemon at {connection.address} answered {type(found).__name__.lower()}; upgrade it")
    return found
