"""Metrics and health over HTTP: what is answered, and that no client can hold it up."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from jlogd.daemon import http as jlogd_http
from jlogd.daemon.addresses import HttpAddress, parse_http_address
from jlogd.daemon.http import REQUEST_BYTES_MAX, THREADS_MAX, HttpServer
from jlogd.daemon.metrics import JlogdCollector, make_registry
from jlogd.errors import CannotListen
from jlogd.journal.types import LogStat

ANY_PORT = HttpAddress("127.0.0.1", 0)


def log_stat() -> LogStat:
    return LogStat(
        name="mainlog", target="/spool/mainlog", uuid="u", bytes=1, segments=1, first=1, next=2, epoch=1, created=0.0,
        durability="commit", compression="none", segment_bytes=1, oldest_time=0.0, newest_time=0.0,
    )  # fmt: skip


class Daemon:
    """What the server asks, to be changed by a test."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.not_ready: list[str] = ["starting"]
        self.stat: Callable[[], object] = lambda: {"logs": [log_stat()]}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def server(daemon: Daemon) -> Iterator[HttpServer]:
    made = HttpServer(
        ANY_PORT,
        metrics=make_registry(JlogdCollector(logs=lambda: [log_stat()])),
        health=lambda: daemon.problems,
        ready=lambda: daemon.not_ready,
        stat=lambda: daemon.stat(),
    )
    made.start()
    yield made
    made.close()


