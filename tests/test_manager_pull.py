"""Pulling: first contact, nodes that come and go, logs that are not what they were, rules, reload, memory."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
import pytest
from daemon_support import until
from manager_nodes import LOG, Cluster, append, cluster, numbered, subscriber
from ports import free_ports

import jlogd
from jlogd.errors import LogInUse
from jlogd.journal.types import Caps, Settings
from jlogd.manager import orders
from jlogd.manager.config import ManagedNode, PullRule
from jlogd.manager.manager import Manager
from jlogd.manager.status import is_drained


def test_everything_there_is_comes_once_and_in_order(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        for node in found.nodes:
            append(node, *numbered(0, 1000))
        found.begin()
        for at, node in enumerate(found.nodes):
            assert found.until_lines(1000, at) == numbered(0, 1000)
            append(node, *numbered(1000, 500))
            assert found.until_lines(1500, at) == numbered(0, 1500)
            until(lambda node=node: subscriber(node).next == 1501, "the node knows")


def test_a_manager_that_begins_again_goes_on(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        for round_ in range(3):
            append(found.nodes[0], *numbered(100 * round_, 100))
            found.begin()
            assert found.until_lines(100 * (round_ + 1)) == numbered(0, 100 * (round_ + 1))
            found.end()
            assert subscriber(found.nodes[0]).lag_records == 0  # a clean end tells the node


def test_records_with_newlines_and_compressed_ones_are_written_as_they_are(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        found.nodes.append(found.add_node("n1", settings=Settings(compression="zstd")))
        append(found.nodes[0], b"two\nlines", b"", b"\xff\0")
        append(found.nodes[1], *[b"the same again" for _ in range(1000)])
        found.begin()
        found.until_lines(4)
        assert found.text() == b"two\nlines\n\n\xff\0\n"
        found.until_lines(1000, 1)
        assert found.text(1) == b"the same again\n" * 1000


def test_a_node_that_goes_and_comes_is_pulled_again(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        found.nodes[0].stop()
        until(lambda: found.pull().state == "away", "the loss is noticed")
        found.nodes[0].start()
        append(found.nodes[0], *numbered(10, 10))
        assert found.until_lines(20) == numbered(0, 20)


def test_a_node_that_is_away_delays_nobody_and_is_a_problem_after_a_while(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        [port] = free_ports(1)
        nodes = [*found.config().node, ManagedNode(name="gone", address=f"tcp://127.0.0.1:{port}")]
        manager = found.begin(found.config(nodes))
        append(found.nodes[0], *numbered(0, 10))
        found.until_lines(10)
        assert manager.problems() == []
        manager.stuck_seconds = 0.0
        until(lambda: any("node gone is away" in problem for problem in manager.problems()), "the node is missed")


def test_who_is_away_has_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jlogd.manager.pull.RATE_SECONDS", 0.1)
    with cluster(tmp_path) as found:
        found.begin()
        found.until_state("streaming")

        def moving() -> bool:
            append(found.nodes[0], *numbered(0, 10))
            return bool(found.pull().records_a_second)

        until(moving, "there is a rate")
        monkeypatch.setattr("jlogd.manager.pull.RATE_SECONDS", 1e9)
        assert found.pull().records_a_second > 0
        found.nodes[0].stop()
        assert found.until_state("away").records_a_second == 0


def test_a_gap_is_in_the_file_and_in_the_counters(tmp_path: Path) -> None:
    with cluster(tmp_path, 0) as found:
        node = found.add_node("n0", settings=Settings(segment_bytes=4096))
        found.nodes.append(node)
        caps = Caps(max_bytes=8192, on_full="drop-oldest")
        node.logs.get(LOG).journal.add_subscriber("mgr1", "begin", caps)
        for first in range(0, 2000, 50):
            append(node, *numbered(first, 50))
        found.begin()
        until(lambda: found.text().endswith(b"record 1999\n"), "the end")
        first, *rest = found.text().splitlines()
        lost = int(first.split()[2])
        assert b"records of mainlog at n0 are missing here, 1 to" in first and b"dropped" in first
        assert rest == numbered(lost, 2000 - lost)
        until(lambda: (found.pull().lost, found.pull().records) == (lost, 2000 - lost), "the counters say so")


# ---- a log that is not what it was ---------------------------------------------------------------------------------


def copy_of(found: Cluster) -> Path:
    """A copy of the spool of n0, as a backup makes it."""
    found.nodes[0].stop()
    backup = found.directory / "backup"
    shutil.copytree(found.nodes[0].spool, backup)
    found.nodes[0].start()
    return backup


def restore(found: Cluster, backup: Path) -> None:
    found.nodes[0].stop()
    shutil.rmtree(found.nodes[0].spool)
    shutil.copytree(backup, found.nodes[0].spool)
    found.nodes[0].start()


@pytest.mark.parametrize("more", [0, 50], ids=["shorter than it was", "longer than it was"])
def test_a_restored_backup_stops_the_pull_until_a_person_decides(tmp_path: Path, more: int) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        found.until_lines(10)
        until(lambda: subscriber(found.nodes[0]).next == 11, "the node knows")
        backup = copy_of(found)
        append(found.nodes[0], *numbered(10, 10))
        found.until_lines(20)
        restore(found, backup)
        if more:
            append(found.nodes[0], *[b"new %d" % number for number in range(more)])
        error = found.until_state("stopped").error
        assert "went back" in error and "jlogctl manager resume n0 mainlog" in error
        assert error in manager.problems()
        assert found.text().splitlines() == numbered(0, 20)
        append(found.nodes[0], b"and more")
        manager.hub.resume("n0", LOG, None)
        until(lambda: found.text().endswith(b"and more\n"), "it goes on")
        after = found.text().splitlines()[20:]
        assert b"goes on by decision; before, it ended at record 20" in after[0]
        assert after[1:] == [*[b"new %d" % number for number in range(more)], b"and more"]


def test_a_resume_may_say_where(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        found.until_lines(10)
        backup = copy_of(found)
        append(found.nodes[0], *numbered(10, 10))
        found.until_lines(20)
        restore(found, backup)
        append(found.nodes[0], b"a", b"b", b"c")
        found.until_state("stopped")
        manager.hub.resume("n0", LOG, 12)
        until(lambda: found.text().endswith(b"c\n"), "it goes on")
        assert found.text().splitlines()[21:] == [b"b", b"c"]


def test_an_order_to_resume_is_not_kept_for_another_time(tmp_path: Path) -> None:
    """It was given when the manager was away, say; what stops the pull one day is for a person to look at."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        found.until_lines(10)
        path = orders.give(manager.ledger.directory, orders.Resume("n0", LOG))
        until(lambda: not path.exists(), "it is dropped")
        append(found.nodes[0], b"and more")
        until(lambda: found.text().endswith(b"and more\n"), "it goes on")
        assert b"by decision" not in found.text()


