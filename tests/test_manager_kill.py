"""Real managers and nodes, killed with SIGKILL while a load runs: every record is in the files once, in order."""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli_support import done, jlogctl
from daemon_support import until
from manager_processes import Load, numbers, running

import jlogd
from jlogd.errors import UsageError
from jlogd.manager.ledger import LmdbLedger

ROUNDS = 12


@pytest.mark.slow
def test_kill_9_of_manager_node_or_both_loses_and_repeats_nothing(tmp_path: Path, rng: random.Random) -> None:
    with running(tmp_path, nodes=2) as (manager, nodes):
        loads = [Load(node) for node in nodes]
        for load in loads:
            load.start()
        for _ in range(ROUNDS):
            before = [len(manager.text(node.name)) for node in nodes]
            until(lambda before=before: [len(manager.text(n.name)) for n in nodes] > before, "something is written")
            time.sleep(rng.random() * 0.3)
            victims = rng.choice([[manager], [manager], [nodes[0]], [nodes[1]], [manager, rng.choice(nodes)]])
            for victim in victims:
                victim.process.kill()
            for victim in victims:
                victim.process.wait()
                victim.launch()
        totals = [load.end() for load in loads]
        for node, total in zip(nodes, totals, strict=True):
            until(lambda node=node, total=total: manager.text(node.name).count(b"\n") >= total, "everything is written")
        time.sleep(0.2)  # and nothing more comes
        for node, total in zip(nodes, totals, strict=True):
            assert numbers(manager.text(node.name)) == list(range(total)), node.name
        until(lambda: manager.status() is not None, "the manager answers")
        assert manager.end() == 0


def committed(ledger: Path) -> int:
    """Bytes of the files that a ledger has, that of a manager that runs."""
    with suppress(UsageError):  # there is none yet
        found = LmdbLedger(ledger, write=False)
        try:
            return sum(state.length for _, state in found.all_files())
        finally:
            found.close()
    return 0


@pytest.mark.slow
def test_what_someone_appends_after_the_restart_of_a_killed_manager_is_kept(tmp_path: Path) -> None:
    with running(tmp_path) as (manager, [node]):
        with jlogd.open(node.address) as log, log.writer() as writer:
            writer.extend([b"1"])
            writer.flush()
            # In the file it is before it is in the ledger; killed in between, the manager would rightly write it anew.
            until(lambda: committed(manager.directory / "state" / "manager") == 2, "it is committed")
            manager.kill()
            manager.launch()
            until(lambda: manager.get("/readyz")[0] == 200, "the manager is ready")
            path = manager.directory / "files" / node.name
            with path.open("ab") as file:
                file.write(b"by hand\n")
            writer.extend([b"2"])
            writer.flush()
        part = path.with_name(f"{node.name}.part2")
        until(lambda: part.exists() and part.read_bytes() == b"2\n", "it goes on in the next part")
        assert path.read_bytes() == b"1\nby hand\n"
        assert manager.end() == 0
        verified = done(jlogctl("manager", "verify", "--config", manager.config))
        assert f"{path}: someone else appended to it" in verified.err and verified.lines[-1].endswith(": right")


@pytest.mark.slow
def test_what_someone_appends_to_the_file_of_a_killed_manager_is_set_aside(tmp_path: Path) -> None:
    with running(tmp_path) as (manager, [node]):
        with jlogd.open(node.address) as log, log.writer() as writer:
            writer.extend([b"1"])
            writer.flush()
            until(lambda: committed(manager.directory / "state" / "manager") == 2, "it is committed")
            manager.kill()
            path = manager.directory / "files" / node.name
            with path.open("ab") as file:
                file.write(b"by hand\n")
            manager.launch()
            until(lambda: manager.get("/readyz")[0] == 200, "the manager is ready")
            writer.extend([b"2"])
            writer.flush()
            until(lambda: path.read_bytes() == b"1\n2\n", "it goes on where the ledger says")
            assert manager.status()["counters"]["files_aside"] == 1
        assert manager.end() == 0
        # It has another name after a minute.
        [side] = [*path.parent.glob(f".{path.name}.aside-2"), *path.parent.glob(f"{path.name}.unclaimed-2")]
        assert side.read_bytes() == b"by hand\n" and "set aside" in manager.errors.read_text()
        verified = done(jlogctl("manager", "verify", "--config", manager.config))
        assert f"{side}: 8 bytes" in verified.err and verified.lines[-1].endswith(": right")


@pytest.mark.slow
def test_a_manager_ends_cleanly_and_a_reload_takes_a_node_away(tmp_path: Path) -> None:
    with running(tmp_path, nodes=2) as (manager, nodes):
        loads = [Load(node) for node in nodes]
        for load in loads:
            load.start()
        for node in nodes:
            until(lambda node=node: manager.text(node.name), "both are pulled")
        manager.write_config(nodes=nodes[:1])
        manager.process.send_signal(signal.SIGHUP)
        until(lambda: len(manager.status()["nodes"]) == 1, "one is left")
        until(lambda: not nodes[1].stat()["subscribers"][0]["holder"], "the other one is let go")
        manager.write_config()
        manager.process.send_signal(signal.SIGHUP)
        totals = [load.end() for load in loads]
        for node, total in zip(nodes, totals, strict=True):
            until(lambda node=node, total=total: manager.text(node.name).count(b"\n") >= total, "everything is written")
            assert numbers(manager.text(node.name)) == list(range(total)), node.name
        assert manager.end() == 0
        for node in nodes:
            assert node.stat()["subscribers"][0]["lag_records"] == 0
        assert "Traceback" not in manager.errors.read_text()


@pytest.mark.slow
def test_one_daemon_may_be_node_and_manager(tmp_path: Path) -> None:
    with running(tmp_path) as (manager, [node]):
        manager.end()
        node.end()
        files = tmp_path / "own"
        node.write_config(
            f'[manager]\nname = "self"\nfiles = "{files}/%{{node}}"\n'
            f'[[manager.node]]\nname = "{node.name}"\naddress = "{node.server}"\n'
        )
        node.launch()
        node.wait_ready()
        load = Load(node)
        load.start()
        until(lambda: (files / node.name).exists(), "it pulls from itself")
        total = load.end()
        until(lambda: numbers((files / node.name).read_bytes()) == list(range(total)), "all of it")
        assert node.end() == 0, node.errors.read_text()
        assert "Traceback" not in node.errors.read_text()
