"""The etcd client against servers that misbehave: late, trickling, behind, replaced, refusing, and not etcd at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ports import free_ports

from cluster.errors import (
    Compacted,
    DeadlinePassed,
    NotLoggedIn,
    StoreRefused,
    StoreReplaced,
    StoreUnavailable,
    WatchEnded,
)
from cluster.etcd import EtcdSettings, EtcdStore, version_warning
from cluster.guard import Guard
from cluster.types import Put, Txn

WITHIN = 20.0
Respond = Callable[[BaseHTTPRequestHandler, dict], None]


@contextmanager
def server(respond: Respond) -> Iterator[str]:
    """An HTTP server; what it answers to each POST is up to `respond`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with suppress(OSError):
                respond(self, body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def say(handler: BaseHTTPRequestHandler, answer: object, status: int = 200) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def header(revision: int = 5, raft_term: int = 2, cluster: str = "7") -> dict:
    return {"header": {"cluster_id": cluster, "member_id": "1", "revision": str(revision), "raft_term": str(raft_term)}}


def store_of(*endpoints: str, **options: object) -> EtcdStore:
    return EtcdStore(EtcdSettings(endpoints, **options))


def read(store: EtcdStore, within: float = WITHIN) -> int:
    return store.read("/", within=within).revision


def test_a_dead_member_costs_one_call():
    (port,) = free_ports(1)
    with server(lambda handler, _: say(handler, header())) as alive:
        store = store_of(f"http://127.0.0.1:{port}", alive)
        with pytest.raises(StoreUnavailable, match="refused"):
            read(store)
        assert read(store) == 5
        assert read(store) == 5


def test_a_member_that_never_answers_is_left_at_the_deadline():
    held = threading.Event()
    with server(lambda _handler, _: held.wait(WITHIN) and None) as silent:
        store = store_of(silent)
        started = time.monotonic()
        with pytest.raises(DeadlinePassed):
            read(store, within=0.2)
        assert time.monotonic() - started < WITHIN / 2
        held.set()


@pytest.mark.parametrize(
    ("form", "piece"), [("Transfer-Encoding: chunked", b"1\r\n \r\n"), ("Content-Length: 1000000", b" ")]
)
def test_a_member_that_trickles_is_left_at_the_deadline(form: str, piece: bytes):
    """Each byte comes in time, the answer does not."""
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler, _: dict) -> None:
        handler.send_response(200)
        handler.send_header(*form.split(": "))
        handler.end_headers()
        with suppress(OSError):
            while not stop.wait(0.05):
                handler.wfile.write(piece)
                handler.wfile.flush()

    with server(trickle) as trickling:
        started = time.monotonic()
        with pytest.raises(DeadlinePassed):
            read(store_of(trickling), within=0.5)
        assert time.monotonic() - started < WITHIN / 2
        stop.set()


def test_a_network_that_swallows_everything_is_left_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0), backlog=1) as swallowing:
        fillers = []
        for _ in range(4):  # fill the backlog: further connections are not answered at all
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(swallowing.getsockname())
            fillers.append(filler)
        with pytest.raises(StoreUnavailable):
            read(store_of(f"http://127.0.0.1:{swallowing.getsockname()[1]}"), within=0.3)
        for filler in fillers:
            filler.close()


def test_a_member_in_the_past_is_not_believed():
    behind = header(revision=3)
    with (
        server(lambda handler, _: say(handler, behind)) as stale,
        server(lambda handler, _: say(handler, header())) as up,
    ):
        guard = Guard()
        assert read(EtcdStore(EtcdSettings((up,)), guard)) == 5
        store = EtcdStore(EtcdSettings((stale, up)), guard)
        with pytest.raises(StoreUnavailable, match="is behind: revision 3"):
            read(store)
        assert read(store) == 5, "the next member is asked"
        behind |= header(revision=9, raft_term=1)
        with pytest.raises(StoreUnavailable, match="in term 1"):
            read(EtcdStore(EtcdSettings((stale,)), guard))


def test_answers_that_overtake_each_other_are_no_sign_of_the_past():
    guard = Guard()
    early = guard.mark()
    with server(lambda handler, _: say(handler, header(revision=9))) as up:
        read(EtcdStore(EtcdSettings((up,)), guard))
    from cluster.gateway import Header

    assert guard.check(Header("7", "1", "8", "2"), early, "x") == 8