def test_a_log_made_anew_begins_anew_and_a_mark_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        found.nodes[0].stop()
        shutil.rmtree(found.nodes[0].spool / LOG)
        jlogd.create(found.nodes[0].spool / LOG)
        found.nodes[0].start()
        append(found.nodes[0], *numbered(0, 5))
        lines = found.until_lines(16)
        assert lines[:10] == numbered(0, 10) and lines[11:] == numbered(0, 5)
        assert b"mainlog at n0 is another log" in lines[10] and b"ended at record 10" in lines[10]
        until(lambda: found.pull().restarts == 1, "it is counted")


def test_a_new_epoch_changes_nothing(tmp_path: Path) -> None:
    """A spool that another host took over, or that was recovered after a crash."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        found.nodes[0].stop()
        for head in (found.nodes[0].spool / LOG).glob("head-*"):
            head.unlink()  # the end of the log is to be found again: a recovery, and a new epoch
        before = set((found.nodes[0].spool / LOG).glob("*.seg"))
        found.nodes[0].start()
        append(found.nodes[0], *numbered(10, 10))
        assert found.until_lines(20) == numbered(0, 20)
        assert set((found.nodes[0].spool / LOG).glob("*.seg")) - before  # the first one may be pruned already


def test_records_that_another_consumer_took_are_marked(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        found.end()
        append(found.nodes[0], *numbered(10, 10))
        with jlogd.open(f"{found.nodes[0].address}/{LOG}") as log:
            log.set_subscriber("mgr1", 16)
        found.begin()
        lines = found.until_lines(16)
        assert lines[11:] == numbered(15, 5)
        assert b"5 records of mainlog at n0 are missing here, 11 to 15: the subscriber was moved" in lines[10]


def test_a_subscriber_may_move_from_one_manager_to_another(tmp_path: Path) -> None:
    """With a ledger of its own the second one begins where the first one left off."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        found.end()
        append(found.nodes[0], *numbered(10, 10))
        rule = PullRule(subscriber="mgr1", files=str(tmp_path / "second" / "%{node}"))
        found.begin(found.config(pull=(rule,)), name="mgr2")
        second = tmp_path / "second" / "n0"
        until(lambda: second.exists() and second.read_bytes().count(b"\n") == 10, "the second one pulls")
        assert second.read_bytes().splitlines() == numbered(10, 10)


def test_a_subscriber_that_moved_without_anything_left_does_not_lag(tmp_path: Path) -> None:
    """Nothing is in the new manager's ledger, and everything there is was the former one's: it is drained."""
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        found.begin()
        found.until_lines(10)
        until(lambda: subscriber(found.nodes[0]).next == 11, "the node knows")
        found.end()
        rule = PullRule(subscriber="mgr1", files=str(tmp_path / "second" / "%{node}"))
        began = time.monotonic()
        manager = found.begin(found.config(pull=(rule,)), name="mgr2")
        found.until_state("streaming")
        [session] = manager.hub.sessions.values()
        until(lambda: is_drained(session, began), "it is drained")
        assert (found.pull().next, found.pull().lag_records) == (11, 0)
        manager.stuck_seconds = 0.0
        assert manager.problems() == []


# ---- who pulls what ------------------------------------------------------------------------------------------------


