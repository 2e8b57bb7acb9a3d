"""etcd behind the contract of `types.py`, over its JSON gateway: no gRPC library, every socket and deadline ours.

Several `EtcdStore`s of a process share a `Guard`, and each has connections of its own, so that a heartbeat never waits
behind a large read. A change whose answer did not come may have been made: whoever asks knows how to look.

One thread at a time per store; `close` from any.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from cluster.errors import NotLoggedIn, StoreRefused, StoreUnavailable
from cluster.gateway import (
    Header,
    LoginAnswer,
    RangeAnswer,
    StatusAnswer,
    TxnAnswer,
    key_value,
    range_body,
    refusal,
    txn_body,
    watch_batch,
    watch_body,
)
from cluster.guard import Guard, Mark
from cluster.transport import Stream, Tls, Transport
from cluster.types import Snapshot, StoreStatus, Txn, TxnResult, WatchBatch, check_txn

A = TypeVar("A", RangeAnswer, TxnAnswer, StatusAnswer, LoginAnswer)

# A member without a leader must end the watch instead of being silent.
_WATCH_HEADERS = {"Grpc-Metadata-hasleader": "true"}
# Below these, known faults (stale reads after a pause, lost watch events) make failovers that nobody needed.
VERSIONS_RECOMMENDED = {(3, 4): 38, (3, 5): 28, (3, 6): 9}


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and how one gets in."""

    endpoints: tuple[str, ...]
    tls: Tls = field(default_factory=Tls)
    user: str = ""
    password: str = ""


class EtcdStore:
    """A `Store` on etcd."""

    def __init__(self, settings: EtcdSettings, guard: Guard | None = None, first: int = 0) -> None:
        self._settings = settings
        self._guard = guard or Guard()
        self._transport = Transport(settings.endpoints, settings.tls, first)
        self._token = ""
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
        revision = self._check(answer.header, mark, endpoint)
        return Snapshot(revision, tuple(key_value(item) for item in answer.kvs))

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        check_txn(txn)
        mark = self._guard.mark()
        answer, endpoint = self._ask("/v3/kv/txn", txn_body(txn), TxnAnswer, within)
        revision = self._check(answer.header, mark, endpoint)
        found = tuple(
            tuple(key_value(item) for item in response.response_range.kvs)
            for response in answer.responses
            if response.response_range is not None
        )
        return TxnResult(answer.succeeded, revision, found)

    def watch(self, prefix: str, start_revision: int, *, idle: float, within: float) -> EtcdWatch:
        body = msgspec.json.encode(watch_body(prefix, start_revision))
        headers = self._headers(within) | _WATCH_HEADERS
        stream = self._transport.stream("/v3/watch", body, within, idle, headers)
        if stream.status != 200:
            self._transport.rotate()
            raise self._forget_token(refusal(stream.status, stream.rest(within), self.endpoint))
        watch = EtcdWatch(self, stream, self.endpoint)
        self._watches = [known for known in self._watches if not known.closed] + [watch]
        return watch

    def status(self, *, within: float) -> StoreStatus:
        mark = self._guard.mark()
        answer, endpoint = self._ask("/v3/maintenance/status", {}, StatusAnswer, within)
        self._guard.check(answer.header, Mark(0, mark.raft_term), endpoint)
        return StoreStatus("etcd", answer.version, answer.header.cluster_id, endpoint)

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

    def _ask(self, path: str, body: dict[str, Any], kind: type[A], within: float) -> tuple[A, str]:
        """The answer and who gave it; logs in again once when the store has forgotten us."""
        limit = time.monotonic() + within
        try:
            return self._ask_once(path, body, kind, within)
        except NotLoggedIn:
            if not self._settings.user:
                raise
        return self._ask_once(path, body, kind, max(limit - time.monotonic(), 0.001))

    def _ask_once(self, path: str, body: dict[str, Any], kind: type[A], within: float) -> tuple[A, str]:
        headers = self._headers(within)
        endpoint = self.endpoint
        answer = self._transport.post(path, msgspec.json.encode(body), within, headers)
        if answer.status != 200:
            error = refusal(answer.status, answer.body, endpoint)
            if isinstance(error, StoreUnavailable):
                self._transport.rotate()
            raise self._forget_token(error)
        try:
            return msgspec.json.decode(answer.body, type=kind), endpoint
        except (msgspec.DecodeError, ValueError) as error:
            self._transport.rotate()
            raise StoreUnavailable(f"{endpoint} answers something that is not etcd's: {error}") from None

    def _headers(self, within: float) -> dict[str, str]:
        if not self._settings.user:
            return {}
        if not self._token:
            body = msgspec.json.encode({"name": self._settings.user, "password": self._settings.password})
            endpoint = self.endpoint
            answer = self._transport.post("/v3/auth/authenticate", body, within)
            if answer.status != 200:
                error = refusal(answer.status, answer.body, endpoint)
                raise NotLoggedIn(f"{error}; check user and password") if isinstance(error, StoreRefused) else error
            self._token = msgspec.json.decode(answer.body, type=LoginAnswer).token
        return {"Authorization": self._token}

    def _forget_token(self, error: Exception) -> Exception:
        if isinstance(error, NotLoggedIn):
            self._token = ""
        return error


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
                header, batch = watch_batch(self._stream.line())
                self._store.check_watch_header(header, self._endpoint)
                if batch is not None:
                    return batch
        except BaseException:
            self.close()
            self._store.rotate()
            raise

    def close(self) -> None:
        self.closed = True
        self._stream.close()


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
        return f"etcd {version} has known faults that cost failovers nobody needed; {major}.{minor}.{floor} has not"
    return ""
