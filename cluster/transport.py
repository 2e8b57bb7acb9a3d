"""HTTP to one etcd member at a time, with a deadline on every call and none that waits for ever.

One `Transport` holds at most one connection per endpoint; after a failure the next endpoint is asked, and an endpoint
that failed is tried again when its turn comes. Proxies of the environment are not used.

One thread at a time; only `close` and `Stream.close` may come from another.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from cluster.errors import DeadlinePassed, StoreError, StoreUnavailable, WatchEnded

# A member that does not take a connection in this time is left for the next one. Seconds.
CONNECT_SECONDS_MAX = 1.0
# Ten thousand keys are about 4 MB of JSON; more than this is not an answer to us.
ANSWER_BYTES_MAX = 256 << 20
_PIECE_BYTES = 64 << 10
# It warns when it closes a connection beyond those it keeps: a snapshot was read beside a watch, and nothing is wrong.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for https endpoints; empty texts are not used. Servers are always verified."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes


class Transport:
    """POST to the first endpoint that answers."""

    def __init__(self, endpoints: Sequence[str], tls: Tls | None = None, first: int = 0) -> None:
        """`first`: which endpoint to ask first, so that several connections spread over the members."""
        if not endpoints:
            raise ValueError("no endpoints")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._at = first % len(self._endpoints)
        self._closed = False
        options: dict[str, Any] = {"num_pools": len(self._endpoints) + 1, "maxsize": 1, "block": False}
        tls = tls or Tls()
        if any(endpoint.startswith("https:") for endpoint in self._endpoints):
            options |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": tls.ca or None}
            options |= {"cert_file": tls.cert or None, "key_file": tls.key or None}
        # TCP_NODELAY is urllib3's default; keepalive probes find a dead peer of an idle connection.
        options["socket_options"] = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        self._pool = urllib3.PoolManager(retries=False, **options)

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked now."""
        return self._endpoints[self._at]

    def rotate(self) -> None:
        """Ask the next endpoint from now on."""
        self._at = (self._at + 1) % len(self._endpoints)

    def post(self, path: str, body: bytes, within: float, headers: Mapping[str, str] | None = None) -> Answer:
        """One question, one answer, of one endpoint. Raises `StoreUnavailable`, and asks another one next time."""
        limit = time.monotonic() + within
        response = self._request(path, body, within, within, headers)
        try:
            return Answer(response.status, _whole_body(response, limit, self.endpoint))
        except StoreError:
            self.rotate()
            raise
        except (HTTPError, OSError) as error:
            self.rotate()
            raise _unavailable(self.endpoint, error) from None

    def stream(self, path: str, body: bytes, within: float, idle: float, headers: Mapping[str, str]) -> Stream:
        """A question whose answer is a stream of lines; a silence of `idle` seconds ends it."""
        return Stream(self._request(path, body, within, idle, headers), self.endpoint, idle)

    def close(self) -> None:
        """Close idle connections; one in use ends with its call."""
        self._closed = True
        self._pool.clear()

    def _request(
        self, path: str, body: bytes, within: float, silence: float, headers: Mapping[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        if self._closed:
            raise StoreUnavailable("the connection to the store was closed")
        timeout = urllib3.Timeout(connect=min(within, CONNECT_SECONDS_MAX), read=max(silence, 0.001))
        try:
            return self._pool.request(
                "POST",
                self.endpoint + path,
                body=body,
                headers={"Content-Type": "application/json", **(headers or {})},
                timeout=timeout,
                preload_content=False,
                redirect=False,
            )
        except (HTTPError, OSError) as error:
            failed = self.endpoint
            self.rotate()
            raise _unavailable(failed, error) from None


class Stream:
    """Lines of an answer that does not end by itself."""

    def __init__(self, response: urllib3.BaseHTTPResponse, endpoint: str, idle: float) -> None:
        self.status = response.status
        self._response = response
        self._pieces = response.stream(_PIECE_BYTES, decode_content=False)
        self._endpoint = endpoint
        self._idle = idle
        self._buffer = bytearray()
        self._closed = False

    def line(self) -> bytes:
        """The next line. Raises `WatchEnded` at the end, after a silence, and when the stream was closed."""
        while b"\n" not in self._buffer:
            if self._closed:
                raise WatchEnded("the watch was closed")
            self._buffer += self._piece()
            if len(self._buffer) > ANSWER_BYTES_MAX:
                raise WatchEnded(f"{self._endpoint}: a message of over {ANSWER_BYTES_MAX} bytes")
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        return bytes(line)

    def rest(self, within: float) -> bytes:
        """All that comes, for an answer that is an error."""
        with contextlib.suppress(HTTPError, OSError, StoreError):
            return _whole_body(self._response, time.monotonic() + within, self._endpoint)
        return b""

    def close(self) -> None:
        """End the stream from any thread: the socket is shut, and whoever reads wakes up."""
        self._closed = True
        connection = getattr(self._response, "connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _piece(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise WatchEnded(f"{self._endpoint} ended the watch") from None
        except ReadTimeoutError:
            raise WatchEnded(f"{self._endpoint}: nothing came for {self._idle:g} s") from None
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            # AttributeError and ValueError: what a response raises when it was closed under its reader.
            raise WatchEnded(f"{self._endpoint}: {error}") from None


def _whole_body(response: urllib3.BaseHTTPResponse, limit: float, endpoint: str) -> bytes:
    """The body, with one deadline over all of it: a read timeout alone would let a peer trickle for ever."""
    pieces, size = [], 0
    while piece := response.read1(_PIECE_BYTES):  # what has come, rather than all that it asks for
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > limit:
            response.close()
            raise DeadlinePassed(f"{endpoint}: the answer did not come in time")
        if size > ANSWER_BYTES_MAX:
            response.close()
            raise StoreUnavailable(f"{endpoint}: an answer of over {ANSWER_BYTES_MAX} bytes")
    response.release_conn()
    return b"".join(pieces)


def _unavailable(endpoint: str, error: Exception) -> StoreUnavailable:
    if isinstance(error, (ReadTimeoutError, TimeoutError)):
        return DeadlinePassed(f"{endpoint}: no answer in time")
    reason = getattr(error, "reason", None) or error
    # What stands before is how urllib3 shows its own objects.
    return StoreUnavailable(f"{endpoint}: {re.split('>: |[)]: ', str(reason))[-1]}")
