"""Text logs of a node: its own logs in files, exactly once, rotated by date or size."""

from __future__ import annotations

import errno
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from cli_support import done, jlogctl
from daemon_support import until
from manager_nodes import numbered
from manager_processes import Load, NodeProcess, numbers

import jlogd
from jlogd.journal.batch import encode
from jlogd.journal.journal import Journal
from jlogd.manager import orders
from jlogd.manager.config import TextLog
from jlogd.manager.ledger import LmdbLedger
from jlogd.manager.texts import Texts
from jlogd.manager.verify import verify


class Node:
    """Texts over a journal of this process."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.log = TextLog(str(directory / "log" / "%{log}"), **options)  # type: ignore[arg-type]
        if not (directory / "mainlog").exists():
            jlogd.create(directory / "mainlog")
        self.journal = Journal.open(directory / "mainlog")
        self.texts = Texts(directory / "ledger", "east1", "east", lambda _: self.journal)
        self.texts.replace({"mainlog": self.log})

    def append(self, first: int, count: int) -> None:
        self.journal.commit([encode(numbered(first, count))])

    def text(self) -> bytes:
        paths = [self.directory / "log" / "mainlog"]
        paths += [paths[0].with_name(f"mainlog.part{number}") for number in range(2, 30)]
        return b"".join(path.read_bytes() for path in paths if path.exists())

    def until_lines(self, count: int) -> list[bytes]:
        until(lambda: self.text().count(b"\n") >= count, f"{count} lines")
        return self.text().splitlines()

    def close(self) -> None:
        self.texts.stop()
        self.journal.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def test_a_log_is_written_as_text(node: Node) -> None:
    node.append(0, 100)
    node.append(100, 100)
    assert node.until_lines(200) == numbered(0, 200)
    until(lambda: node.journal.stat().subscribers[0].lag_records == 0, "the log may forget it")
    assert node.texts.problems() == []


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        node = Node(tmp_path)
        node.append(10 * number, 10)
        assert node.until_lines(10 * (number + 1)) == numbered(0, 10 * (number + 1))
        node.close()


def test_a_full_file_is_followed_by_the_next(tmp_path: Path) -> None:
    node = Node(tmp_path, size_max=500)
    for number in range(10):
        node.append(10 * number, 10)
        node.until_lines(10 * (number + 1))
    assert node.text().splitlines() == numbered(0, 100)
    parts = sorted((tmp_path / "log").iterdir())
    assert len(parts) > 1 and all(500 <= part.stat().st_size < 1000 for part in parts[:1])
    node.close()


def test_a_setting_that_changes_takes_effect(node: Node) -> None:
    node.append(0, 10)
    node.until_lines(10)
    other = TextLog(str(node.directory / "elsewhere"))
    node.texts.replace({"mainlog": other})
    node.append(10, 10)
    until(lambda: (node.directory / "elsewhere").exists(), "the other file")
    until(lambda: (node.directory / "elsewhere").read_bytes().splitlines() == numbered(10, 10), "its lines")
    node.texts.replace({})
    node.append(20, 10)
    node.texts.replace({"mainlog": node.log})
    assert node.until_lines(20) == [*numbered(0, 10), *numbered(20, 10)]


def test_a_restored_copy_of_the_log_stops_it_until_a_person_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose word is heard, though there was a moment in which orders could not be looked for."""
    real, shortages = orders.given, [OSError(errno.EMFILE, "too many open files")]

    def given(directory: Path) -> list[tuple[Path, orders.Order]]:
        if shortages:
            raise shortages.pop()
        return real(directory)

    node = Node(tmp_path)
    node.append(0, 10)
    node.until_lines(10)
    node.close()
    shutil.copytree(tmp_path / "mainlog", tmp_path / "backup")
    node = Node(tmp_path)
    node.append(10, 10)
    node.until_lines(20)
    node.close()
    shutil.rmtree(tmp_path / "mainlog")
    (tmp_path / "backup").rename(tmp_path / "mainlog")
    node = Node(tmp_path)
    until(lambda: node.texts._pulls["mainlog"].stopped, "it stops")
    assert "went back" in node.texts.problems()[0] and "--text" in node.texts.problems()[0]
    node.append(50, 5)
    monkeypatch.setattr(orders, "given", given)
    until(lambda: not shortages, "orders are looked for")
    orders.give(tmp_path / "ledger", orders.Resume("east1", "mainlog"))
    lines = node.until_lines(26)
    assert b"goes on by decision" in lines[20] and lines[21:] == numbered(50, 5)
    assert node.texts.problems() == []
    node.close()


