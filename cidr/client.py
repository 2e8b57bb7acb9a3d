"""A server of `cidr` as something that answers queries: HTTP and JSON, see docs/cidr.md.

A query is parsed here first, so that a mistake is told without a round trip, and lists of blocks are read here, where
the query is typed.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cidr.ask import Reply
from cidr.formats.document import read
from cidr.language import tree
from cidr.language.build import inline_lists
from cidr.language.errors import Mark, QueryError
from cidr.language.parser import parse
from jlogd.errors import RemoteError, UsageError, from_wire

# The server gives up earlier; this is for a server that says nothing.
TIMEOUT_SECONDS = 120
ANSWER_BYTES_MAX = 512 << 20
# For completion the names of series may be this old.
NAMES_SECONDS = 30
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Remote:
    """Queries to a server at `http://HOST:PORT` or `https://HOST:PORT`."""

    def __init__(self, url: str, token: str, read: Callable[[str], str]) -> None:
        """Raises `UsageError`; nothing is sent yet."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            raise UsageError(f"{url!r} has no port that exists") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UsageError(f"{url!r} is no address of a server; write http://127.0.0.1:9090")
        if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UsageError(f"{url!r}: a token is sent over https only, or to this machine; anyone could read it")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port or (443 if self._secure else 9090)
        self._token = token
        self._read = read
        self._names: tuple[float, list[str]] = (-NAMES_SECONDS, [])

    def ask(self, text: str) -> Reply:
        statement = parse(text)
        show = statement.show if isinstance(statement, tree.Explain) else statement
        if isinstance(show, tree.Show):
            inlined = inline_lists(text, show, self._read)
            if inlined != show:
                text = f"explain {inlined}" if isinstance(statement, tree.Explain) else str(inlined)
        return read(self._request("POST", "/v1/query", {"query": text, "format": "json"}, text))

    def series_names(self) -> list[str]:
        then, names = self._names
        if time.monotonic() - then >= NAMES_SECONDS:
            found = msgspec.json.decode(self._request("GET", "/v1/series"))
            names = [str(one["name"]) for one in found["series"]]
            self._names = (time.monotonic(), names)
        return names

    def describe(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._secure else 'http'}://{host}:{self._port}"

    def close(self) -> None:
        """Every question has a connection of its own."""

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None, text: str = "") -> bytes:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
            response = connection.getresponse()
            data = response.read(ANSWER_BYTES_MAX + 1)
        except ssl.SSLCertVerificationError as error:
            raise RemoteError(f"{self.describe()} is not trusted: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            why = "it took too long" if isinstance(error, socket.timeout) else str(error) or type(error).__name__
            raise RemoteError(f"{self.describe()} cannot be asked: {why}; is cidr serve running there?") from None
        finally:
            connection.close()
        if len(data) > ANSWER_BYTES_MAX:
            raise RemoteError(f"the answer has more than {ANSWER_BYTES_MAX >> 20} MiB; ask for less")
        if response.status != 200:
            raise _failure(data, response.status, self.describe(), text)
        return data

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)


def _query_error(text: str, mark: Mark, message: str, expected: list[str], nearest: str) -> QueryError:
    """As it was raised: what is only unexpected has no message beside its explanation."""
    plain = QueryError(text, mark, "", expected, nearest)
    return plain if message == plain.explanation() else QueryError(text, mark, message, expected, nearest)


def _failure(data: bytes, status: int, where: str, text: str) -> Exception:
    """The error that a server sent, as the class it was there."""
    try:
        error = msgspec.json.decode(data)["error"]
        code, message = str(error["code"]), str(error["message"])
        if code == QueryError.code:
            mark = Mark(int(error["start"]), int(error["end"]))
            return _query_error(text, mark, message, list(map(str, error["expected"])), str(error["nearest"]))
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return RemoteError(f"{where} answered with {status} and something that is not understood")
    return from_wire(code, message)
