"""`verify --journals`: what the nodes still hold is in the files once and in order, and whatever is not so is seen."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from cli_support import jlogctl
from crc32c import crc32c
from daemon_support import until
from manager_nodes import Cluster, append, cluster, numbered, subscriber
from manager_processes import running
from test_manager_commands import command, fill, until_written

import jlogd
from jlogd.journal.types import Settings
from jlogd.manager.journals import JournalReport, compare, pulled
from jlogd.manager.ledger import Changes, FileState, LmdbLedger

LINES = numbered(0, 200)


class Ended:
    """A manager that ended, its nodes still there; a reader holds the records on them."""

    def __init__(self, found: Cluster, directory: Path) -> None:
        self.cluster, self.directory = found, directory
        self.ledger = LmdbLedger(directory / "ledger-mgr1")

    def compare(self) -> list[JournalReport]:
        return compare(self.ledger, pulled(self.cluster.config(), "mgr1"))

    def judgement(self) -> str:
        [found] = self.compare()
        return found.judgement

    def rewrite(self, change: Callable[[bytes], bytes], **more: object) -> None:
        """The one file, and what the ledger says of it, as if this had been written."""
        path, state = next(iter(self.ledger.snapshot()[1].items()))
        text = change(Path(path).read_bytes())
        Path(path).write_bytes(text)
        counts = {"length": len(text), "crc": crc32c(text), "lines": text.count(b"\n"), **more}
        self.ledger.commit(Changes(files={path: msgspec.structs.replace(state, **counts)}))


def begun(directory: Path, **options: object) -> Iterator[Ended]:
    with cluster(directory, 1, **options) as found:
        with jlogd.open(f"{found.nodes[0].address}/mainlog") as log:
            log.add_subscriber("holder")
        for at in range(0, len(LINES), 10):
            append(found.nodes[0], *LINES[at : at + 10])
        found.begin()
        found.until_lines(len(LINES))
        found.end()
        ended = Ended(found, directory)
        yield ended
        ended.ledger.close()


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    yield from begun(tmp_path)


def test_what_is_right_is_right(ended: Ended) -> None:
    [found] = ended.compare()
    assert (found.judgement, found.first, found.records) == ("right", 1, 200)


def line(number: int) -> bytes:
    return b"record %d\n" % number


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "missing": lambda text: text.replace(line(70), b""),
    "missing at the end": lambda text: text.removesuffix(line(199)),
    "missing at the beginning": lambda text: text.removeprefix(line(0)),
    "doubled": lambda text: text.replace(line(70), line(70) * 2),
    "doubled at the end": lambda text: text + line(199),
    "changed": lambda text: text.replace(line(70), b"rocord 70\n"),
    "in another order": lambda text: text.replace(line(70) + line(71), line(71) + line(70)),
    "all of it": lambda text: b"",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_is_seen_though_ledger_and_files_agree(ended: Ended, change: Callable[[bytes], bytes]) -> None:
    ended.rewrite(change)
    assert ended.judgement() == "wrong"


@pytest.mark.parametrize("name", ["missing", "missing at the end", "changed", "in another order"])
def test_in_files_of_several_logs_it_is_seen_too(ended: Ended, name: str) -> None:
    """Lines of another log between them are none of its business."""
    sources = {"n0/mainlog/mgr1": (200, 0), "n1/mainlog/mgr1": (1, 0)}
    ended.rewrite(lambda text: text.replace(line(100), line(100) + b"of another\n", 1), sources=sources)
    assert ended.judgement() == "wrong", "within a batch"
    ended.rewrite(lambda text: text.replace(b"of another\n", b"").replace(line(99), line(99) + b"of another\n"))
    assert ended.judgement() == "right"
    ended.rewrite(CHANGES[name])
    [found] = ended.compare()
    assert found.judgement == "wrong" and "not in order" in found.text


def test_marked_lines_are_left_out_and_what_they_say_is_believed(ended: Ended) -> None:
    mark = b"--- jlogd: 2 records of mainlog at n0 are missing here, 71 to 72: passed ---\n"
    ended.rewrite(lambda text: text.replace(line(70) + line(71), mark), sources={"n0/mainlog/mgr1": (198, 2)})
    [found] = ended.compare()
    assert (found.judgement, found.records) == ("right", 198)
    other = mark.replace(b"at n0", b"at n7")
    ended.rewrite(lambda text: text.replace(mark, other))
    assert ended.judgement() == "wrong"


def test_only_what_is_held_is_compared(tmp_path: Path) -> None:
    """The node has pruned what everybody had: the end of the file is what is left to compare with."""
    with cluster(tmp_path, 0) as found:
        settings = Settings(segment_bytes=1 << 20)
        found.nodes.append(found.add_node("n0", settings=settings))
        big = [b"%d " % number + b"x" * 200_000 for number in range(20)]
        found.begin()
        for record in big:
            append(found.nodes[0], record)
        found.until_lines(20)
        found.end()
        ended = Ended(found, tmp_path)
        [report] = ended.compare()
        assert report.judgement == "right" and report.first > 1 and 0 < report.records < 20
        ended.rewrite(lambda text: text.replace(b"\n19 ", b"\n18 "))
        assert ended.judgement() == "wrong"
        ended.ledger.close()


def test_compressed_files_and_parts(tmp_path: Path) -> None:
    for ended in begun(tmp_path):
        [(path, state)] = ended.ledger.snapshot()[1].items()
        text = Path(path).read_bytes()
        cut = text.index(line(120))
        first, second = text[:cut], text[cut:]
        Path(path).unlink()
        Path(f"{path}.zst").write_bytes(zstandard.compress(first))
        Path(f"{path}.part2").write_bytes(second)
        parts: dict[str, FileState] = {
            path: msgspec.structs.replace(state, length=len(first), status="compressed"),
            f"{path}.part2": msgspec.structs.replace(state, length=len(second)),
        }
        ended.ledger.commit(Changes(files=parts))
        assert ended.judgement() == "right"
        # As those of several logs, or left to someone else, are read.
        parts[path] = msgspec.structs.replace(parts[path], sources={**state.sources, "n1/mainlog/mgr1": (0, 0)})
        ended.ledger.commit(Changes(files=parts))
        assert ended.judgement() == "right"


def test_what_cannot_be_compared_is_told(ended: Ended) -> None:
    [(path, state)] = ended.ledger.snapshot()[1].items()
    ended.ledger.commit(Changes(files={f"{path}#1-1": msgspec.structs.replace(state, status="moved")}))
    ended.rewrite(CHANGES["missing"])
    [report] = ended.compare()
    assert report.judgement == "unknown" and "renamed or removed" in report.text
    [report] = compare(ended.ledger, pulled(ended.cluster.config(nodes=[]), "mgr1"))
    assert report.judgement == "unknown" and "not in the configuration" in report.text
    other = ended.cluster.config(files=str(ended.directory / "elsewhere" / "%{node}"))
    [report] = compare(ended.ledger, pulled(other, "mgr1"))
    assert report.judgement == "unknown" and "another template" in report.text
    ended.cluster.nodes[0].stop()
    [report] = ended.compare()
    assert report.judgement == "unknown" and "no daemon at" in report.text


@pytest.mark.slow
def test_the_command(tmp_path: Path, rng: random.Random) -> None:
    """While the manager runs; against a node that is away; and for text logs."""
    text = tmp_path / "text"
    with running(tmp_path, nodes=2) as (manager, nodes):
        for node in nodes:
            with jlogd.open(node.address) as log:
                log.add_subscriber("holder")
            fill(node, 0, rng.randint(500, 1500))
            until_written(manager, node, 500)
        both = command(manager, "verify", "--journals")
        assert both.code == 0 and "still hold, of 2 logs: right" in both.lines[-1], both
        nodes[1].end()
        away = command(manager, "verify", "--journals")
        assert away.code == 1 and "node1/mainlog/mgr1: not compared: " in away.err
        assert away.lines[-1].endswith("1 right, 0 NOT right, 1 not compared")
        path = manager.directory / "files" / "node0"
        path.write_bytes(path.read_bytes().replace(b"record 7\n", b"rocord 7\n"))
        [report] = command(manager, "verify", "--journals", "--json").objects
        assert not report["right"] and [one["judgement"] for one in report["journals"]] == ["wrong", "unknown"]
        config = nodes[0].config
        nodes[0].end()
        nodes[0].write_config(log=f'text = "{text}"')
        nodes[0].launch()
        nodes[0].wait_ready()
        fill(nodes[0], 5000, 1)
        until(lambda: text.exists() and text.read_bytes().endswith(b"record 5000\n"), "it is written")
        own = jlogctl("manager", "verify", "--text", "--journals", "--config", config)
        assert own.code == 0 and own.lines[-1].endswith("of 1 log: right"), own


def test_after_a_decision_what_follows_it_is_compared(tmp_path: Path) -> None:
    """An old copy of the spool was restored; until someone decides there is nothing to compare with."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        until(lambda: subscriber(found.nodes[0]).next == 11, "the node knows")
        found.nodes[0].stop()
        shutil.copytree(found.nodes[0].spool, tmp_path / "backup")
        found.nodes[0].start()
        append(found.nodes[0], *numbered(10, 10))
        found.until_lines(20)
        found.nodes[0].stop()
        shutil.rmtree(found.nodes[0].spool)
        shutil.copytree(tmp_path / "backup", found.nodes[0].spool)
        found.nodes[0].start()
        found.until_state("stopped")
        found.end()
        ledger = LmdbLedger(tmp_path / "ledger-mgr1")
        [report] = compare(ledger, pulled(found.config(), "mgr1"))
        assert report.judgement == "unknown" and "10, and 20 was pulled" in report.text
        ledger.close()
        append(found.nodes[0], *numbered(50, 3))
        manager = found.begin()
        found.until_state("stopped")
        manager.hub.resume("n0", "mainlog", 12)
        until(lambda: found.text().endswith(b"record 52\n"), "it goes on")
        found.end()
        ended = Ended(found, tmp_path)
        [report] = ended.compare()
        assert (report.judgement, report.first, report.records) == ("right", 12, 2)
        ended.rewrite(lambda text: text.replace(b"record 51\n", b""))
        assert ended.judgement() == "wrong"
        ended.ledger.close()
