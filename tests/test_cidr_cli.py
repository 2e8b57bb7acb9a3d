"""The command `cidr`: queries, formats, exit codes, files, and where its words are not understood."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from cidr_queries import VECTORS, build_store
from cli_support import Ended, _run, done, failed

from cidr.cli.main import cli
from jlogd.version import VERSION

TEN = "show count for 10.0.0.0/8 in spam"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return build_store(tmp_path_factory.mktemp("store"), VECTORS)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("CIDR_BASE_DIR", "CIDR_SERVER", "CIDR_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def cidr(*args: object, stdin: bytes = b"") -> Ended:
    return _run(cli, "cidr", args, stdin)


def test_a_query(store):
    ended = done(cidr("--base-dir", store, "-e", TEN + " on 20080424"))
    assert [line.split() for line in ended.lines[:4]] == [
        ["cidr", "spam"], ["10.0.0.1/32", "7"], ["10.0.0.2/32", "3"], ["10.0.1.7/32", "4"],
    ]  # fmt: skip
    assert ended.lines[4].startswith("-- 3 rows; 2 segments; 2008-04-24 00:00 to 2008-04-25 00:00 UTC; coverage 2.1 %")
    assert "[partial, " in ended.lines[4] and ended.err == ""


def test_legacy_is_alone_on_standard_output(store):
    ended = done(cidr("--base-dir", store, "--format", "legacy", "-e", TEN + " on 20080424"))
    assert (
        ended.raw == b"10.0.0.1/32        :         7\n10.0.0.2/32        :         3\n10.0.1.7/32        :         4\n"
    )
    assert ended.err.startswith("-- 3 rows") and ended.err.count("\n") == 1
    assert done(cidr("--base-dir", store, "--format", "legacy", "--quiet", "-e", TEN)).err == ""


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "parquet"])
def test_formats_to_files(store, tmp_path, form):
    path = tmp_path / f"out.{form}"
    ended = done(cidr("--base-dir", store, "--format", form, "--output", path, "-e", TEN))
    assert ended.raw == b"" and "3 rows" in ended.err
    data = path.read_bytes()
    rows = {
        "csv": lambda: data.decode().splitlines()[1:],
        "json": lambda: msgspec.json.decode(data)["rows"],
        "ndjson": lambda: data.splitlines(),
        "parquet": lambda: pq.read_table(io.BytesIO(data)).to_pylist(),
    }[form]()
    assert len(rows) == 3


def test_an_empty_answer_says_so_and_ends_with_1(store):
    ended = cidr("--base-dir", store, "-e", "show count for 172.16.0.0/12 in spam")
    assert ended.code == 1
    assert ended.out.startswith("-- no rows: 3 segments read, no address under 172.16.0.0/12 counted")


def test_a_wrong_query_shows_where_and_ends_with_2(store):
    ended = failed(cidr("--base-dir", store, "-e", "show count for 10.0.0.0/8 in spm"), 2, "did you mean spam?")
    query, carets = ended.err.splitlines()
    assert query == "error: show count for 10.0.0.0/8 in spm"
    assert carets.startswith(" " * query.index("spm") + "^^^ unknown series") and ended.raw == b""


def test_queries_line_by_line(store):
    lines = f"# two\n{TEN} limit 1\n\nshow available\n"
    ended = done(cidr("--base-dir", store, "--format", "csv", "--quiet", stdin=lines.encode()))
    assert ended.lines[:3] == ["cidr,spam", "10.0.0.1/32,8", "series,families,first,last,segments,rows,bytes"]
    assert cidr("--base-dir", store, stdin=f"{TEN} limit 0\n{TEN}".encode()).code == 2


def test_lists_of_blocks(store, tmp_path):
    (tmp_path / "my blocks").write_text("10.0.0.0/24\n192.0.2.9  # one\n")
    query = f'show count for list @"{tmp_path}/my blocks" in *'
    ended = done(cidr("--base-dir", store, "--format", "csv", "-e", query))
    assert ended.lines == ["cidr,spam,virus", "10.0.0.1/32,8,0", "10.0.0.2/32,3,6", "192.0.2.9/32,0,1"]
    failed(cidr("--base-dir", store, "-e", "show count for list @/no/such in spam"), 2, "/no/such cannot be read")


def test_places_that_are_none(tmp_path, store):
    failed(cidr("--base-dir", tmp_path / "none", "-e", TEN), 1, str(tmp_path / "none"))
    failed(cidr("--server", "http://127.0.0.1:1", "-e", TEN), 3, "127.0.0.1:1", "is cidr serve running there?")
    failed(cidr("--server", "ftp://x", "-e", TEN), 2, "write http://127.0.0.1:9090")


def test_a_token_is_not_sent_where_anyone_can_read_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CIDR_TOKEN", "secret")
    failed(cidr("--server", "http://192.0.2.1:9090", "-e", TEN), 2, "https only")
    empty = tmp_path / "empty"
    empty.touch()
    failed(cidr("--server", "https://192.0.2.1", "--token-file", empty, "-e", TEN), 2, "holds no token")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("show available",), 'a query follows -e, as one word: cidr -e "show available"'),
        (("show", "available"), 'cidr -e "show available"'),
        (("srve",), "did you mean serve?"),
        (("frobnicate",), "there are: "),
        (("-s",), "No such option"),
        (("-e", TEN, "serve"), "give one of them"),
        (("--output", "x"), "add -e QUERY"),
        (("--format", "xml", "-e", TEN), "xml"),
        (("heatmap", "10.0.0.0/8", "--series", "spam", "-o", "x.gif"), "neither in .png nor in .svg"),
        (("heatmap", "10.0.0.1/32", "--series", "spam", "-o", "x.png"), "nothing to draw"),
        (("heatmap", "10.0.0.0/8", "--series", "spam", "-o", "x.svg", "--detail", "16"), "draw a PNG"),
        (("serve", "--listen", "0.0.0.0:9090"), "there are no tokens"),
        (("serve", "--listen", "example"), "is no address"),
    ],
)
def test_words_that_are_not_understood(words, hint, store):
    failed(cidr("--base-dir", store, *words), 2, hint)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_heat_map(store, tmp_path, kind):
    path = tmp_path / f"map.{kind}"
    ended = done(cidr("heatmap", "0.0.0.0/0", "--series", "union(spam, virus)", "-o", path, "--base-dir", store))
    assert "union(spam,virus) in 0.0.0.0/0" in ended.out
    assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<svg")
    empty = cidr("--base-dir", store, "heatmap", "172.16.0.0/12", "--series", "spam", "-o", path)
    assert empty.code == 1
    failed(cidr("--base-dir", store, "heatmap", "0.0.0.0/0", "--series", "spm", "-o", path), 2, "did you mean spam?")
    for option, given, under in (("--series", "union(spm)", "spm"), ("--time", "on monday", "monday")):
        more = ["--series", "spam", option, given] if option == "--time" else [option, given]
        lines = cidr("--base-dir", store, "heatmap", "0.0.0.0/0", *more, "-o", path).err.splitlines()
        assert lines[0] == f"error: {option} {given}"  # not a query that nobody typed
        assert lines[1].index("^") == lines[0].index(under)
    failed(cidr("--base-dir", store, "heatmap", "0.0.0.0/0", "--series", "*", "-o", path), 2, "shows one column")


def test_a_token_is_made(store):
    lines = done(cidr("serve", "--make-token", 'a "b"')).lines
    assert lines[0].startswith("# The token, shown once: ") and lines[1:3] == [
        "[[cidr.server.token]]",
        'name = "a \\"b\\""',
    ]


def test_a_server_is_asked_without_loading_what_only_an_engine_needs():
    """The client starts fast: pyarrow alone takes longer to load than a server to answer."""
    code = "import sys, cidr.cli.main, cidr.client, cidr.formats.document; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).stdout == b"False\n"


@pytest.mark.parametrize("module", ["cidr.cli.main", "cidr.cli.as_logger"])
def test_without_its_libraries_it_says_what_to_install(module):
    code = f"import sys; sys.modules['lark'] = None; import {module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert ended.returncode == 3
    assert ended.stderr == (
        b"error: counts need lark: pip install 'jlogd[cidr]', or pip install '.[cidr]' in a checkout of jlogd\n"
    )


@pytest.mark.parametrize(("module", "name"), [("cidr.cli.main", "cidr"), ("cidr.cli.as_logger", "as_logger")])
def test_its_version_needs_no_libraries(module, name):
    code = f"import sys; sys.modules['lark'] = None; sys.argv[:] = ['/bin/{name}', '--version']; import {module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode() == f"{name} {VERSION}\n"
