"""`jlogctl manager`: status, verify and resume, against managers in processes of their own; and metrics."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ended, done, failed, jlogctl, process
from daemon_support import ROOT, until
from manager_nodes import append, cluster, numbered
from manager_processes import ManagerProcess, NodeProcess, running

import jlogd
from jlogd.cli import manager as commands
from jlogd.cli.decommission import _told_removed
from jlogd.cli.manager import _show_status
from jlogd.daemon.manager_metrics import ManagerCollector, manager_metrics
from jlogd.daemon.metrics import make_registry, metric_table
from jlogd.manager.ledger import Changes, LmdbLedger
from jlogd.manager.manager import Manager
from jlogd.manager.status import ManagerStatus, NodeStatus
from jlogd.manager.verify import verify


def command(manager: ManagerProcess, *words: object) -> Ended:
    """A command in a process of its own: a ledger is opened once in one process."""
    with process("manager", *words, "--config", manager.config) as started:
        out, err = started.communicate(timeout=60)
        return Ended(started.returncode, out, err.decode())


def fill(node: NodeProcess, first: int, count: int) -> None:
    with jlogd.open(node.address) as log, log.writer() as writer:
        writer.extend(numbered(first, count))
        writer.flush()


def until_written(manager: ManagerProcess, node: NodeProcess, count: int) -> None:
    until(lambda: manager.text(node.name).count(b"\n") >= count, f"{count} lines of {node.name}")


@pytest.mark.slow
def test_a_day_with_a_manager(tmp_path: Path) -> None:
    """Status, verify while it runs, a file changed by hand, a restored backup and the decision on it."""
    with running(tmp_path, nodes=2) as (manager, nodes):
        for node in nodes:
            fill(node, 0, 1000)
            until_written(manager, node, 1000)
        until(lambda: all(p["lag_records"] == 0 for p in manager.status()["pulls"]), "nothing is left")
        shown = done(command(manager, "status"))
        assert "manager mgr1: 2 of 2 nodes up, 2 logs" in shown.lines[0]
        assert re.search(r"node0 +mainlog +mgr1 +streaming +0 ", shown.out)
        [found] = done(command(manager, "status", "--json")).objects
        assert found["healthy"] and [pull["records"] for pull in found["pulls"]] == [1000, 1000]
        verified = done(command(manager, "verify"))
        assert ("2 files" in verified.out and "2.0k records" in verified.out.replace("2,000", "2.0k")) or verified.out
        assert verified.lines[-1].endswith(": right")

        # Someone edits a file: the manager says so, and verify too.
        path = manager.directory / "files" / "node0"
        path.write_bytes(path.read_bytes().replace(b"record 7\n", b""))
        fill(nodes[0], 1000, 10)
        until_written(manager, nodes[0], 1009)
        changed = command(manager, "verify")
        assert changed.code == 1 and f"{path}: changed by someone else" in changed.err
        [report] = command(manager, "verify", "--json").objects
        assert not report["right"] and [file["verdict"] for file in report["files"]].count("changed") == 1

        # An old copy of a spool comes back.
        until(lambda: nodes[1].stat()["subscribers"][0]["lag_records"] == 0, "the node knows")
        nodes[1].end()
        shutil.copytree(nodes[1].spool, tmp_path / "backup")
        nodes[1].launch()
        nodes[1].wait_ready()
        fill(nodes[1], 1000, 10)
        until_written(manager, nodes[1], 1010)
        failed(command(manager, "resume", "node1", "mainlog"), 2, "has not stopped")
        nodes[1].end()
        shutil.rmtree(nodes[1].spool)
        shutil.copytree(tmp_path / "backup", nodes[1].spool)
        nodes[1].launch()
        until(lambda: any(p["state"] == "stopped" for p in manager.status()["pulls"]), "the pull stops")
        told = command(manager, "status")
        assert told.code == 1 and "went back" in told.err
        code, body = manager.get("/healthz")
        assert code == 503 and "went back" in body
        assert "goes on" in done(command(manager, "resume", "node1", "mainlog")).out
        fill(nodes[1], 5000, 1)
        until(lambda: manager.text("node1").endswith(b"record 5000\n"), "it goes on")
        until(lambda: manager.get("/healthz")[0] == 200, "all is well")
        # The other file's change stays on record.
        assert command(manager, "verify").code == 1


def test_a_manager_that_does_not_answer(tmp_path: Path) -> None:
    config = tmp_path / "jlogd.toml"
    config.write_text('[[manager.node]]\nname = "a"\naddress = "tcp://127.0.0.1:1"\n[listen]\nhttp = "127.0.0.1:1"\n')
    failed(jlogctl("manager", "status", "--config", config), 3, "no manager answers at http://127.0.0.1:1/manager")
    failed(jlogctl("manager", "status", "--config", config), 3, f"start it: jlogd manager --config {config}")
    config.write_text("[log.a]\n")
    failed(jlogctl("manager", "status", "--config", config), 2, "it is not that of a manager")


def test_a_ledger_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "jlogd.toml"
    config.write_text(
        f'[node]\nstate = "{tmp_path}"\n[[manager.node]]\nname = "a"\naddress = "tcp://127.0.0.1:1"\n'
    )  # fmt: skip
    failed(jlogctl("manager", "verify", "--config", config), 2, "there is no ledger")


def test_texts_that_no_log_has(tmp_path: Path) -> None:
    config = tmp_path / "jlogd.toml"
    config.write_text(f'[node]\nstate = "{tmp_path}"\n[log.a]\n')
    for words in (("verify",), ("resume", "a", "a")):
        failed(jlogctl("manager", *words, "--text", "--config", config), 2, "no log of this configuration has a text")
    config.write_text(f'[node]\nstate = "{tmp_path}"\n[log.a]\ntext = "{tmp_path}/a"\n')
    failed(jlogctl("manager", "verify", "--text", "--config", config), 2, "there is no ledger")


def test_a_pull_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "jlogd.toml"
    config.write_text('[[manager.node]]\nname = "a"\naddress = "tcp://127.0.0.1:1"\n')
    status = ManagerStatus(name="mgr1", held_bytes=0, counters={}, nodes=[], pulls=[])
    monkeypatch.setattr(commands, "ask_manager", lambda *_: status)
    failed(jlogctl("manager", "resume", "a", "nolog", "--config", config), 2, "pulls no log nolog of a node a")


def test_the_status_of_a_manager_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "jlogd.toml"
    config.write_text('[[manager.node]]\nname = "a"\naddress = "tcp://127.0.0.1:1"\n')
    node = NodeStatus(name="a", subcluster="", address="tcp://127.0.0.1:1", up=False, seconds=40.0)
    status = ManagerStatus(name="mgr1", held_bytes=0, counters={}, nodes=[node], pulls=[], leaving="draining")
    monkeypatch.setattr(commands, "ask_manager", lambda *_: status)
    show = ("manager", "status", "--config", config)
    assert "0 of 1 node up, 0 logs; decommissioned: draining" in done(jlogctl(*show)).out
    status.away = ["a"]
    ended = jlogctl(*show)
    assert ended.code == 1 and "a is away and not drained" in ended.err
    status.away, status.nodes = [], []
    ended = jlogctl(*show)
    assert ended.code == 1 and ended.out == "manager mgr1: pulls from no node any more; decommissioned: draining\n"
    assert jlogctl(*show, "--json").objects[0]["healthy"] is False


def test_what_was_removed_is_counted_where_it_was() -> None:
    assert _told_removed(["west1", "west1"], ["mgr1"], 2) == "2 subscribers removed from 1 node"
    assert _told_removed(["east1", "west1"], ["mgr1"], 2) == "2 subscribers removed from 2 nodes"
    told = "0 subscribers removed: none of 2 nodes has audit or mgr1 (any more)"
    assert _told_removed([], ["audit", "mgr1"], 2) == told


# ---- verify --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(tmp_path: Path) -> tuple[LmdbLedger, Path]:
    """A ledger of a manager that ended, and the one file it wrote."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 100))
        found.begin()
        found.until_lines(100)
    return LmdbLedger(tmp_path / "ledger-mgr1"), tmp_path / "files" / "mainlog" / "n0"


