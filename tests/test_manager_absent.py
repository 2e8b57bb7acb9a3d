"""What a manager says and does about what is not there: logs that a node does not have, nodes that are away while it is
decommissioned, keys that are missing, a ledger that knows nothing of a subscriber."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ended, process
from daemon_support import until
from hostile import Hostile, greeting
from manager_nodes import LOG, Cluster, append, cluster, numbered, subscriber
from manager_processes import running
from ports import free_ports
from test_auth import guarded

import jlogd
from jlogd.cli.manager import _row
from jlogd.daemon.manager_metrics import ManagerCollector
from jlogd.daemon.metrics import make_registry
from jlogd.journal.types import Settings
from jlogd.manager import orders
from jlogd.manager.config import ManagedNode, PullRule
from jlogd.manager.manager import Manager
from jlogd.wire.keys import make_pair, write_pair

BOTH = PullRule(logs=(LOG, "bouncelog"))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jlogd.manager.session.LIST_SECONDS", 0.1)
    monkeypatch.setattr("jlogd.manager.hub.STAT_SECONDS_MIN", 0.1)


def pull_of(found: Cluster, node: int, log: str) -> Any:
    assert found.manager is not None
    return next((one for one in found.manager.status().pulls if (one.node, one.log) == (f"n{node}", log)), None)


def until_state(found: Cluster, node: int, log: str, state: str) -> Any:
    return until(lambda: (one := pull_of(found, node, log)) and one.state == state and one, f"{log} is {state}")


def decommission(found: Cluster, drain: bool = True) -> Manager:
    assert found.manager is not None
    orders.give(found.manager.ledger.directory, orders.Decommission("mgr1", drain))
    return found.manager


# ---- logs ----------------------------------------------------------------------------------------------------------


def test_a_log_that_some_nodes_do_not_have_is_told_and_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jlogd.manager.pull.RETRY_SECONDS_MIN", 1000.0)  # only the list of logs tells of it
    monkeypatch.setattr("jlogd.manager.pull.RETRY_SECONDS_MAX", 1000.0)
    with cluster(tmp_path, 2) as found:
        jlogd.create(f"{found.nodes[0].address}/bouncelog")
        manager = found.begin(found.config(pull=(BOTH,)))
        manager.stuck_seconds = 0.0
        shown = until_state(found, 1, "bouncelog", "absent")
        assert "the node has no log bouncelog" in shown.error
        assert _row(shown)[3:8] == ("absent", "-", "-", "-", "-")
        for node in (0, 1):
            until_state(found, node, LOG, "streaming")
        until_state(found, 0, "bouncelog", "streaming")
        until(lambda: manager.problems() == [], "all is well")
        # It is pulled once it is there, however long it was not.
        jlogd.create(f"{found.nodes[1].address}/bouncelog")
        append(found.nodes[1], b"one", log="bouncelog")
        until(lambda: found.text(1, "bouncelog") == b"one\n", "it is pulled")


def test_a_log_that_no_node_has_is_a_problem_after_a_while(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        manager = found.begin(found.config(pull=(PullRule(logs=(LOG, "bouncelgo")),)))
        for node in (0, 1):
            until_state(found, node, "bouncelgo", "absent")
            until_state(found, node, LOG, "streaming")
        assert manager.problems() == []
        manager.stuck_seconds = 0.0
        wrong = until(manager.problems, "the mistake is seen")
        assert wrong == [wrong[0]] and "no node has a log bouncelgo, which a rule names" in wrong[0]


def test_a_log_that_was_pulled_and_is_gone_is_a_problem(tmp_path: Path) -> None:
    """Although another node still has one of that name."""
    with cluster(tmp_path, 2) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin(found.config(pull=(PullRule(logs=(LOG,)),)))
        found.until_lines(10)
        found.nodes[0].stop()
        shutil.rmtree(found.nodes[0].spool / LOG)
        found.nodes[0].start()
        until_state(found, 0, LOG, "absent")
        manager.stuck_seconds = 0.0
        until(
            lambda: any("mainlog at n0 is gone: it was pulled up to record 10" in p for p in manager.problems()), "seen"
        )


# ---- decommissioning -----------------------------------------------------------------------------------------------


def test_a_log_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin(found.config(pull=(BOTH,)))
        until_state(found, 1, "bouncelog", "absent")
        found.until_lines(10)
        manager = decommission(found)
        until(lambda: manager.status().leaving == "let go", "it is drained")


def test_what_draining_waits_for_is_named_and_a_reload_may_end_it(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        jlogd.create(f"{found.nodes[0].address}/bouncelog")
        with jlogd.open(f"{found.nodes[0].address}/bouncelog") as log:
            log.add_subscriber("mgr1")
            with log.subscriber("mgr1"):  # somebody holds it, and it cannot be pulled
                manager = found.begin(found.config(pull=(BOTH,)))
                until(lambda: (one := pull_of(found, 0, "bouncelog")) and "in use" in one.error, "it is held")
                decommission(found)
                until(
                    lambda: any("bouncelog at n0, which is" in text for text in manager.status().waits), "it is named"
                )
                assert manager.status().leaving == "draining"
                manager.reload(found.config(pull=(PullRule(logs=(LOG,)),)))
                until(lambda: manager.status().leaving == "let go", "it is drained")


def test_a_node_that_is_away_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, 2) as found:
        for node in found.nodes:
            append(node, *numbered(0, 10))
        manager = found.begin()
        for at in (0, 1):
            found.until_lines(10, at)
        until(lambda: subscriber(found.nodes[1]).next == 11, "the node knows")
        append(found.nodes[1], b"more")
        found.until_lines(11, 1)
        found.nodes[1].stop()
        until(lambda: pull_of(found, 1, LOG).state == "away", "it is away")
        decommission(found)
        until(lambda: manager.status().waits == ["n1, which is away"], "it is waited for")
        assert manager.status().away == []
        monkeypatch.setattr("jlogd.manager.status.AWAY_SECONDS", 0.0)
        for _ in range(2):  # looked at from beginning to end
            manager._waits = []
            until(lambda: manager.status().waits, "it was looked at again")
        assert manager.status().away == []  # it was not tried since
        monkeypatch.setattr("jlogd.manager.status.TRIED_SECONDS", 0.0)
        until(lambda: manager.status().away == ["n1"], "it is waited for no more")
        assert manager.status().leaving == "draining" and not subscriber(found.nodes[0]).holder
        # Back, it is drained as well.
        found.nodes[1].start()
        append(found.nodes[1], b"last")
        until(lambda: manager.status().leaving == "let go", "it is let go")
        assert found.text(1).splitlines() == [*numbered(0, 10), b"more", b"last"]


def test_started_again_while_draining_it_makes_nothing_anew(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        manager = decommission(found)
        found.end()
        found.nodes[0].logs.get(LOG).journal.remove_subscriber("mgr1")
        for path, _ in orders.given(manager.ledger.directory):
            path.unlink()
        orders.give(manager.ledger.directory, orders.Decommission("mgr1", True))
        again = found.begin()
        until(lambda: again.status().leaving == "let go", "it is drained")
        assert subscriber(found.nodes[0]) is None


def test_a_decommissioned_manager_says_so_when_it_is_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jlogd.manager")
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        order = orders.give(manager.ledger.directory, orders.Decommission("mgr1"))
        until(lambda: manager.status().leaving == "let go", "it lets go")
        found.end()
        caplog.clear()
        again = found.begin()
        [problem] = again.status().problems
        assert f"manager mgr1 was decommissioned and pulls nothing; to use it again, remove {order}" in problem
        assert problem in caplog.text and "pulls from" not in caplog.text
        found.end()
        order.unlink()
        append(found.nodes[0], b"more")
        found.begin()
        found.until_lines(11)


@pytest.mark.slow
def test_the_command_names_nodes_that_are_away_and_is_run_again(tmp_path: Path) -> None:
    with running(tmp_path, nodes=2, extra='[[manager.pull]]\nlogs = ["mainlog", "nolog"]\n') as (manager, nodes):

        def command() -> Ended:
            words = ("manager", "decommission", "mgr1", "--drain", "--yes", "--config", manager.config)
            with process(*words) as started:
                out, err = started.communicate(timeout=120)
                return Ended(started.returncode, out, err.decode())

        for node in nodes:
            with jlogd.open(node.address) as log, log.writer() as writer:
                writer.extend(numbered(0, 10))
            until(lambda node=node: manager.text(node.name).count(b"\n") == 10, "it is pulled")
        nodes[1].end()
        ended = command()
        assert ended.code == 1 and "not done on node1" in ended.err and "waits for node1, which is away" in ended.out
        assert "node0: mainlog: removed mgr1" in ended.out and "node1: away, and not drained" in ended.err
        nodes[1].launch()
        nodes[1].wait_ready()
        ended = command()
        assert ended.code == 0 and "node1: mainlog: removed mgr1" in ended.out, ended
        code, body = manager.get("/healthz")
        assert code == 503 and "was decommissioned" in body


# ---- the ledger ----------------------------------------------------------------------------------------------------


def test_a_ledger_that_was_taken_away_is_told(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        manager = found.begin()
        directory = manager.ledger.directory
        assert manager.problems() == []
        directory.rename(tmp_path / "elsewhere")
        [problem] = manager.problems()
        assert f"{directory} was taken away" in problem
        (tmp_path / "elsewhere").rename(directory)
        assert manager.problems() == []


# ---- nodes and keys ------------------------------------------------------------------------------------------------


def test_how_far_a_node_that_is_away_lags_is_not_known(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        until(lambda: found.pull() and found.pull().lag_records == 0 and found.pull().next == 11, "nothing is left")
        found.nodes[0].stop()
        shown = found.until_state("away")
        assert (shown.lag_records, shown.lag_bytes, shown.lag_seconds) == (None, None, None)
        assert _row(shown)[3:8] == ("away", "?", "?", "?", "-")
        exposed = {family.name: family.samples for family in make_registry(ManagerCollector(manager.status)).collect()}
        assert exposed["jlogd_manager_pull_lag_records"] == [] and exposed["jlogd_manager_pull_up"]


def test_what_was_stuck_stays_so_when_its_node_goes(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        found.nodes[0].logs.get(LOG).journal.add_subscriber("mgr1", "begin")
        append(found.nodes[0], b"one")
        with jlogd.open(f"{found.nodes[0].address}/{LOG}") as log:
            consumer = log.subscriber("mgr1")
            manager = found.begin()
            until(lambda: found.pull() is not None and "in use" in found.pull().error, "it is held")
            manager.stuck_seconds = 0.0
            [before] = until(manager.problems, "it is stuck")
            manager.stuck_seconds = 0.01
            found.nodes[0].server.close()
            found.until_state("away")
            assert before in manager.problems()
            consumer.close()


def test_missing_and_wrong_keys_are_told_at_once_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "jlogd.manager")
    write_pair(make_pair("mgr1"), tmp_path)

    def told(found: Cluster, words: str, **options: Any) -> None:
        caplog.clear()
        node = ManagedNode(name="east1", address=address, key=options.pop("node_key", ()))
        found.begin(found.config([node], **options))
        until(lambda: words in caplog.text, words)
        session = found.manager.hub.sessions["east1"]  # type: ignore[union-attr]
        tried = session._next_try
        until(lambda: session._next_try != tried, "it is tried again")
        assert caplog.text.count("node east1: ") == 1, caplog.text
        found.end()

    with guarded(tmp_path) as made, cluster(tmp_path / "none", 0) as found:
        address = f"tcp://127.0.0.1:{made.port}"
        key, east1 = str(tmp_path / "mgr1.key"), made.pairs["east1"].public
        told(found, "set `[manager] key` to the file of the manager's key")
        told(found, "does not know `[manager] key`", key=key, node_key=east1)
        told(found, "by `key` of [[manager.node]] east1", key=key, node_key=make_pair().public)


def test_a_node_tells_who_came_without_keys(tmp_path: Path) -> None:
    """To a peer that does not hang up first, as a client without keys may."""
    with guarded(tmp_path) as made:
        with Hostile(f"tcp://127.0.0.1:{made.port}", greet=False) as peer:
            peer.send(greeting())
            peer.wait_hung_up()
        until(lambda: "came without keys to an address that demands" in made.running.errors.read_text(), "it is told")


def test_an_outage_is_not_told_as_a_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [port] = free_ports(1)
    with cluster(tmp_path, 0) as found:
        manager = found.begin(found.config([ManagedNode(name="gone", address=f"tcp://127.0.0.1:{port}")]))
        until(lambda: any("no answer" in node.error for node in manager.status().nodes), "it is noticed")
        assert "gone" not in caplog.text


# ---- ledgers -------------------------------------------------------------------------------------------------------


def test_a_subscriber_that_the_ledger_does_not_know_is_told_with_its_position(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster(tmp_path, 0) as found:
        found.nodes.append(found.add_node("n0", settings=Settings(segment_bytes=4096)))
        for first in range(0, 1000, 50):
            append(found.nodes[0], *numbered(first, 50))
        with jlogd.open(f"{found.nodes[0].address}/{LOG}") as log:
            log.add_subscriber("mgr1")
            log.set_subscriber("mgr1", 1001)
        found.begin()
        shown = found.until_state("streaming")
        assert (shown.lag_records, shown.lag_bytes, shown.next) == (0, 0, 1001)
        assert caplog.text.count("it begins at record 1001") == 1 and "a subscriber mgr1 already" in caplog.text
        found.end()
        # Of one that is made, at the oldest record there is, nothing is said.
        caplog.clear()
        found.begin(name="mgr2")
        shown = found.until_state("streaming")
        assert subscriber(found.nodes[0], "mgr2") is not None and "already" not in caplog.text
        assert until(lambda: found.pull().records and found.pull().next == 1001, "it pulled the rest")
