"""A manager that goes, and a node that goes: drained, subscribers removed, nothing lost; interrupted, gone on with."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cli_support import Ended, done, failed, jlogctl, process
from daemon_support import SECONDS_MAX, until
from manager_nodes import numbered
from manager_processes import ManagerProcess, NodeProcess, running

import jlogd


def command(config: Path, *words: object, stdin: bytes = b"") -> Ended:
    with process(*words, "--config", config) as started:
        out, err = started.communicate(stdin, timeout=60)
        return Ended(started.returncode, out, err.decode())


def decommission(manager: ManagerProcess, *words: object, stdin: bytes = b"") -> Ended:
    return command(manager.config, "manager", "decommission", *words, stdin=stdin)


def fill(node: NodeProcess, first: int, count: int) -> None:
    with jlogd.open(node.address) as log, log.writer() as writer:
        writer.extend(numbered(first, count))
        writer.flush()


def subscribers(node: NodeProcess) -> list[str]:
    return [one["name"] for one in node.stat()["subscribers"]]


@pytest.mark.slow
def test_a_running_manager_drains_lets_go_and_stays_away(tmp_path: Path) -> None:
    with running(tmp_path, nodes=2) as (manager, nodes):
        for node in nodes:
            fill(node, 0, 5000)
        ended = done(decommission(manager, "mgr1", "--drain", "--yes"))
        assert "node0: mainlog: removed mgr1" in ended.out and "2 subscribers removed from 2 nodes" in ended.out
        for node in nodes:
            assert subscribers(node) == [] and manager.text(node.name).splitlines() == numbered(0, 5000)
        assert manager.status()["leaving"] == "let go"
        # Started again, it makes no subscribers anew; nor does a second run of the command find any.
        assert manager.end() == 0
        manager.launch()
        until(lambda: manager.get("/readyz")[0] == 200, "the manager is ready")
        until(lambda: manager.status()["leaving"] == "let go", "it knows")
        assert [subscribers(node) for node in nodes] == [[], []]
        assert "0 subscribers removed" in done(decommission(manager, "mgr1", "--yes")).out


@pytest.mark.slow
def test_one_that_is_gone_is_removed_from_elsewhere(tmp_path: Path) -> None:
    """Nodes that are away are named, and done when the command is run again."""
    with running(tmp_path, nodes=2) as (manager, nodes):
        for node in nodes:
            with jlogd.open(node.address) as log:
                log.add_subscriber("burnt")
            fill(node, 0, 10)
        failed(decommission(manager, "burnt", "--drain", "--yes"), 2, "does not run here")
        unknown = failed(decommission(manager, "brunt", "--yes"), 1, "no node has a subscriber brunt; there are: burnt")
        assert "removed" not in unknown.out
        asked = decommission(manager, "burnt", stdin=b"n\n")
        assert "node0: mainlog: subscriber burnt, 10 records not pulled" in asked.out
        for refused in (asked, decommission(manager, "burnt")):  # a no, and nobody there to ask
            failed(refused, 3, "not confirmed", "--yes does not ask")
        assert "burnt" in subscribers(nodes[0])
        nodes[1].end()
        ended = decommission(manager, "burnt", "--yes")
        assert ended.code == 1 and "not done on node1" in ended.err and "node0: mainlog: removed burnt" in ended.out
        nodes[1].launch()
        nodes[1].wait_ready()
        done(decommission(manager, "burnt", "--yes"))
        assert all("burnt" not in subscribers(node) and "mgr1" in subscribers(node) for node in nodes)


@pytest.mark.slow
def test_an_interrupted_drain_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, nodes=2) as (manager, nodes):
        nodes[1].end()  # what it holds cannot be drained now
        fill(nodes[0], 0, 100)
        words = ("manager", "decommission", "mgr1", "--drain", "--yes", "--config", manager.config)
        with process(*words) as started:
            until(lambda: manager.status()["leaving"] == "draining", "it drains")
            started.send_signal(signal.SIGINT)
            assert started.wait(SECONDS_MAX) == 3
            assert started.stderr is not None and b"mgr1 goes on with it; run this again" in started.stderr.read()
        manager.kill()
        manager.launch()
        until(lambda: manager.get("/readyz")[0] == 200, "the manager is ready")
        nodes[1].launch()
        nodes[1].wait_ready()
        fill(nodes[1], 0, 100)
        done(decommission(manager, "mgr1", "--drain", "--yes"))
        for node in nodes:
            assert subscribers(node) == [] and manager.text(node.name).splitlines() == numbered(0, 100)


@pytest.mark.slow
def test_a_node_is_drained_when_everybody_has_everything(tmp_path: Path) -> None:
    with running(tmp_path) as (manager, [node]):
        with jlogd.open(node.address) as log:
            log.add_subscriber("other")
        fill(node, 0, 100)
        left = command(manager.config, "node", "drain", "node0", "--once")
        assert left.code == 1 and "mainlog: other lags 100 records, and nobody consumes it" in left.out
        # What it says to do, does it.
        with jlogd.open(node.address) as log:
            log.add_subscriber("forgotten")
        told = command(manager.config, "node", "drain", "node0", "--once").out
        [line] = [line for line in told.splitlines() if "forgotten lags" in line]
        done(jlogctl(*line.partition("jlogctl ")[2].split()))
        assert "forgotten" not in subscribers(node)
        with jlogd.open(node.address) as log, log.subscriber("other") as subscriber:
            for batch in subscriber:
                batch.checkpoint()
        drained = done(command(manager.config, "node", "drain", "node0"))
        assert "node node0 is drained" in drained.out and "safe to remove" in drained.out
        assert manager.text("node0").splitlines() == numbered(0, 100)
        failed(command(manager.config, "node", "drain", "node7"), 2, "there is no node node7", "node0")
