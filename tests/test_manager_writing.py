"""How a round is written: several files at a time, what leaves the page cache, what a pull may have under way, and what
the C library keeps of freed memory.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from manager_support import NOON_NS

from jlogd.journal.batch import encode
from jlogd.journal.disk import Buffer
from jlogd.manager import hub as hubs
from jlogd.manager import store as stores
from jlogd.manager.config import MEMORY_DEFAULT
from jlogd.manager.files import FileOutput
from jlogd.manager.hub import Hub
from jlogd.manager.ledger import LmdbLedger
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.store import PosixStore, PosixText
from jlogd.manager.template import Origin, Template

# Longer than a thread needs to be seen at work; nothing is asserted about it.
MOMENT_SECONDS = 0.2


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LmdbLedger]:
    found = LmdbLedger(tmp_path / "ledger")
    yield found
    found.close()


def parcel(node: str, *records: bytes) -> Parcel:
    source = Source(Origin(node, "", "mainlog", node), "mgr1", "files:")
    return Parcel(source, "uuid", [encode(list(records)).stamped(1, 1, NOON_NS, 1)])


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of the test"), ZeroDivisionError("of the test")], ids=repr)
def test_a_round_that_failed_appends_nothing_more(
    tmp_path: Path, ledger: LmdbLedger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One file fails at once, another is slow: whoever is told of the failure may cut back, so all must have ended."""
    failed, ended = threading.Event(), threading.Event()
    plainly = PosixText.append

    def append(self: PosixText, buffers: Sequence[Buffer]) -> int:
        if bytes(buffers[0]).startswith(b"bad"):
            failed.set()
            raise error
        failed.wait()
        time.sleep(MOMENT_SECONDS)
        done = plainly(self, buffers)
        ended.set()
        return done

    monkeypatch.setattr(PosixText, "append", append)
    with ThreadPoolExecutor(2) as pool:
        template = Template(f"{tmp_path}/files/%{{node}}")
        output = FileOutput(PosixStore(), ledger, template, map_files=pool.map)
        with pytest.raises(type(error), match="of the test"):
            output.write([parcel("a", b"bad"), parcel("b", b"good")])
        assert ended.is_set()
        monkeypatch.undo()
        changes = output.write([parcel("a", b"bad"), parcel("b", b"good")])
    assert (tmp_path / "files" / "a").read_bytes() == b"bad\n"
    assert (tmp_path / "files" / "b").read_bytes() == b"good\n"
    assert {state.length for state in changes.files.values()} == {4, 5}
    output.close()


def test_what_was_synced_leaves_the_page_cache_but_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "CACHED_BYTES", 1000)
    monkeypatch.setattr(stores, "UNCACHED_BYTES", 500)
    told: list[tuple[str, int, int]] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (sync(fd), told.append(("sync", os.fstat(fd).st_size, 0)))[0])
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, at, length, _what: told.append(("gone", at, length)))
    file = PosixStore().create(str(tmp_path / "file"), 0o600)
    synced = gone = 0
    for size in (100, 900, 400, 200, 3000, 10, 600):
        file.append([b"x" * size])
        file.sync()
        for what, at, length in told:
            if what == "sync":
                synced = at
            else:
                assert at == gone and length >= 500
                gone += length
                assert gone <= synced - 1000
        told.clear()
        assert synced - gone <= 1000 + 500
    assert synced == 5210
    file.close()
    # One that is opened with much in it: what is in it stays as it is.
    again = PosixStore().open(str(tmp_path / "file"))
    again.append([b"x" * 600])
    again.sync()
    assert [entry for entry in told if entry[0] == "gone"] == [("gone", 4210, 600)]
    again.close()


def test_a_system_that_takes_no_advice_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "of the test")

    monkeypatch.setattr(stores, "CACHED_BYTES", 0)
    monkeypatch.setattr(stores, "UNCACHED_BYTES", 1)
    monkeypatch.setattr(os, "posix_fadvise", refuse)
    file = PosixStore().create(str(tmp_path / "file"), 0o600)
    file.append([b"a line\n"])
    file.sync()
    assert (tmp_path / "file").read_bytes() == b"a line\n"
    file.close()


@pytest.mark.parametrize(("nodes", "logs"), [(1, 1), (2, 1), (1, 5), (3, 20), (100, 1), (1000, 5)])
def test_what_pulls_have_under_way_is_a_share_of_the_memory_and_of_the_nodes(nodes: int, logs: int) -> None:
    hub = Hub(lambda _source: None, lambda _parcel: None, MEMORY_DEFAULT)
    try:
        for at in range(nodes):
            hub.sessions[str(at)] = SimpleNamespace(pulls=dict.fromkeys(range(logs)))  # type: ignore[assignment]
        window = hub.window(logs)
        assert hubs.WINDOW_BYTES_MIN <= window <= hubs.WINDOW_BYTES_MAX
        assert window * logs <= hubs.NODE_BYTES
        assert window * logs * nodes <= MEMORY_DEFAULT
        if nodes * logs == 1:
            assert window == hubs.WINDOW_BYTES_MAX
    finally:
        hub.context.term()
