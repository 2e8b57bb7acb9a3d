"""The shell: what lines do, where answers go, completion, history, and a session in a real terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cidr_model import Model
from cidr_queries import NOW, VECTORS, build_store
from cli_support import ROOT
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cidr.ask import Local
from cidr.cli.shell import Shell, split_target
from cidr.language.manual import TOPICS
from cidr.language.parser import parse
from jlogd.errors import UsageError

TEN = "show count for 10.0.0.0/8 in spam"
SECONDS_MAX = 60


class Session:
    """A shell whose words are kept."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shell = Shell(Local(Model(VECTORS), "dictionaries", clock=lambda: NOW), say=self.said.append)

    def does(self, line: str) -> str:
        """What a line prints."""
        self.said.clear()
        assert self.shell.handle(line)
        return "\n".join(self.said)


@pytest.fixture
def session() -> Session:
    return Session()


def test_answers_mistakes_and_failures(session):
    assert "10.0.0.1/32     8" in session.does(TEN) and "-- 3 rows" in session.said[0]
    # The query is above the carets already, so only they are printed, under its words.
    shown = session.does("show count for 10.0.0.0/8 in spm")
    assert shown.startswith(" " * len("cidr> show count for 10.0.0.0/8 in ") + "^^^ unknown series")
    assert session.does("") == ""
    assert "\n" in session.does("show count for 10.0.0.0/8 in spm | csv")


def test_pipes_and_files(session, tmp_path):
    assert session.does(TEN + " | csv").startswith("cidr,spam\n10.0.0.1/32,8\n")
    assert session.does(TEN + "|csv").startswith("error: ") or "^" in session.said[0]
    path = tmp_path / "a b.json"
    assert "bytes in" in session.does(f'{TEN} > "{path}"') and path.read_bytes().startswith(b'{"kind":"rows"')
    session.does(f"{TEN} | legacy > {tmp_path}/x.txt")
    assert (tmp_path / "x.txt").read_bytes().startswith(b"10.0.0.1/32        :         8\n")
    session.does(f"{TEN} > {tmp_path}/x.parquet")
    assert (tmp_path / "x.parquet").read_bytes()[:4] == b"PAR1"
    assert session.does(f"{TEN} > /no/such/file.csv").startswith("error: /no/such/file.csv: no such file")
    assert "did you mean ndjson?" in session.does(TEN + " | njson")
    assert "send it to a file" in session.does(TEN + " | parquet")


@pytest.mark.parametrize(
    ("line", "query", "form", "file"),
    [
        ("show x", "show x", "table", None),
        ("show x | csv", "show x", "csv", None),
        ("show x > f.ndjson ", "show x", "ndjson", Path("f.ndjson")),
        ("show x | csv > f.json", "show x", "csv", Path("f.json")),
        ("show count for ::/0 in ~^(a|b)$", "show count for ::/0 in ~^(a|b)$", "table", None),
        ('show count for ::/0 in ~"a | b"', 'show count for ::/0 in ~"a | b"', "table", None),
    ],
)
def test_where_an_answer_goes(line, query, form, file):
    assert split_target(line, "table") == (query, form, file)


def test_drill_and_up(session):
    session.does("show count for 0.0.0.0/0 in spam, virus cidrsize 8 order by count")
    assert "for 10.0.0.0/8 in spam, virus cidrsize 16 order by count" in session.does("drill 1")
    assert "10.0.0.0/16" in session.said[1]
    session.does("drill 1")
    assert "10.0.0.0/24" in session.said[1]
    session.does("drill 1")
    session.does("drill 1")
    assert "for 10.0.0.0/24 in" in session.does("up") or "10.0.0.0" in session.said[0]
    assert "takes the number of a row" in session.does("drill 99")
    assert "takes the number of a row" in session.does("drill")
    assert "there are no rows yet" in Session().does("drill 1")
    assert "nothing above" in Session().does("up")
    session.does("show count for 10.0.0.1/32 in spam")
    assert "one address" in session.does("drill 1")


def test_help(session):
    assert "show count for BLOCK" in session.does("help")
    for topic in TOPICS:
        shown = session.does(f"help {topic}")
        assert TOPICS[topic].example in shown
    assert "cidrsize N" in session.does("help cidrsiz")
    assert "there is no help on 'zzz'" in session.does("help zzz")


def test_every_example_of_the_help_is_a_query():
    for topic in TOPICS.values():
        assert str(parse(topic.example))


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT", " exit "])
def test_exit(session, word):
    assert session.shell.handle(word) is False


def test_completion(session):
    session.does(TEN + " cidrsize 24")
    offered = {text for text, _ in session.shell.completions("")}
    assert {"show", "help", "exit", "drill"} <= offered
    assert ("10.0.1.0/24", 2) in session.shell.completions("show count for 10")
    assert ("virus", 1) in session.shell.completions("show count for 10.0.0.0/8 in v")
    assert ("cidrsize", 4) in session.shell.completions("help cidr")
    assert ("csv", 1) in session.shell.completions(TEN + " | c")
    assert "limit" not in {text for text, _ in session.shell.completions(TEN + " limit 5 ")}


def test_lines_are_read_and_remembered(session, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with create_pipe_input() as keys:
        keys.send_text(f"{TEN} limit 1\rshow available\rexit\r")
        assert session.shell.run(keys, DummyOutput()) == 0
    assert "1 of 3 rows" in session.said[0]
    assert "2008-04-25" in session.said[1]
    history = tmp_path / "state" / "cidr" / "history"
    assert f"+{TEN} limit 1" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with create_pipe_input() as keys:
        keys.send_text("\x04")
        assert session.shell.run(keys, DummyOutput()) == 0


@pytest.mark.slow
def test_a_session_in_a_terminal(tmp_path):
    """Completion, a wrong query with its caret, an answer longer than the screen in the pager, and the way out."""
    many = {"spam": [(0, 900, {f"10.0.{n}.1": n for n in range(90)})]}
    store = build_store(tmp_path / "store", many)
    leader, follower = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "PAGER": "cat",
        "LINES": "24",
        "COLUMNS": "100",
    }
    environment["XDG_STATE_HOME"] = str(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-m", "cidr.cli.main", "--base-dir", str(store)],
        stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = bytearray()

    def until(word: bytes) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while word not in seen:
            ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, (word, bytes(seen[-2000:]))
            data = os.read(leader, 4096)
            seen.extend(data)
            if b"\x1b[6n" in data:  # prompt_toolkit asks where the cursor is
                os.write(leader, b"\x1b[1;1R")

    try:
        until(b"cidr>")
        os.write(leader, b"show count for 10.0.0.0/8 in spm\r")
        until(b"did you mean spam?")
        del seen[:]
        os.write(leader, b"show avail\t")
        # Drawn as a whole, or as what is new at the end of the line.
        until(b"able")
        os.write(leader, b"\r")
        until(b"1 series")
        del seen[:]
        os.write(leader, b"show count for 10.0.0.0/8 in spam\r")
        until(b"90 rows")
        assert b"10.0.89.1/32" in seen
        os.write(leader, b"exit\r")
        assert started.wait(SECONDS_MAX) == 0
    finally:
        started.kill()
        started.wait(SECONDS_MAX)
        os.close(leader)


def test_targets_that_are_none():
    with pytest.raises(UsageError, match="there is no format"):
        split_target("show x | xml", "table")