def verdict(ledger: LmdbLedger) -> str:
    [file] = verify(ledger).files
    return file.verdict


def test_what_is_right_is_right(ended: tuple[LmdbLedger, Path]) -> None:
    report = verify(ended[0])
    assert report.right and report.files[0].records == 100 and report.sources[0].next == 101


def test_every_change_is_seen(ended: tuple[LmdbLedger, Path]) -> None:
    ledger, path = ended
    text = path.read_bytes()
    path.write_bytes(text[:50] + b"X" + text[51:])
    assert verdict(ledger) == "different"
    path.write_bytes(text[:-1])
    assert verdict(ledger) == "shorter"
    path.unlink()
    assert verdict(ledger) == "missing" and not verify(ledger).right
    path.write_bytes(text + b"not committed yet")
    assert verdict(ledger) == "right"


def test_what_someone_appended_to_a_file_that_was_left_is_told(ended: tuple[LmdbLedger, Path]) -> None:
    import msgspec

    ledger, path = ended
    [(key, state)] = ledger.snapshot()[1].items()
    ledger.commit(Changes(files={key: msgspec.structs.replace(state, status="left")}))
    text = path.read_bytes()
    assert verdict(ledger) == "right"
    path.write_bytes(text + b"by hand\n")
    assert verdict(ledger) == "added" and verify(ledger).right
    path.write_bytes(b"X" + text[1:] + b"by hand\n")
    assert verdict(ledger) == "changed" and not verify(ledger).right