def test_two_managers_each_get_everything(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 100))
        found.begin()
        other = Manager(found.config(files=str(tmp_path / "other" / "%{node}")), "mgr2", tmp_path / "ledger-2")
        other.start()
        try:
            copy = tmp_path / "other" / "n0"
            found.until_lines(100)
            until(lambda: copy.exists() and copy.read_bytes() == found.text(), "the copy")
        finally:
            other.stop()


def test_rules_choose_by_names_subclusters_and_logs(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        for node in found.nodes:
            jlogd.create(f"{node.address}/bouncelog")
            for log in (LOG, "bouncelog"):
                append(node, b"of " + log.encode(), log=log)
        rules = (PullRule(subclusters=("even",)), PullRule(nodes=("n*",), logs=("bounce*",), subscriber="bounces"))
        found.begin(found.config(pull=rules))
        found.until_lines(1, 0)
        # The same log for two subscribers is pulled twice: into the same file here, so both are seen.
        until(lambda: found.text(0, "bouncelog") == b"of bouncelog\n" * 2, "the bounces, by both")
        until(lambda: found.text(1, "bouncelog"), "the bounces")
        assert found.text(1) == b"" and subscriber(found.nodes[1]) is None
        assert subscriber(found.nodes[1], "bounces", "bouncelog") is not None


def test_a_log_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        found.begin(found.config(pull=(PullRule(logs=("mainlgo",)),)))
        assert "no log mainlgo" in until(lambda: found.pull() is not None and found.pull().error, "the error")


def test_a_log_made_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jlogd.manager.session.LIST_SECONDS", 0.1)
    with cluster(tmp_path) as found:
        found.begin()
        found.until_state("streaming")
        jlogd.create(f"{found.nodes[0].address}/later")
        append(found.nodes[0], b"here", log="later")
        until(lambda: found.text(0, "later") == b"here\n", "the new log")


def test_a_reload_adds_and_removes_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        for node in found.nodes:
            append(node, *numbered(0, 10))
        both = found.config()
        manager = found.begin(found.config(both.node[:1]))
        found.until_lines(10, 0)
        manager.reload(both)
        found.until_lines(10, 1)
        manager.reload(found.config(both.node[1:]))
        until(lambda: not subscriber(found.nodes[0]).holder, "n0 is let go")
        append(found.nodes[0], b"not pulled")
        append(found.nodes[1], b"pulled")
        found.until_lines(11, 1)
        assert found.text(0).count(b"\n") == 10
        manager.reload(both)
        assert found.until_lines(11, 0) == [*numbered(0, 10), b"not pulled"]


def test_a_name_that_another_consumer_holds_is_waited_for(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        found.nodes[0].logs.get(LOG).journal.add_subscriber("mgr1", "begin")
        append(found.nodes[0], b"one")
        with jlogd.open(f"{found.nodes[0].address}/{LOG}") as log:
            consumer = log.subscriber("mgr1")
            found.begin()
            assert "in use by" in until(lambda: found.pull() is not None and found.pull().error, "it is told")
            consumer.close()
        found.until_lines(1)


def test_a_wrong_address_is_noticed(tmp_path: Path) -> None:
    """Records of one node must not be filed under the name of another."""
    from wire_support import SpoolLogs

    from jlogd.daemon.server import Server

    spool = tmp_path / "spool"
    spool.mkdir()
    jlogd.create(spool / LOG)
    logs = SpoolLogs(spool)
    server = Server(logs, ["tcp://127.0.0.1:0"], node="west7")
    server.start()
    try:
        with cluster(tmp_path, 0) as found:
            manager = found.begin(found.config([ManagedNode(name="east1", address=server.addresses[0])]))
            error = until(lambda: [n.error for n in manager.status().nodes if n.error], "the mistake is told")[0]
            assert "is node west7, not east1" in error
    finally:
        server.close()
        logs.close()


def test_one_ledger_has_one_manager(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        found.begin()
        with pytest.raises(LogInUse, match="another jlogd uses it"):
            Manager(found.config(), "mgr1", tmp_path / "ledger-mgr1")


def test_what_is_read_and_not_written_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written, a node with much is not read beyond the memory there is for it."""
    with cluster(tmp_path, memory=16 << 20) as found:
        line = b"x" * 1000
        for _ in range(40):
            append(found.nodes[0], *[line] * 1000)
        # Nothing can be written where a file stands in the way of a directory.
        (tmp_path / "files").write_bytes(b"")
        manager = found.begin()
        until(lambda: manager.problems(), "it cannot write")
        time.sleep(0.5)  # whatever still comes, comes
        assert 0 < manager.hub.held_bytes <= (16 << 20) + (5 << 20)
        (tmp_path / "files").unlink()
        found.until_lines(40_000)
        until(lambda: not manager.problems(), "all is well")


def test_status_can_be_sent(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        append(found.nodes[0], *numbered(0, 10))
        manager = found.begin()
        found.until_lines(10)
        until(lambda: found.pull().lag_records == 0 and found.pull().next == 11, "nothing is left")
        status = msgspec.json.decode(msgspec.json.encode(manager.status()))
        assert status["pulls"][0]["records"] == 10 and status["nodes"][0]["up"]
