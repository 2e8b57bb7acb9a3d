"""The server: answers, failures, limits, tokens and what they see, what was not modified, and the command as client."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cidr_model import Model
from cidr_queries import NOW, VECTORS, build_store, quarter
from cidr_server import SECONDS_MAX, Served, serving
from cli_support import ROOT

from cidr.ask import Local
from cidr.client import Remote
from cidr.errors import UnknownSeries
from cidr.formats import render
from cidr.language.errors import QueryError
from cidr.server import bounds, openapi
from cidr.server.config import load, parse, parse_listen
from cidr.server.desk import Desk
from cidr.server.errors import NotAllowed
from cidr.server.metrics import Metrics
from cidr.server.schedule import Schedule
from cidr.server.scopes import Scope, Scoped, make_token
from cidr.types import (
    ALL_V4,
    Answer,
    CachedEntry,
    CacheStat,
    Column,
    CountQuery,
    Family,
    Minus,
    Query,
    Ratio,
    Series,
    Union,
)
from jlogd.errors import ConfigError, JlogError, RemoteError

TEN = "show count for 10.0.0.0/8 in spam"


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture(scope="module")
def served():
    with serving(Model(VECTORS), lambda: NOW) as running:
        yield running


class Slow(Model):
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(VECTORS)
        self.go = threading.Event()
        self.asked = threading.Semaphore(0)

    def answer(self, query: Query) -> Answer:
        self.asked.release()
        assert self.go.wait(SECONDS_MAX)
        return super().answer(query)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_queries_by_get_and_post_in_every_format(served):
    local = Local(Model(VECTORS), clock=lambda: NOW)
    for form in ("json", "csv", "ndjson", "legacy", "table", "parquet"):
        wanted = render(local.ask(TEN), form)
        path = f"/v1/query?q={TEN.replace(' ', '+')}&format={form}"
        assert served.query(TEN, form).body == served.get(path).body
        if form in ("csv", "ndjson", "legacy", "table"):
            assert served.get(path).body == wanted
    assert served.get(f"/v1/query?q={TEN.replace(' ', '%20')}", accept="text/csv").text.startswith("cidr,spam\n")
    found = served.get(f"/v1/query?q={TEN.replace(' ', '%20')}&format=csv&download=1")
    assert found.headers["content-disposition"] == 'attachment; filename="cidr.csv"'


def test_series_completion_health_metrics_and_description(served):
    assert [one["name"] for one in served.get("/v1/series").json["series"]] == ["spam", "virus"]
    found = served.get("/v1/complete?text=show+count+for+10.0.0.0/8+in+v").json["completions"]
    assert found == [{"text": "virus", "replaced": 1}]
    assert served.get("/healthz").text == "ok\n"
    served.query("nonsense")
    numbers = served.get("/metrics").text
    assert re.search(r'cidr_requests_total\{route="/v1/query",status="400"\} [1-9]', numbers)
    assert "cidr_cache_hits_total 3.0" in numbers and "cidr_query_seconds_count" in numbers


def test_every_metric_is_in_the_documentation(served):
    """With `_total` as Prometheus shows it, without what a histogram adds."""
    page = (ROOT / "docs" / "cidr.md").read_text()
    shown = set(re.findall(r"^# TYPE (cidr_\w+?)(?:_created)? ", served.get("/metrics").text, re.MULTILINE))
    assert shown and all(f"`{name}`" in page or f"`{name}_total`" in page for name in shown)


def test_the_description_knows_every_route_and_every_failure(served):
    found = served.get("/openapi.json").json
    assert found == openapi.document() and found["openapi"].startswith("3.1")
    paths = {route.path for route in served.app.asgi().routes}
    assert paths - {"/", "/style.css", "/page.js", "/icon.svg"} == set(found["paths"])
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            names = {one["name"] for one in operation["parameters"] if one["required"]}
            assert served.ask(method.upper(), path, b"{}" if method == "post" else None).status == (
                400 if names or method == "post" else 200
            )
    references = set(re.findall(r"#/components/schemas/(\w+)", str(found)))
    assert references == set(found["components"]["schemas"])


def test_what_was_not_modified_is_not_sent_again(served):
    first = served.query(TEN + " on 20080424")
    again = served.query(TEN + " on 20080424", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"") and again.headers["etag"] == first.headers["etag"]
    for other in (TEN, TEN + " on 20080424 limit 1"):
        assert served.query(other, if_none_match=first.headers["etag"]).status == 200
    assert served.query(TEN + " on 20080424", "csv", if_none_match=first.headers["etag"]).status == 200
    assert "etag" not in served.query("show available").headers


def test_a_new_count_is_a_new_etag():
    data = {"spam": [quarter("20080424T001500", {"10.0.0.1": 1})]}
    tags = set()
    for number in (1, 2):
        data["spam"].append(quarter("20080424T003000", {"10.0.0.1": number}))
        with serving(Model(data), lambda: NOW) as running:
            tags.add(running.query(TEN).headers["etag"])
    assert len(tags) == 2


def test_pictures(served):
    png = served.get("/v1/heatmap?block=10.0.0.0/8&series=spam&format=png&detail=8")
    assert png.headers["content-type"] == "image/png" and png.body.startswith(b"\x89PNG")
    svg = served.get("/v1/heatmap?block=10.0.0.0/8&series=union(spam,virus)&format=svg&time=on+20080424")
    assert svg.headers["content-type"].startswith("image/svg+xml") and b"10.0.0.0/16: 20" in svg.body
    for bad in ("block=x&series=spam", "block=10.0.0.0/8&series=spm", "block=10.0.0.0/8&series=*", "block=10.0.0.0/8",
                "block=10.0.0.0/8&series=spam&detail=x", "block=0.0.0.0/0&series=spam&detail=18",
                "block=10.0.0.0/8&series=spam&format=gif",
                "block=10.0.0.0/8&series=spam&time=limit+1+limit+2", "block=10.0.0.1/32&series=spam"):  # fmt: skip
        assert served.get(f"/v1/heatmap?{bad}").status == 400, bad


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_wrong_query_is_told_with_its_place(served):
    found = served.query("show count for 10.0.0.0/8 in spm")
    assert found.status == 400
    assert found.error == {
        "code": "query", "message": 'unknown series "spm"', "start": 29, "end": 32, "expected": [], "nearest": "spam",
    }  # fmt: skip


def test_a_query_that_is_only_unexpected_is_told_in_words(served):
    text = "show cnt for all in *"
    found = served.query(text)
    assert found.error["message"].startswith("expected: ")
    assert "did you mean count?" in found.error["message"]
    remote = Remote(served.url, "", str)
    with pytest.raises(QueryError) as away:
        remote._request("POST", "/v1/query", {"query": text, "format": "json"}, text)
    assert away.value.explanation() == found.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/v1/query", None, 405),
        ("GET", "/v1/query", None, 400),
        ("GET", "/v1/query?q=show+available&format=xml", None, 400),
        ("POST", "/v1/query", b"not json", 400),
        ("POST", "/v1/query", b'{"query": 5}', 400),
        ("POST", "/v1/query", b'{"query": "\xff"}', 400),
        ("POST", "/v1/query", b'{"query": ' + b"[" * 100_000, 400),
        ("POST", "/v1/query", b'{"query": "show available", "more": 1}', 400),
        ("POST", "/v1/query", b'{"query": "' + b"x" * (2 << 20), 413),
        ("GET", "/v1/query?q=" + "x" * 20000, None, 413),
        ("POST", "/v1/query", {"query": "show count for list @/etc/passwd in spam"}, 400),
        ("POST", "/v1/query", {"query": TEN + " in list @/etc/passwd"}, 400),
    ],
)
def test_requests_that_are_refused(served, method, path, body, status):
    found = served.ask(method, path, body)
    assert found.status == status
    assert "Traceback" not in found.text and "root:" not in found.text


def test_a_file_on_the_server_is_never_read(served):
    found = served.query("show count for list @/etc/passwd in spam").error
    assert "files where the query is typed" in found["message"]


class Broken(Model):
    def answer(self, query: Query) -> Answer:
        raise ZeroDivisionError("secret detail")


def test_a_mistake_of_ours_is_told_without_its_inside():
    with serving(Broken(VECTORS)) as running:
        found = running.query(TEN)
        assert found.status == 500 and found.error["message"] == "ZeroDivisionError: this is a mistake of cidr"
        assert running.get("/?q=" + TEN.replace(" ", "+")).status == 500


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_rows_are_bounded_and_the_answer_says_so():
    with serving(Model(VECTORS), lambda: NOW, rows_max=2) as running:
        cut = running.query(TEN).json
        assert len(cut["rows"]) == 2 and cut["matched"] == 3 and cut["notes"] == ["cut: this server sends 2 rows"]
        assert running.query(TEN + " limit 2").json["notes"] == []
        assert running.query(TEN + " limit 1").json["notes"] == []
        page = running.get("/?q=" + TEN.replace(" ", "+") + "+on+20080424")
        assert page.status == 200 and "cut: this server sends 2 rows" in page.text
        assert 'class="heat"' in page.text and "hour by hour" not in page.text
        cells = running.get("/v1/heatmap?block=10.0.0.0/16&series=spam&detail=16")
        assert cells.status == 400 and "ask for fewer bits" in cells.error["message"]
        many = running.query(TEN + " on 20080424 aggregate hourly limit 1")
        assert many.status == 413 and "add a limit" in many.error["message"]


def test_time_and_places_are_bounded():
    engine = Slow()
    try:
        with serving(engine, lambda: NOW, concurrency=1, queue=1, query_seconds=0.5) as running:
            answers: list[int] = []

            def ask() -> None:
                answers.append(running.query(TEN).status)

            first = threading.Thread(target=ask)
            first.start()
            assert engine.asked.acquire(timeout=SECONDS_MAX)
            second = threading.Thread(target=ask)
            second.start()
            while running.app.desk.taken < 2:
                time.sleep(0.01)
            third = running.query(TEN)
            assert third.status == 503 and third.headers["retry-after"] == "2" and third.error["code"] == "busy"
            first.join(SECONDS_MAX)
            second.join(SECONDS_MAX)
            assert answers == [504, 504]
            # The one that never began has given its place back; the one that runs keeps it until it is done.
            assert running.app.desk.taken == 1
            engine.go.set()
            while running.app.desk.taken:
                time.sleep(0.01)
            assert running.query(TEN).status == 200
    finally:
        engine.go.set()


def test_who_says_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(bounds, "HEADERS_SECONDS", 0.3)
    with serving(Model(VECTORS)) as running:
        for beginning in (
            b"",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", running.port), SECONDS_MAX) as peer:
                peer.sendall(beginning)
                answer = b""
                while data := peer.recv(4096):
                    answer += data
                assert answer.endswith(b"ok\n") == beginning.endswith(b"\r\n\r\n")
        assert running.get("/healthz").status == 200


def test_connections_are_bounded():
    with serving(Model(VECTORS), connections=4) as running:
        held = [socket.create_connection(("127.0.0.1", running.port), SECONDS_MAX) for _ in range(6)]
        try:
            assert running.get("/healthz").status == 503
        finally:
            for one in held:
                one.close()
        deadline = time.monotonic() + SECONDS_MAX
        while running.get("/healthz").status != 200:
            assert time.monotonic() < deadline


# ---- who may ask -----------------------------------------------------------------------------------------------------


def test_without_tokens_only_this_machine_may_ask():
    for listen in ("0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090"):
        with pytest.raises(ConfigError, match="no tokens"):
            parse({"listen": listen}, "x")
    assert parse({"listen": "[::1]:0"}, "x").listen == "[::1]:0"


def test_a_page_of_another_name_cannot_have_a_browser_ask(served):
    """DNS rebinding: the name is the attacker's, the address this machine's."""
    for host, status in (("evil.example", 421), (f"evil.example:{served.port}", 421), ("", 421),
                         ("localhost", 200), (f"127.0.0.1:{served.port}", 200), ("[::1]:9090", 200)):  # fmt: skip
        assert served.get("/healthz", Host=host).status == status, host


@pytest.fixture(scope="module")
def guarded():
    tokens = [
        {"name": "all", "sha256": hashed("one")},
        {"name": "some", "sha256": hashed("two"), "series": ["spa.*"], "prefixes": ["10.0.0.0/24"]},
    ]
    with serving(Model(VECTORS), lambda: NOW, token=tokens) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tokens(guarded):
    for headers in ({}, bearer("three"), bearer(""), {"authorization": "Basic !!"}, {"authorization": "one"}):
        for path in ("/", "/v1/query?q=show+available", "/v1/series", "/metrics", "/v1/complete"):
            found = guarded.get(path, **headers)
            assert found.status == 401 and found.headers["www-authenticate"].startswith("Basic "), path
    assert guarded.query(TEN, **bearer("one")).status == 200
    login = base64.b64encode(b"anyone:one").decode()
    assert guarded.get("/", authorization=f"Basic {login}").status == 200
    assert guarded.get("/healthz").status == 200
    assert guarded.get("/healthz", Host="any.name").status == 200


def test_scopes(guarded):
    some = bearer("two")
    assert [one["name"] for one in guarded.get("/v1/series", **some).json["series"]] == ["spam"]
    assert "unknown series" in guarded.query("show count for 10.0.0.0/8 in virus", **some).error["message"]
    everything = guarded.query("show count for 0.0.0.0/0 in *", **some).json
    assert [row["cidr"] for row in everything["rows"]] == ["10.0.0.1/32", "10.0.0.2/32"]
    assert everything["notes"] == ["only 10.0.0.0/24, which is what the token may see"]
    assert [one["name"] for one in everything["columns"]] == ["spam"]
    assert guarded.query("show count for 10.0.0.0/25 in spam", **some).json["notes"] == []
    other = guarded.query("show count for 192.0.2.0/24 in spam", **some)
    assert other.status == 403 and "may see 10.0.0.0/24 only" in other.error["message"]
    page = guarded.get("/?q=show+count+for+0.0.0.0/0+in+spam+cidrsize+24", **some).text.partition("<details")[0]
    assert "10.0.0.0/24" in page and "10.0.1.0" not in page and "virus" not in page
    assert "series" in guarded.query("cache details", **some).text
    for kind in (
        "heavy for 0.0.0.0/0 in spam threshold 1",
        "top movers for 0.0.0.0/0 in spam between 20080424 and 20080425",
    ):
        rows = guarded.query(f"show {kind}", **some).json["rows"]
        assert rows and all(row["cidr"].startswith("10.0.0.") for row in rows)


def test_a_token_of_ours():
    token, digest = make_token()
    assert len(token) >= 43 and hashed(token) == digest


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_the_configuration(tmp_path):
    path = tmp_path / "jlogd.toml"
    path.write_text('[as_logger]\nbase_dir = "x"\n[cidr.server]\nlisten = "127.0.0.1:1"\nquery_seconds = 5\n')
    assert (load(path).listen, load(path).query_seconds) == ("127.0.0.1:1", 5)
    assert load(None).rows_max == 100_000
    path.write_text("[cidr.server\n")
    with pytest.raises(ConfigError, match=r"jlogd\.toml"):
        load(path)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"lisen": "x"}, "lisen"),
        ({"listen": 5}, "listen"),
        ({"listen": "example.org:80"}, "no address"),
        ({"listen": "127.0.0.1:99999"}, "no address"),
        ({"query_seconds": 0}, "from 0.1 to 3600"),
        ({"rows_max": 0}, "rows_max"),
        ({"tls_key": "x"}, "come together"),
        ({"maintain_every": "often"}, "maintain_every"),
        ({"token": [{"name": "x", "sha256": "y"}]}, "64 hexadecimal"),
        ({"token": [{"name": "x"}]}, "sha256"),
        ({"token": [{"name": "x", "sha256": "0" * 64, "series": ["("]}]}, "not a regular expression"),
        ({"token": [{"name": "x", "sha256": "0" * 64, "prefixes": ["10/8"]}]}, "address"),
        ({"token": [{"name": "x", "sha256": "0" * 64, "prefixes": []}]}, "prefixes is empty"),
        ({"token": [{"name": "x", "sha256": "0" * 64, "series": []}]}, "series is empty"),
    ],
)
def test_mistakes_in_the_configuration(table, word):
    with pytest.raises(ConfigError, match=re.escape(word)):
        parse(table, "x.toml")


def test_addresses():
    assert str(parse_listen("[::1]:9090")) == "[::1]:9090" and parse_listen("localhost:1").host == "127.0.0.1"


# ---- the command as client -------------------------------------------------------------------------------------------


def test_the_client_answers_as_the_engine_does(served, tmp_path):
    remote = Remote(served.url, "", lambda path: Path(path).read_text())
    local = Local(Model(VECTORS), clock=lambda: NOW, read=lambda path: Path(path).read_text())
    (tmp_path / "list").write_text("10.0.0.0/24\n")
    texts = [TEN, "show available", "cache details", f"explain {TEN}", "show heavy for 0.0.0.0/0 in spam"]
    texts += [f"show count for list @{tmp_path}/list in *", f"{TEN} in list @{tmp_path}/list aggregate daily percent"]
    for text in texts:
        for form in ("csv", "legacy", "table"):
            assert render(remote.ask(text), form) == render(local.ask(text), form)
    assert remote.series_names() == ["spam", "virus"] and remote.describe() == served.url


def test_the_client_tells_mistakes_and_refusals(served, guarded):
    remote = Remote(served.url, "", str)
    with pytest.raises(QueryError, match="did you mean spam") as caught:
        remote.ask("show count for 10.0.0.0/8 in spm")
    assert caught.value.caret().splitlines()[1].index("^") == 29
    with pytest.raises(JlogError, match="a token is needed"):
        Remote(guarded.url, "wrong", str).ask(TEN)
    with pytest.raises(JlogError, match="may see"):
        Remote(guarded.url, "two", str).ask("show count for 192.0.2.0/24 in spam")
    assert Remote(guarded.url, "one", str).ask(TEN)


def test_the_client_bears_a_server_that_is_none():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            for reply in (
                b"SSH-2.0-x\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                b"HTTP/1.1 500 x\r\n\r\n",
            ):
                peer, _ = other.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(reply)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(4096):  # closed over what was not read, it would be a reset
                        pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        for word in ("cannot be asked", "cannot be read", "not understood"):
            with pytest.raises(RemoteError, match=word):
                Remote(f"http://127.0.0.1:{other.getsockname()[1]}", "", str).ask(TEN)
        thread.join(SECONDS_MAX)


# ---- maintain on schedule, and a whole process -----------------------------------------------------------------------


def test_maintain_runs_again_and_again_and_survives_failures(capsys):
    runs = threading.Semaphore(0)
    failures: list[Exception] = [OverflowError("date value out of range"), JlogError("the disk is full")]

    def work() -> None:
        runs.release()
        if failures:
            raise failures.pop()

    metrics = Metrics(Model(VECTORS), Desk(1, 1, 1))
    schedule = Schedule(work, 0.01, metrics)
    schedule.start()
    for _ in range(4):
        assert runs.acquire(timeout=SECONDS_MAX)
    schedule.stop()
    page = metrics.page().decode()
    assert 'cidr_maintain_runs_total{result="failed"} 2.0' in page and 'result="done"' in page
    said = capsys.readouterr().err
    assert "maintain failed and is tried again: the disk is full" in said
    assert "OverflowError('date value out of range'), a mistake of cidr" in said
    idle = Schedule(work, None, metrics)
    idle.start()
    idle.stop()


@pytest.mark.slow
def test_a_server_process_with_tls(tmp_path):
    """`cidr serve` over TLS, asked by the command, ended by SIGTERM."""
    store = build_store(tmp_path / "store", VECTORS)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "crt.pem"],
        cwd=tmp_path, check=True, capture_output=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    config = tmp_path / "cidr.toml"
    config.write_text(
        f'[cidr.server]\nlisten = "127.0.0.1:0"\ntls_certificate = "{tmp_path}/crt.pem"\n'
        f'tls_key = "{tmp_path}/key.pem"\n'
        'maintain_every = "1s"\n'
        f'[[cidr.server.token]]\nname = "me"\nsha256 = "{hashed("secret")}"\n'
        '[cidr.maintain]\nkeep_minutes = "none"\nkeep_hours = "none"\nkeep_days = "none"\n'
    )
    (tmp_path / "token").write_text("secret\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "SSL_CERT_FILE": str(tmp_path / "crt.pem"),
    }
    command = [sys.executable, "-m", "cidr.cli.main"]
    server = subprocess.Popen(
        [*command, "serve", "--base-dir", str(store), "--config", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        assert server.stdout
        line = server.stdout.readline().decode()
        url = re.search(r"https://127\.0\.0\.1:\d+", line)
        assert url, line
        asked = subprocess.run(
            [*command, "--server", url[0], "--token-file", str(tmp_path / "token"), "--format", "legacy", "-e", TEN],
            capture_output=True, env=environment, timeout=SECONDS_MAX,
        )  # fmt: skip
        assert asked.stdout.startswith(b"10.0.0.1/32        :         8\n"), asked.stderr
        with pytest.raises(JlogError, match="is not trusted"):
            Remote(url[0], "secret", str).ask(TEN)
        _until_maintained(int(url[0].rpartition(":")[2]), tmp_path / "crt.pem")
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS_MAX) == 0
        assert server.stderr and server.stderr.read() == b""
    finally:
        server.kill()
        server.wait(SECONDS_MAX)
        for pipe in (server.stdout, server.stderr):
            assert pipe
            pipe.close()


def _until_maintained(port: int, certificate: Path) -> None:
    """Until the metrics say that maintain ran."""
    deadline = time.monotonic() + SECONDS_MAX
    context = ssl.create_default_context(cafile=str(certificate))
    page = b""
    while b'cidr_maintain_runs_total{result="done"}' not in page:
        assert time.monotonic() < deadline, page
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS_MAX, context=context)
        connection.request("GET", "/metrics", headers=bearer("secret"))
        page = connection.getresponse().read()
        connection.close()


def test_an_address_in_use(served: Served, tmp_path):
    from cli_support import _run, failed

    from cidr.cli.main import cli

    store = build_store(tmp_path / "store", VECTORS)
    words = ("serve", "--base-dir", store, "--listen", f"127.0.0.1:{served.port}")
    failed(_run(cli, "cidr", words, b""), 3, f"127.0.0.1:{served.port}", "in use")


def test_an_engine_in_a_scope_refuses_hidden_series_however_they_are_named():
    """The language does not know them; what is built without it is refused all the same."""
    hidden = Scoped(Model(VECTORS), Scope("x", (re.compile("spam"),)))
    seen, unseen = Series("spam"), Series("virus")
    for expression in (unseen, Union((seen, unseen)), Minus(seen, unseen), Ratio(Union((seen, unseen)), seen)):
        asked = CountQuery(blocks=(ALL_V4,), columns=(Column("x", expression),))
        for ask_for in (hidden.answer, hidden.explain):
            with pytest.raises(NotAllowed, match="virus"):
                ask_for(asked)
    assert len(hidden.answer(CountQuery(blocks=(ALL_V4,), columns=(Column("x", seen),)))) == 3


def test_sums_and_hints_tell_of_no_hidden_series():
    """The pattern `spa.*` matches the words "spam, virus" too, which is what a sum of both is called in the cache."""
    scope = Scope("x", (re.compile("spa.*"),))
    entries = [
        CachedEntry(path, series, Family.V4, 0, 60, 1, 1, 1, 0)
        for path, series in (("a", "spam"), ("", "spam, virus"), ("b", "virus"), ("", "spam, spare"))
    ]

    class Told(Model):
        def cache(self, entries_max: int = 100) -> CacheStat:
            return CacheStat(4, 9, 0, 0, tuple(entries))

        def answer(self, query: Query) -> Answer:
            raise UnknownSeries("spam", ["spam2", "virus", "span"])

        explain = answer

    hidden = Scoped(Told(VECTORS), scope)
    assert [one.series for one in hidden.cache().entries] == ["spam", "spam, spare"]
    asked = CountQuery(blocks=(ALL_V4,), columns=(Column("x", Series("spam")),))
    for ask_for in (hidden.answer, hidden.explain):
        with pytest.raises(UnknownSeries) as caught:
            ask_for(asked)
        assert set(caught.value.known) == {"spam2", "span"}