def test_another_cluster_is_told():
    with (
        server(lambda handler, _: say(handler, header())) as one,
        server(lambda h, _: say(h, header(cluster="8"))) as other,
    ):
        guard = Guard()
        read(EtcdStore(EtcdSettings((one,)), guard))
        with pytest.raises(StoreReplaced, match="restart vip on every node"):
            read(EtcdStore(EtcdSettings((other,)), guard))


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (503, {"error": "etcdserver: no leader", "code": 14, "message": "etcdserver: no leader"}, StoreUnavailable),
        (408, {"error": "etcdserver: request timed out", "code": 4}, StoreUnavailable),
        (429, {"error": "etcdserver: mvcc: database space exceeded", "code": 8}, StoreRefused),
        (403, {"error": "etcdserver: permission denied", "code": 7}, StoreRefused),
        (401, {"error": "etcdserver: invalid auth token", "code": 16}, NotLoggedIn),
        (400, {"error": "etcdserver: mvcc: required revision has been compacted", "code": 11}, Compacted),
        (502, b"<html>a proxy</html>", StoreUnavailable),
        (200, b"<html>a proxy</html>", StoreUnavailable),
        (200, b'{"header": {"revision": 7}}', StoreUnavailable),
        (302, b"", StoreUnavailable),
    ],
)  # fmt: skip
def test_refusals_have_their_class(status: int, answer: object, kind: type[Exception]):
    with server(lambda handler, _: say(handler, answer, status)) as refusing, pytest.raises(kind) as caught:
        read(store_of(refusing))
    assert type(caught.value) is kind
    assert refusing in str(caught.value)