def test_an_order_to_resume_is_not_kept_for_another_time(node: Node) -> None:
    node.append(0, 10)
    node.until_lines(10)
    path = orders.give(node.directory / "ledger", orders.Resume("east1", "mainlog"))
    until(lambda: not path.exists(), "it is dropped")
    node.append(10, 10)
    assert node.until_lines(20) == numbered(0, 20)


def test_a_file_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"in the way")
    node = Node(tmp_path)
    node.append(0, 10)
    problem = until(node.texts.problems, "it is told")[0]
    assert "the text of mainlog cannot be written" in problem
    (tmp_path / "log").unlink()
    assert node.until_lines(10) == numbered(0, 10)
    node.close()


def test_closed_days_are_compressed_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logs of one ledger with it, one without."""
    monkeypatch.setattr("jlogd.manager.compress.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("jlogd.manager.compress.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("jlogd.manager.handles.IDLE_SECONDS", 0.0)
    names = ("one", "two", "three")
    journals = {}
    for name in names:
        jlogd.create(tmp_path / name)
        journals[name] = Journal.open(tmp_path / name)
    texts = Texts(tmp_path / "ledger", "east1", "east", journals.__getitem__)
    template = str(tmp_path / "text" / "%{log}-%Y%m%d-%H%M%S")
    modes = {"one": "0600", "two": "0644", "three": "0640"}
    texts.replace({n: TextLog(template, 0, modes[n], "utc", "none" if n == "three" else "zstd") for n in names})

    def endings(name: str) -> set[str]:
        return {path.suffix for path in (tmp_path / "text").glob(f"{name}-*")}

    for journal in journals.values():
        journal.commit([encode(numbered(0, 1000))])
    until(
        lambda: endings("one") == endings("two") == {".zst"},
        "they are compressed, and what they were made from is gone",
    )
    assert endings("three") == {""}
    for name in ("one", "two"):
        [path] = (tmp_path / "text").glob(f"{name}-*")
        assert path.stat().st_mode & 0o777 == int(modes[name], 8)
        assert zstandard.decompress(path.read_bytes()).splitlines() == numbered(0, 1000)
    texts.stop()
    for journal in journals.values():
        journal.close()
    ledger = LmdbLedger(tmp_path / "ledger")
    assert verify(ledger).right
    ledger.close()


@pytest.mark.slow
def test_a_daemon_writes_its_text_once_whatever_kills_it(tmp_path: Path) -> None:
    text = tmp_path / "text"
    node = NodeProcess(tmp_path / "node", "east1", log=f'text = "{text}"')
    try:
        node.wait_ready()
        load = Load(node)
        load.start()
        for _ in range(4):
            before = text.stat().st_size if text.exists() else 0
            until(lambda before=before: text.exists() and text.stat().st_size > before + 1000, "it is written")
            node.end(signal.SIGKILL)
            node.launch()
        node.wait_ready()
        total = load.end()
        until(lambda: text.read_bytes().count(b"\n") >= total, "all of it")
        assert numbers(text.read_bytes()) == list(range(total))
        assert node.end() == 0 and "Traceback" not in node.errors.read_text()
        assert "right" in done(jlogctl("manager", "verify", "--text", "--config", node.config)).out
    finally:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()
