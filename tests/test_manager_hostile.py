"""A node that sends what no jlogd would send: it harms its own logs at most, and the manager says so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c
from daemon_support import until
from manager_crowd import Crowd

from jlogd.journal.batch import Batch, encode
from jlogd.manager.config import ManagedNode, ManagerConfig
from jlogd.manager.manager import Manager

TIME_NS = 1_700_000_000 * 10**9
BAD_NAMES = ["../../evil", "/tmp/evil", "", ".", "..", "a/b", "a\0b", "two\nlines", "%{node}", "x" * 65, "ü"]


def good(first: int = 1, count: int = 10) -> Batch:
    return encode([b"hello %d" % number for number in range(first, first + count)]).stamped(first, 1, TIME_NS, 1)


def damaged() -> list[Batch]:
    """Batches whose checksums are right and whose contents are not."""
    body = b"\x28\xb5\x2f\xfd" + bytes(range(40))
    return [
        replace(good(), body=body, codec=1, raw_bytes=500, body_crc=crc32c(body)),
        replace(good(), codec=1, raw_bytes=500),
    ]


@contextmanager
def pulled(directory: Path, logs: dict[str, list[Batch]]) -> Iterator[tuple[Manager, Crowd]]:
    """A manager of two nodes, `bad` with these logs, and `good`."""
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        crowd = Crowd(Path(sockets), ["bad", "good"], {"mainlog": [good()]})
        crowd.nodes[0].logs = logs
        nodes = tuple(ManagedNode(name=node.name, address=node.address) for node in crowd.managed)
        config = ManagerConfig(files=str(directory / "files" / "%{log}" / "%{node}"), node=nodes)
        manager = Manager(config, "mgr1", directory / "ledger")
        crowd.start()
        manager.start()
        try:
            yield manager, crowd
        finally:
            manager.stop()
            crowd.close()


def until_there(directory: Path, node: str, records: int) -> None:
    path = directory / "files" / "mainlog" / node
    until(lambda: path.exists() and path.read_bytes().count(b"\n") == records, f"{records} records of {node}")


def test_names_that_no_log_can_have_are_not_pulled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "deep" / "deeper"
    with pulled(base, {"mainlog": [good()], **{name: [good()] for name in BAD_NAMES}}) as (manager, _):
        until_there(base, "bad", 10)
        until_there(base, "good", 10)
        assert {pull.log for pull in manager.status().pulls} == {"mainlog"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert sorted(path.name for path in (base / "files").iterdir()) == ["mainlog"]
    [line] = [record.getMessage() for record in caplog.records if "no log can have" in record.getMessage()]
    assert f"node bad has {len(BAD_NAMES)} logs" in line
    assert "\n" not in line


@pytest.mark.parametrize("batch", damaged(), ids=["zstd", "no zstd"])
def test_a_damaged_batch_is_asked_for_again(tmp_path: Path, batch: Batch) -> None:
    with pulled(tmp_path, {"mainlog": [batch]}) as (manager, crowd):
        until_there(tmp_path, "good", 10)
        until(lambda: any(pull.error for pull in manager.status().pulls if pull.node == "bad"), "it is told")
        crowd.nodes[0].logs = {"mainlog": [good()]}  # it was only on the way
        until_there(tmp_path, "bad", 10)


def test_an_error_nobody_thought_of_holds_up_one_source_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jlogd.manager import files

    sound = files.text_of
    broken = {"bad"}

    def text_of(item: Batch) -> object:
        if broken and item.count == 7:
            raise ZeroDivisionError("nobody thought of it")
        return sound(item)

    monkeypatch.setattr(files, "text_of", text_of)
    with pulled(tmp_path, {"mainlog": [good(count=7)]}) as (manager, _):
        until_there(tmp_path, "good", 10)
        until(lambda: any("mistake of jlogd" in pull.error for pull in manager.status().pulls), "it is told")
        broken.clear()
        until_there(tmp_path, "bad", 7)
    assert any(record.exc_info for record in caplog.records)
