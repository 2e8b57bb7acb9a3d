"""A thousand nodes by five logs on one manager: memory and handles are bounded, threads are few, all arrives once."""

from __future__ import annotations

import resource
import tempfile
import threading
from pathlib import Path

import pytest
from daemon_support import until
from fault_support import missing
from manager_crowd import Crowd

from jlogd.journal.batch import encode
from jlogd.manager.config import ManagerConfig
from jlogd.manager.manager import Manager

NODES = 1000
LOGS = 5
BATCHES = 4
RECORDS = 25
# Descriptors of the crowd and of the manager together.
DESCRIPTORS = 16_000
MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_a_thousand_nodes(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        missing(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    logs = {}
    for log in range(LOGS):
        logs[f"log{log}"] = [
            encode([b"log %d record %d " % (log, at * RECORDS + n) + b"x" * 80 for n in range(RECORDS)]).stamped(
                at * RECORDS + 1, 1, 1_800_000_000 * 10**9, 1
            )
            for at in range(BATCHES)
        ]
    with tempfile.TemporaryDirectory(prefix="jl") as sockets:  # their paths must be short
        crowd = Crowd(Path(sockets), [f"n{at}" for at in range(NODES)], logs)
        crowd.start()
        before, threads = resident_bytes(), threading.active_count()
        config = ManagerConfig(
            files=f"{tmp_path}/%{{node}}/%{{log}}", node=tuple(crowd.managed), open_files_max=200, memory=16 * MIB
        )
        manager = Manager(config, "mgr1", tmp_path / "ledger")
        held = opened = 0
        try:
            manager.start()

            def all_written() -> bool:
                nonlocal held, opened
                held = max(held, manager.hub.held_bytes)
                opened = max(opened, manager.rounds.stats().get("files_open", 0))
                return manager.rounds.stats()["records"] >= NODES * LOGS * BATCHES * RECORDS

            for _ in range(10):  # each with the patience of `until`
                try:
                    until(all_written, "everything is written")
                    break
                except AssertionError:
                    assert not manager.hub.failed and not manager.rounds.failed, manager.problems()
            assert manager.rounds.stats()["records"] == NODES * LOGS * BATCHES * RECORDS
            assert threading.active_count() - threads <= 12
            assert opened <= 200 + 500  # a round keeps open what it writes
            batch = len(logs["log0"][0].to_wire())
            assert held <= 16 * MIB + NODES * LOGS * batch
            grown = resident_bytes() - before
            assert grown < 300 * MIB, f"{grown / MIB:.0f} MiB"
        finally:
            manager.stop()
            crowd.close()
        for log, batches in logs.items():
            text = b"".join(batch.text() for batch in batches)
            for at in range(NODES):
                assert (tmp_path / f"n{at}" / log).read_bytes() == text
        # A clean end: every node knows that it may forget.
        positions = [node.positions[log, "mgr1"] for node in crowd.nodes for log in logs]
        assert set(positions) == {BATCHES * RECORDS + 1}