def get(
    server: HttpServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    with closing(http.client.HTTPConnection(*server.address, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def connect(server: HttpServer) -> socket.socket:
    sock = socket.create_connection(server.address, timeout=10)
    sock.settimeout(10)
    return sock


def raw(server: HttpServer, data: bytes) -> bytes:
    with connect(server) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := sock.recv(65536):
                received += piece
        except ConnectionError:
            pass
        return received


# Pages


def test_health(server: HttpServer, daemon: Daemon) -> None:
    status, headers, body = get(server, "/healthz")
    assert status == 200 and json.loads(body) == {"status": "ok"}
    assert headers["Content-Type"] == "application/json" and headers["Cache-Control"] == "no-store"
    daemon.problems = ['log "mainlog" accepts nothing: writing failed twice']
    status, _, body = get(server, "/healthz")
    assert status == 503 and json.loads(body) == {"status": "failing", "problems": daemon.problems}
    daemon.problems = ["cannot read /var/log/\udcff.log"]  # a name that is no UTF-8, as Python has it
    assert json.loads(get(server, "/healthz")[2])["problems"] == ["cannot read /var/log/?.log"]


def test_ready(server: HttpServer, daemon: Daemon) -> None:
    assert get(server, "/readyz")[0] == 503
    daemon.not_ready = []
    assert get(server, "/readyz")[0] == 200


def test_stat(server: HttpServer) -> None:
    status, _, body = get(server, "/stat")
    assert status == 200 and json.loads(body)["logs"][0]["name"] == "mainlog"


def test_index_leads_to_every_page(server: HttpServer) -> None:
    status, headers, body = get(server, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    for path in ("/stat", "/metrics", "/healthz", "/readyz"):
        assert f'href="{path}"'.encode() in body


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "text/plain;version=x", "application/x;;;=", ",,,"])
def test_metrics_as_text(server: HttpServer, accept: str) -> None:
    status, headers, body = get(server, "/metrics", Accept=accept)
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=")
    assert b'jlogd_log_epoch{log="mainlog"} 1.0' in body and b"# EOF" not in body


def test_metrics_as_openmetrics(server: HttpServer) -> None:
    """The header that Prometheus sends."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    status, headers, body = get(server, "/metrics", Accept=accept)
    assert status == 200 and headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n") and list(parse_openmetrics(body.decode()))


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=zzz", "application/openmetrics-text;version=-"]
)
def test_an_unreadable_accept_header_gets_some_metrics(server: HttpServer, accept: str) -> None:
    status, _, body = get(server, "/metrics", Accept=accept)
    assert status == 200 and b"jlogd_log_epoch" in body


def test_one_metric(server: HttpServer) -> None:
    status, _, body = get(server, "/metrics?name[]=jlogd_log_epoch")
    assert status == 200 and body.count(b"# TYPE") == 1 and b"jlogd_log_epoch" in body


# Wrong requests


def test_unknown_page(server: HttpServer) -> None:
    status, headers, body = get(server, "/../../etc/passwd")
    assert status == 404 and b"/metrics" in body and headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading(server: HttpServer, method: str) -> None:
    status, headers, _ = get(server, "/stat", method)
    assert status == 405 and headers["Allow"] == "GET, HEAD"


def test_head(server: HttpServer) -> None:
    status, headers, body = get(server, "/stat", "HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0


def test_a_page_that_fails_fails_alone(server: HttpServer, daemon: Daemon) -> None:
    def fails() -> object:
        raise RuntimeError("no <stat> today")

    daemon.stat = fails
    status, _, body = get(server, "/stat")
    assert status == 500 and b"no &lt;stat&gt; today" in body and b"Traceback" not in body
    assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"x" * REQUEST_BYTES_MAX + b" HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nX: " + b"x" * REQUEST_BYTES_MAX + b"\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * (REQUEST_BYTES_MAX // 4) + b"\r\n",
    ],
)
def test_a_request_too_long(server: HttpServer, request_bytes: bytes) -> None:
    answer = raw(server, request_bytes)
    assert not answer or answer.split()[1] in (b"431", b"414")
    assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize("request_bytes", [b"", b"\r\n", b"GET", b"\x16\x03\x01\x02\x00", b"GET //[ HTTP/1.0\r\n\r\n"])
def test_nonsense(server: HttpServer, request_bytes: bytes) -> None:
    raw(server, request_bytes)
    assert get(server, "/healthz")[0] == 200


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_fuzz(server: HttpServer, noise: bytes, as_path: bool) -> None:
    raw(server, b"GET /" + noise + b" HTTP/1.1\r\n\r\n" if as_path else noise)
    assert get(server, "/healthz")[0] == 200


# Limits


def test_slow_clients_are_cut_off(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the request never ends: only a limit on the whole stops that."""
    monkeypatch.setattr(jlogd_http, "REQUEST_SECONDS_MAX", 0.5)
    sock = connect(server)
    with sock, pytest.raises(ConnectionError):
        sock.sendall(b"GET /stat HTTP/1.0\r\n")
        for _ in range(400):
            sock.sendall(b"X")
            time.sleep(0.05)


def test_a_client_that_does_not_read_is_cut_off(
    server: HttpServer, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jlogd_http, "REQUEST_SECONDS_MAX", 0.5)
    daemon.stat = lambda: "x" * (64 << 20)
    with connect(server) as sock:
        sock.sendall(b"GET /stat HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(server._server._requests) == 1)
        wait_until(lambda: not server._server._requests)


def test_too_many_at_a_time_are_told_so_at_once(server: HttpServer) -> None:
    idle = [connect(server) for _ in range(THREADS_MAX)]
    try:
        wait_until(lambda: len(server._server._requests) == THREADS_MAX)
        assert raw(server, b"").startswith(b"HTTP/1.0 503")
    finally:
        for sock in idle:
            sock.close()
    wait_until(lambda: not server._server._requests)
    assert get(server, "/healthz")[0] == 200


def test_a_page_that_hangs_holds_up_neither_the_others_nor_the_end(server: HttpServer, daemon: Daemon) -> None:
    release, released = threading.Event(), []
    daemon.stat = lambda: released.append(release.wait(20))
    with connect(server) as sock:
        sock.sendall(b"GET /stat HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(server._server._requests) == 1)
        assert get(server, "/healthz")[0] == 200
        server.close()
        assert not released
    release.set()


def wait_until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# Binding


def make(address: HttpAddress) -> HttpServer:
    registry = make_registry(JlogdCollector(logs=list))
    return HttpServer(address, metrics=registry, health=list, ready=list, stat=dict)


def test_an_address_in_use(server: HttpServer) -> None:
    port = server.address.port
    with pytest.raises(CannotListen) as caught:
        make(HttpAddress("127.0.0.1", port))
    message = str(caught.value)
    assert message.startswith(f"listen.http: cannot listen on 127.0.0.1:{port}: in use, perhaps by another jlogd")
    assert "ss -ltnp" in message and "set another port in [listen] http" in message


def test_an_address_this_machine_does_not_have() -> None:
    with pytest.raises(CannotListen, match="this machine has no such address"):
        make(HttpAddress("192.0.2.1", 0))


def test_close_frees_the_port_and_may_come_before_start_or_twice() -> None:
    first = make(ANY_PORT)
    address = first.address
    first.close()
    second = make(address)
    second.start()
    assert get(second, "/healthz")[0] == 200
    second.close()
    second.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=2)


def test_ipv6() -> None:
    try:
        server = make(HttpAddress("::1", 0))
    except CannotListen:
        pytest.skip("this machine has no ::1")
    server.start()
    assert get(server, "/healthz")[0] == 200
    assert str(server.address).startswith("[::1]:")
    server.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5180", ("127.0.0.1", 5180)),
        ("127.1.2.3:0", ("127.1.2.3", 0)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("http://127.0.0.1:80", ("127.0.0.1", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_http_address(text) == address


def test_other_addresses_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match="http_open = true"):
        parse_http_address("0.0.0.0:80")
    assert parse_http_address("0.0.0.0:80", True) == ("0.0.0.0", 80)
    with pytest.raises(ValueError, match="numeric"):
        parse_http_address("example.com:80", True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5180", "127.0.0.1", "::1:80", "host:80", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "127.0.0.1:65536"),
        *("127.0.0.1:-1", "127.0.0.1:\u0663", "127.0.0.1:80/x", "127.0.0.1:80\n"),
    ],
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r'"127\.0\.0\.1:PORT"'):
        parse_http_address(text)
