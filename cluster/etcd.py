"""etcd behind the contract of `types.py`, over its JSON gateway: no gRPC library, every socket and deadline ours.

Several `EtcdStore`s of a process share a `Guard`, and each has connections of its own, so that a heartbeat never waits
behind a large read. A change whose answer did not come may have been made: whoever asks knows how to look.

One thread at a time per store; `close` from any.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cluster.errors import NotLoggedIn, StoreError, StoreRefused, StoreUnavailable, WatchEnded
from cluster.gateway import (
    CompactionAnswer,
    Header,
    LoginAnswer,
    RangeAnswer,
    StatusAnswer,
    TxnAnswer,
    alarms,
    compaction_body,
    key_value,
    login_not_wanted,
    range_body,
    refusal,
    txn_body,
    watch_batch,
    watch_body,
)
from cluster.guard import Guard, Mark
from cluster.transport import Stream, Tls, Transport
from cluster.types import Snapshot, StoreStatus, Txn, TxnResult, WatchBatch, check_txn

A = TypeVar("A", RangeAnswer, TxnAnswer, StatusAnswer, CompactionAnswer)

# A member without a leader must end the watch instead of being silent.
_WATCH_HEADERS = {"Grpc-Metadata-hasleader": "true"}
# A refused login is not tried again before: each one costs etcd the work of a password hash. Seconds.
LOGIN_REST_SECONDS = 2.0
# Below these, known faults (stale reads after a pause, lost watch events) are noticed by whoever builds on it,
# at the price of waiting.
VERSIONS_RECOMMENDED = {(3, 4): 38, (3, 5): 28, (3, 6): 9}


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and how one gets in. `password_file` is read at every login, so that a password can change."""

    endpoints: tuple[str, ...]
    tls: Tls = field(default_factory=Tls)
    user: str = ""
    password: str = ""
    password_file: str = ""