def test_a_token_that_ran_out_is_fetched_again():
    tokens: list[str] = []
    valid = ["none"]

    def respond(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if handler.path == "/v3/auth/authenticate":
            assert body == {"name": "root", "password": "secret"}
            valid[0] = f"token-{len(tokens)}"
            tokens.append(valid[0])
            say(handler, header() | {"token": valid[0]})
        elif handler.headers["Authorization"] == valid[0]:
            say(handler, header())
        else:
            say(handler, {"error": "etcdserver: invalid auth token", "code": 16}, 401)

    with server(respond) as endpoint:
        store = store_of(endpoint, user="root", password="secret")
        assert read(store) == 5
        valid[0] = "expired"
        assert read(store) == 5
        assert tokens == ["token-0", "token-1"]


def test_a_watch_whose_login_ran_out_logs_in_again():
    """etcd says so inside of an answer that is called good; without a new login no watch would ever come back."""
    logins: list[str] = []
    refused = b"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    cancelled = (
        json.dumps({"result": header() | {"canceled": True, "cancel_reason": refused.decode()}}).encode() + b"\n"
    )
    event = (
        json.dumps({"result": header() | {"events": [{"kv": {"key": "YQ==", "mod_revision": "5"}}]}}).encode() + b"\n"
    )

    def respond(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if handler.path == "/v3/auth/authenticate":
            logins.append(f"token-{len(logins)}")
            say(handler, header() | {"token": logins[-1]})
        else:
            good = handler.headers["Authorization"] == "token-1"
            stream(CREATED, event if good else cancelled)(handler, body)

    with server(respond) as endpoint:
        store = store_of(endpoint, user="root", password="secret")
        with pytest.raises(NotLoggedIn, match="invalid auth token"):
            store.watch("/", 1, idle=WITHIN, within=WITHIN).next()
        assert store.watch("/", 1, idle=WITHIN, within=WITHIN).next().revision == 5
        assert len(logins) == 2


def test_a_wrong_password_is_not_tried_all_the_time(monkeypatch: pytest.MonkeyPatch):
    """Every try costs etcd the work of a password hash, and a daemon asks ten times a second."""
    tries: list[dict] = []

    def respond(handler: BaseHTTPRequestHandler, body: dict) -> None:
        tries.append(body)
        say(handler, {"error": "etcdserver: authentication failed, invalid user ID or password", "code": 3}, 400)

    with server(respond) as endpoint:
        store = store_of(endpoint, user="root", password="wrong")
        for _ in range(5):
            with pytest.raises(NotLoggedIn, match="check user and password"):
                read(store)
        assert len(tries) == 1
        monkeypatch.setattr("cluster.etcd.LOGIN_REST_SECONDS", 0.0)
        store._login_refused = (0.0, "")
        for _ in range(2):
            with pytest.raises(NotLoggedIn):
                read(store)
        assert len(tries) > 2, "but tried again later"


def test_a_login_that_etcd_does_not_want_yet_is_no_failure(tmp_path: Path):
    """So users can be configured before etcd is told to want them; and a password can be changed in its file."""
    wanted = [False]
    secret = tmp_path / "password"
    secret.write_text("first\n")
    passwords: list[str] = []

    def respond(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if handler.path == "/v3/auth/authenticate":
            passwords.append(body["password"])
            off = {"error": "etcdserver: authentication is not enabled", "code": 9}
            say(handler, header() | {"token": "good"}) if wanted[0] else say(handler, off, 400)
        elif wanted[0] and handler.headers["Authorization"] != "good":
            say(handler, {"error": "etcdserver: user name is empty", "code": 3}, 400)
        else:
            say(handler, header())

    with server(respond) as endpoint:
        store = store_of(endpoint, user="root", password_file=str(secret))
        assert [read(store), read(store)] == [5, 5]
        assert passwords == ["first"], "asked once"
        wanted[0] = True
        secret.write_text("second\n")
        assert read(store) == 5
        assert passwords == ["first", "second"]
        with pytest.raises(NotLoggedIn, match="set etcd_user and etcd_password_file"):
            read(store_of(endpoint))
        secret.unlink()
        with pytest.raises(NotLoggedIn, match="cannot be read"):
            read(store_of(endpoint, user="root", password_file=str(secret)))


@pytest.mark.parametrize(
    "answer",
    [b"<html>a portal</html>", b'{"header": {"revision": "many"}}', b'{"header": {}, "kvs": [{"key": "not base64!"}]}'],
)
def test_nonsense_is_an_error_of_the_store_whatever_was_asked(answer: bytes):
    """Whoever asks lives on: a thread of a daemon knows no other errors."""
    with server(lambda handler, _: say(handler, answer)) as endpoint:
        with pytest.raises(StoreUnavailable):
            read(store_of(endpoint))
        with pytest.raises(StoreUnavailable):
            read(store_of(endpoint, user="root", password="secret"))


@pytest.mark.parametrize(
    "line",
    [
        b"<html>a portal</html>",
        b'{"result": {"header": {"revision": "many"}}}',
        b'{"result": {"events": [{"kv": {"key": "a"}}]}}',
    ],
)
def test_nonsense_ends_a_watch(line: bytes):
    with server(stream(line + b"\n")) as endpoint, pytest.raises(WatchEnded):
        store_of(endpoint).watch("/", 1, idle=WITHIN, within=WITHIN).next()


def test_a_slow_login_does_not_take_the_time_of_two():
    """One deadline over the login and the question."""
    started = time.monotonic()

    def respond(handler: BaseHTTPRequestHandler, body: dict) -> None:
        time.sleep(0.7)
        say(handler, header() | {"token": "good"})

    with server(respond) as endpoint, pytest.raises(DeadlinePassed):
        read(store_of(endpoint, user="root", password="secret"), within=1.0)
    assert time.monotonic() - started < WITHIN / 2


def test_a_refused_commit_is_not_taken_for_done():
    """The gateway leaves out what is false."""
    with server(lambda handler, _: say(handler, header())) as endpoint:
        assert store_of(endpoint).commit(Txn(success=(Put("a", b""),)), within=WITHIN).succeeded is False


def stream(*lines: bytes, then: str = "hold") -> Respond:
    def respond(handler: BaseHTTPRequestHandler, _: dict) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in lines:
            for piece in (line[: len(line) // 2], line[len(line) // 2 :]):  # one message over several chunks
                if piece:
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.flush()
        if then == "end":
            handler.wfile.write(b"0\r\n\r\n")
        else:
            time.sleep(1.0)
            handler.close_connection = True

    return respond


CREATED = json.dumps({"result": header() | {"created": True}}).encode() + b"\n"


@pytest.mark.parametrize(
    ("lines", "then", "kind", "words"),
    [
        ([CREATED], "end", WatchEnded, "ended the watch"),
        ([CREATED], "hold", WatchEnded, "nothing came"),
        (
            [CREATED, b'{"result": {"canceled": true, "compact_revision": "9"}}\n'],
            "hold",
            Compacted,
            "before revision 9",
        ),
        ([CREATED, b'{"result": {"canceled": true, "cancel_reason": "no leader"}}\n'], "hold", WatchEnded, "no leader"),
        ([b'{"error": {"grpc_code": 14, "message": "no leader"}}\n'], "hold", WatchEnded, "no leader"),
        ([CREATED, b"}{\n"], "hold", WatchEnded, "not understood"),
        ([CREATED, json.dumps({"result": header(cluster="9")}).encode() + b"\n"], "hold", StoreReplaced, "belongs"),
    ],
)
def test_watches_end_with_a_reason(lines: list[bytes], then: str, kind: type[Exception], words: str):
    with server(stream(*lines, then=then)) as endpoint:
        watch = store_of(endpoint).watch("/", 1, idle=0.4, within=WITHIN)
        with pytest.raises(kind, match=words):
            watch.next()


def test_a_header_ahead_of_its_events_is_not_how_far_a_watch_is():
    """More events of earlier revisions than the header's may be on their way: nothing may be skipped for it."""
    key = {"key": "YQ==", "create_revision": "7", "mod_revision": "7", "version": "1"}
    line = json.dumps({"result": header(revision=20) | {"events": [{"kv": key}]}}).encode() + b"\n"
    with server(stream(CREATED, line)) as endpoint:
        assert store_of(endpoint).watch("/", 1, idle=WITHIN, within=WITHIN).next().revision == 7


def test_progress_is_an_empty_batch():
    with server(stream(CREATED, json.dumps({"result": header(revision=8)}).encode() + b"\n")) as endpoint:
        batch = store_of(endpoint).watch("/", 1, idle=WITHIN, within=WITHIN).next()
        assert (batch.revision, batch.events) == (0, ())


@pytest.mark.parametrize(
    ("version", "words"),
    [("3.4.23", "3.4.38"), ("3.4.38", ""), ("3.5.16", "3.5.28"), ("3.6.9", ""), ("3.7.1", ""),
     ("3.3.1", "does not work"), ("what", "not a version")],
)  # fmt: skip
def test_versions_with_known_faults_are_told(version: str, words: str):
    assert words in version_warning(version)
    assert bool(version_warning(version)) == bool(words)
