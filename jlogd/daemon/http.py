"""Metrics and health over HTTP, on loopback.

    GET /         an index for people
    GET /metrics  Prometheus text, or OpenMetrics when the Accept header asks for it; ?name[]=NAME gives one of them
    GET /healthz  200 {"status":"ok"} or 503 {"status":"failing","problems":["..."]}: is anything wrong
    GET /readyz   the same for: is the daemon started and taking records
    GET /stat     what `jlogctl stat --json` shows, of all logs
    GET /manager  what `jlogctl manager status --json` shows, where there is a manager

A monitoring port must never hurt what it monitors, so everything is bounded: THREADS_MAX requests at a time (the next
gets a 503 at once), REQUEST_BYTES_MAX of request, one request per connection, and REQUEST_SECONDS_MAX from accept to
the last byte, after which the socket is shut down whatever the peer does. Nothing here is called by the rest of the
daemon.

Locking: `_requests_lock` guards the table of open requests; it is never held during I/O. The callables given to
HttpServer run in the threads of requests and take what locks they need.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, generate_latest

from jlogd.daemon.addresses import HttpAddress
from jlogd.errors import CannotListen
from jlogd.plain import encode_json

# A scraper or two, a person, a health check; more at a time are a mistake or worse.
THREADS_MAX = 8
# A request line and a browser's headers; there is no body.
REQUEST_BYTES_MAX = 16 << 10
# Prometheus gives up after 10 s by default.
REQUEST_SECONDS_MAX = 10.0
_POLL_SECONDS = 0.25
_JSON = "application/json"
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\ntoo many requests at a time\n"
INDEX = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>jlogd</title><h1>jlogd</h1><ul>
<li><a href="/stat">/stat</a>: logs and subscribers, as JSON
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: is anything wrong
<li><a href="/readyz">/readyz</a>: is the daemon taking records
</ul></html>
"""

Answer = tuple[HTTPStatus, str, bytes]
Problems = Callable[[], list[str]]


class HttpServer:
    """Bound when made, so that an address in use is known before anything else starts; answers after `start`.

    `health` and `ready` return what is wrong, in words (empty: all is well); `stat` and `manager`, anything msgspec can
    encode. `index` is the page for people, `setting` the name of the address in the configuration.
    Raises `CannotListen` when the address cannot be bound.
    """

    def __init__(
        self,
        address: HttpAddress,
        *,
        metrics: CollectorRegistry,
        health: Problems,
        ready: Problems,
        stat: Callable[[], object],
        manager: Callable[[], object] | None = None,
        index: bytes = INDEX,
        setting: str = "listen.http",
    ) -> None:
        self.metrics, self.health, self.ready, self.stat = metrics, health, ready, stat
        self.manager, self.index = manager, index
        try:
            self._server = _Server(address, self)
        except OSError as error:
            raise CannotListen(_bind_message(setting, address, error)) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="jlogd-http", daemon=True
        )

    @property
    def address(self) -> HttpAddress:
        """Where it listens, with the port the system chose if 0 was asked for."""
        host, port = self._server.socket.getsockname()[:2]
        return HttpAddress(host, port)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop at once; requests under way are cut off."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.cut_requests(older_than=0.0)

    def answer(self, path: str, query: str, accept: str) -> Answer | None:
        """The answer to a GET of `path`; None when there is no such page."""
        if path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", self.index
        if path == "/metrics":
            return self._metrics(query, accept)
        if path == "/healthz":
            return _problems_answer(self.health())
        if path == "/readyz":
            return _problems_answer(self.ready())
        if path == "/stat":
            return HTTPStatus.OK, _JSON, encode_json(self.stat())
        if path == "/manager" and self.manager is not None:
            return HTTPStatus.OK, _JSON, encode_json(self.manager())
        return None

    def _metrics(self, query: str, accept: str) -> Answer:
        names = parse_qs(query, max_num_fields=100).get("name[]")
        registry: Any = self.metrics.restricted_registry(names) if names else self.metrics
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError, IndexError):  # a version in the Accept header that the library cannot compare
            encode, content_type = generate_latest, "text/plain; version=0.0.4; charset=utf-8"
        return HTTPStatus.OK, content_type, encode(registry)


def _problems_answer(problems: list[str]) -> Answer:
    if not problems:
        return HTTPStatus.OK, _JSON, b'{"status":"ok"}'
    return HTTPStatus.SERVICE_UNAVAILABLE, _JSON, encode_json({"status": "failing", "problems": problems})


def _bind_message(setting: str, address: HttpAddress, error: OSError) -> str:
    where = f"{setting}: cannot listen on {address}"
    table, _, field = setting.partition(".")
    choose = f'set another port in [{table}] {field}, or "" to have no metrics'
    if error.errno == errno.EADDRINUSE:
        return f"{where}: in use, perhaps by another jlogd or vip (see `ss -ltnp 'sport = :{address.port}'`); {choose}"
    if error.errno == errno.EACCES:
        return f"{where}: only root may use a port below 1024; {choose}"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return f"{where}: this machine has no such address; {choose}"
    return f"{where}: {os.strerror(error.errno or 0)}; {choose}"


class _Server(ThreadingHTTPServer):
    """One thread per request, at most THREADS_MAX, none older than REQUEST_SECONDS_MAX."""

    daemon_threads = True
    # Requests are cut off, not waited for, when the daemon stops.
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: HttpAddress, owner: HttpServer) -> None:
        self.owner = owner
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._requests_lock = threading.Lock()
        self._requests: dict[int, tuple[float, socket.socket]] = {}
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Without the name lookup of HTTPServer, which can hang for a minute where DNS is broken."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "jlogd", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._requests_lock:
            busy = len(self._requests) >= THREADS_MAX
            if not busy:
                self._requests[id(request)] = (time.monotonic(), request)
        if not busy:
            try:
                super().process_request(request, client_address)
                return
            except RuntimeError:  # the system gives no more threads
                self.shutdown_request(request)
                return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(_BUSY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._requests_lock:
            self._requests.pop(id(request), None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called between requests, at least every _POLL_SECONDS."""
        self.cut_requests(older_than=REQUEST_SECONDS_MAX)

    def cut_requests(self, older_than: float) -> None:
        deadline = time.monotonic() - older_than
        with self._requests_lock:
            late = [request for started, request in self._requests.values() if started <= deadline]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hung up is no news; a page that failed was answered with a 500."""


class _TooLongError(Exception):
    """The request is longer than REQUEST_BYTES_MAX."""


class _Bounded:
    """The reading side of a request, up to REQUEST_BYTES_MAX."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = REQUEST_BYTES_MAX

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(self._left + 1 if limit < 0 else min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise _TooLongError
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    # For every single read and write; the whole request is bounded by the server.
    timeout = REQUEST_SECONDS_MAX
    server_version = "jlogd"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s: %(explain)s\n"

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Bounded(self.rfile)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except _TooLongError:
            self.close_connection = True
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", "GET"
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
            answer = self.server.owner.answer(url.path, url.query, self.headers.get("Accept", ""))
        except Exception as error:  # a page must fail alone, whatever went wrong behind it
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=f"{type(error).__name__}: {error}")
            return
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, explain="there are /metrics, /healthz, /readyz and /stat")
            return
        status, content_type, body = answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the names are those of the standard library

    def do_refused(self) -> None:
        body = b"only GET and HEAD\n"
        self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
        self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_refused  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: a scraper every few seconds would drown what matters."""