class EtcdStore:
    """A `Store` on etcd."""

    def __init__(self, settings: EtcdSettings, guard: Guard | None = None, first: int = 0) -> None:
        self._settings = settings
        self._guard = guard or Guard()
        self._transport = Transport(settings.endpoints, settings.tls, first)
        self._token = ""
        self._login_wanted = bool(settings.user)
        self._login_refused: tuple[float, str] = (0.0, "")  # not again before, and why
        self._watches: list[EtcdWatch] = []

    @property
    def endpoint(self) -> str:
        """The member that is asked now."""
        return self._transport.endpoint

    @property
    def token(self) -> str:
        """What this connection is logged in with; "" when no login is needed, or none was made yet."""
        return self._token

    def read(self, prefix: str, *, within: float) -> Snapshot:
        mark = self._guard.mark()
        answer, endpoint = self._ask("/v3/kv/range", range_body(prefix, prefix=True), RangeAnswer, within)
        with _understood(endpoint):
            revision = self._check(answer.header, mark, endpoint)
            return Snapshot(revision, tuple(key_value(item) for item in answer.kvs))

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        check_txn(txn)
        mark = self._guard.mark()
        answer, endpoint = self._ask("/v3/kv/txn", txn_body(txn), TxnAnswer, within)
        with _understood(endpoint):
            revision = self._check(answer.header, mark, endpoint)
            found = tuple(
                tuple(key_value(item) for item in response.response_range.kvs)
                for response in answer.responses
                if response.response_range is not None
            )
            return TxnResult(answer.succeeded, revision, found)

    def watch(self, prefix: str, start_revision: int, *, idle: float, within: float) -> EtcdWatch:
        body = msgspec.json.encode(watch_body(prefix, start_revision))
        limit = time.monotonic() + within
        headers = self._headers(limit) | _WATCH_HEADERS
        stream = self._transport.stream("/v3/watch", body, _left(limit), idle, headers)
        if stream.status != 200:
            self._transport.rotate()
            raise self.forget_login(refusal(stream.status, stream.rest(_left(limit)), self.endpoint))
        watch = EtcdWatch(self, stream, self.endpoint)
        self._watches = [known for known in self._watches if not known.closed] + [watch]
        return watch

    def status(self, *, within: float) -> StoreStatus:
        mark = self._guard.mark()
        answer, endpoint = self._ask("/v3/maintenance/status", {}, StatusAnswer, within)
        with _understood(endpoint):
            self._guard.check(answer.header, Mark(0, mark.raft_term), endpoint)
            size = int(answer.size)
        return StoreStatus("etcd", answer.version, answer.header.cluster_id, endpoint, size, alarms(answer))

    def compact(self, revision: int, *, within: float) -> None:
        """Let etcd forget what stood there before `revision`. Raises `Compacted` when it has already."""
        self._ask("/v3/kv/compaction", compaction_body(revision), CompactionAnswer, within)

    def close(self) -> None:
        self._transport.close()
        for watch in self._watches:
            watch.close()

    def check_watch_header(self, header: Header, endpoint: str) -> None:
        """A watch may be behind other connections: only that it is the same cluster counts."""
        self._guard.check(header, Mark(0, 0), endpoint)

    def rotate(self) -> None:
        """Ask another member next time."""
        self._transport.rotate()

    def _check(self, header: Header, mark: Mark, endpoint: str) -> int:
        try:
            return self._guard.check(header, mark, endpoint)
        except StoreUnavailable:
            self._transport.rotate()
            raise

    def forget_login(self, error: StoreError) -> StoreError:
        """The same error; when it is about the login, the next question begins with a new one."""
        if isinstance(error, NotLoggedIn):
            self._token, self._login_wanted = "", bool(self._settings.user)
        return error

    def _ask(self, path: str, body: dict[str, Any], kind: type[A], within: float) -> tuple[A, str]:
        """The answer and who gave it; logs in again once when the store has forgotten us."""
        limit = time.monotonic() + within
        try:
            return self._ask_once(path, body, kind, limit)
        except NotLoggedIn as error:
            if not self._settings.user:
                raise NotLoggedIn(f"{error}; it wants a login: set etcd_user and etcd_password_file") from None
        return self._ask_once(path, body, kind, limit)

    def _ask_once(self, path: str, body: dict[str, Any], kind: type[A], limit: float) -> tuple[A, str]:
        headers = self._headers(limit)
        endpoint = self.endpoint
        answer = self._transport.post(path, msgspec.json.encode(body), _left(limit), headers)
        if answer.status != 200:
            error = refusal(answer.status, answer.body, endpoint)
            if isinstance(error, StoreUnavailable):
                self._transport.rotate()
            raise self.forget_login(error)
        try:
            with _understood(endpoint):
                return msgspec.json.decode(answer.body, type=kind), endpoint
        except StoreUnavailable:
            self._transport.rotate()
            raise

    def _headers(self, limit: float) -> dict[str, str]:
        """What lets us in; a login first where one is wanted and none stands."""
        if self._login_wanted and not self._token:
            self._log_in(limit)
        return {"Authorization": self._token} if self._token else {}

    def _log_in(self, limit: float) -> None:
        """Raises `NotLoggedIn`, and again for a while without asking: a wrong password is not tried all the time."""
        again, why = self._login_refused
        if time.monotonic() < again:
            raise NotLoggedIn(why)
        body = msgspec.json.encode({"name": self._settings.user, "password": self._password()})
        endpoint = self.endpoint
        answer = self._transport.post("/v3/auth/authenticate", body, _left(limit))
        if login_not_wanted(answer.status, answer.body):
            self._login_wanted = False  # until it says otherwise
        elif answer.status != 200:
            error = refusal(answer.status, answer.body, endpoint)
            if not isinstance(error, StoreRefused):
                self._transport.rotate()
                raise error
            self._login_refused = time.monotonic() + LOGIN_REST_SECONDS, f"{error}; check user and password"
            raise NotLoggedIn(self._login_refused[1])
        else:
            with _understood(endpoint):
                self._token = msgspec.json.decode(answer.body, type=LoginAnswer).token

    def _password(self) -> str:
        if not self._settings.password_file:
            return self._settings.password
        try:
            return Path(self._settings.password_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotLoggedIn(f"{self._settings.password_file} cannot be read: {error}") from None


class EtcdWatch:
    """A watch of etcd: one HTTP answer that does not end."""

    def __init__(self, store: EtcdStore, stream: Stream, endpoint: str) -> None:
        self._store = store
        self._stream = stream
        self._endpoint = endpoint
        self.closed = False

    def next(self) -> WatchBatch:
        try:
            while True:
                batch = self._understand(self._stream.line())
                if batch is not None:
                    return batch
        except NotLoggedIn as error:
            # The member is as good as before: it only wants to know again who asks.
            self.close()
            raise self._store.forget_login(error) from None
        except BaseException:
            self.close()
            self._store.rotate()
            raise

    def close(self) -> None:
        self.closed = True
        self._stream.close()

    def _understand(self, line: bytes) -> WatchBatch | None:
        try:
            header, batch = watch_batch(line)
            self._store.check_watch_header(header, self._endpoint)
            return batch
        except ValueError as error:
            raise WatchEnded(f"the watch says something that is not understood: {error}") from None


@contextmanager
def _understood(endpoint: str) -> Iterator[None]:
    """Whatever cannot be read is no answer of etcd's: a proxy, a portal, a broken member."""
    try:
        yield
    except ValueError as error:  # msgspec's errors, numbers that are none, and bad base64 are all of this kind
        raise StoreUnavailable(f"{endpoint} answers something that is not etcd's: {error}") from None


def _left(limit: float) -> float:
    """Seconds until a deadline; never none at all, which would mean to wait for ever."""
    return max(limit - time.monotonic(), 0.001)


def version_warning(version: str) -> str:
    """What to say about a version with known faults; "" when there is nothing to say."""
    numbers = version.split("-")[0].split(".")
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers[:3]):
        return f"etcd {version!r} is not a version known here"
    major, minor, patch = (int(number) for number in numbers[:3])
    floor = VERSIONS_RECOMMENDED.get((major, minor))
    if (major, minor) < (3, 4):
        return f"etcd {version} is older than 3.4 and does not work"
    if floor is not None and patch < floor:
        return f"etcd {version} has known faults that can make a takeover wait longer; {major}.{minor}.{floor} has not"
    return ""