def test_counts_that_do_not_add_up_are_seen(ended: tuple[LmdbLedger, Path]) -> None:
    import msgspec

    ledger, _ = ended
    [(key, state)] = ledger.snapshot()[0].items()
    ledger.commit(Changes(sources={key: msgspec.structs.replace(state, records=99)}))
    [source] = verify(ledger).sources
    assert not source.right and "99" in source.text
    ledger.commit(Changes(sources={key: msgspec.structs.replace(state, next=102)}))
    [source] = verify(ledger).sources
    assert not source.right and "do not lead from 1 to 102" in source.text


# ---- metrics -------------------------------------------------------------------------------------------------------


def samples(manager: Manager) -> dict[tuple[str, str], float]:
    registry = make_registry(ManagerCollector(manager.status))
    found: dict[tuple[str, str], float] = {}
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name, sample.labels.get("node", "")] = sample.value
    return found


def test_a_manager_tells_prometheus(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        found.until_lines(10)
        until(lambda: samples(manager).get(("jlogd_manager_written_records_total", "n0")) == 10, "it is counted")
        now = samples(manager)
        assert now["jlogd_manager_node_up", "n0"] == now["jlogd_manager_pull_up", "n0"] == 1
        assert now["jlogd_manager_pull_stopped", "n0"] == 0 and now["jlogd_manager_rounds_total", ""] >= 1
        names = {name for name, _ in now}
        assert {metric.exposed for metric in manager_metrics()} <= names


def test_what_is_unclaimed_is_a_note_and_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    status = ManagerStatus(name="mgr1", held_bytes=0, counters={}, nodes=[], pulls=[], unclaimed=["/files/n0: 8 bytes"])
    assert _show_status(status, as_json=False) == 0
    assert "note: /files/n0: 8 bytes" in capsys.readouterr().err


def test_metrics_are_documented() -> None:
    assert metric_table(manager_metrics()) in (ROOT / "docs" / "metrics.md").read_text()


def test_the_dashboard_asks_for_metrics_there_are() -> None:
    text = (ROOT / "packaging" / "grafana-manager.json").read_text()
    dashboard: dict[str, Any] = json.loads(text)
    assert dashboard["panels"] and len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    known = {metric.exposed for metric in manager_metrics()}
    assert set(re.findall(r"jlogd_\w+", text)) <= known
