"""Other outputs: re-journaled exactly once, a syslog server, standard output; none holds up another."""

from __future__ import annotations

import io
import random
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from daemon_support import until
from manager_nodes import LOG, append, cluster, numbered
from manager_support import Node, batches
from ports import free_ports

import jlogd
from jlogd.manager.config import PullRule
from jlogd.manager.outputs import JournalOutput, StdoutOutput, SyslogOutput
from jlogd.manager.parcel import Mark, Parcel


def records(path: Path) -> list[bytes]:
    with jlogd.open(path) as log, log.subscriber() as reader:
        return [record for batch in reader for record in batch]


def expected(node: Node) -> list[bytes]:
    """What a log of a node becomes: its records, and a line for each gap."""
    return [r for item in node.items for r in (item.records() if isinstance(item, jlogd.Batch) else [None])]


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_has_everything_once_however_often_it_comes(tmp_path: Path, seed: int) -> None:
    """Rounds that were written and not committed come again, to another process."""
    rng = random.Random(seed)
    node = Node("n0", batches(rng, "n0", 20))
    parcels = list(node.parcels(0, rng))
    at = 0
    while at < len(parcels):
        output = JournalOutput(f"{tmp_path}/all-%{{log}}")  # another process
        for _ in range(rng.randint(1, 3)):
            upto = min(len(parcels), at + rng.randint(1, 3))
            output.write(parcels[at:upto])
            if rng.random() < 0.5:  # else it was killed before the ledger had it
                at = upto
        output.close()
    found = records(tmp_path / "all-mainlog")
    assert len(found) == len(expected(node))
    for mine, theirs in zip(found, expected(node), strict=True):
        assert mine == theirs or (theirs is None and b"are missing here" in mine)


def test_a_log_that_began_anew_is_journaled_anew(tmp_path: Path) -> None:
    node = Node("n0", batches(random.Random(1), "n0", 3))
    output = JournalOutput(f"{tmp_path}/all")
    output.write(list(node.parcels(0)))
    first = node.items[0].first
    again = Parcel(node.source, "another", [Mark(first, "--- anew ---"), *node.items], era=1)
    output.write([again])
    output.close()
    found = records(tmp_path / "all")
    half = len(expected(node))
    assert len(found) == 2 * half + 1 and found[half] == b"--- anew ---" and found[:half] == found[half + 1 :]


def test_a_manager_journals_through_kills_of_the_round(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as found:
        rule = PullRule(journal=f"{tmp_path}/central/%{{log}}")
        (tmp_path / "central").mkdir()
        for round_ in range(3):
            for node in found.nodes:
                append(node, *numbered(100 * round_, 100))
            found.begin(found.config(pull=(rule,)))
            until(
                lambda n=100 * (round_ + 1): found.manager and all(p.records >= n for p in found.manager.status().pulls)
                and len(found.manager.status().pulls) == 2, "it is journaled",
            )  # fmt: skip
            found.end()
        central = records(tmp_path / "central" / LOG)
        assert sorted(central) == sorted(numbered(0, 300) * 2)


class SyslogServer:
    """Takes one connection after another; `lines` are the messages, unframed."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self.messages: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while True:
                    length = b""
                    while (one := stream.read(1)) not in (b" ", b""):
                        length += one
                    if not length:
                        break
                    self.messages.append(stream.read(int(length)))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # or accept goes on
        self._socket.close()


def test_a_syslog_server_gets_rfc_5424(tmp_path: Path) -> None:
    server = SyslogServer()
    with cluster(tmp_path) as found:
        append(found.nodes[0], b"plain", b"two\nlines", b"<13>1 2026-01-01T00:00:00Z host app - - - as it is")
        found.begin(found.config(pull=(PullRule(syslog=server.address),)))
        until(lambda: len(server.messages) == 3, "three messages")
    first, second, third = server.messages
    assert first.startswith(b"<134>1 20") and first.endswith(b"Z n0 mainlog - - - plain")
    assert second.endswith(b"- - - two\nlines") and third == b"<13>1 2026-01-01T00:00:00Z host app - - - as it is"
    server.close()


def test_a_server_that_is_away_holds_up_nothing_else(tmp_path: Path) -> None:
    [port] = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    with cluster(tmp_path) as found:
        rules = (PullRule(), PullRule(syslog=address, subscriber="to-syslog"))
        manager = found.begin(found.config(pull=rules))
        append(found.nodes[0], *numbered(0, 100))
        found.until_lines(100)
        problem = until(manager.problems, "it is told")[0]
        assert f"the syslog server at {address}" in problem


def test_a_rule_that_changed_takes_what_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with cluster(tmp_path) as found:
        manager = found.begin(found.config(pull=(PullRule(syslog=f"tcp://127.0.0.1:{port}"),)))
        append(found.nodes[0], *numbered(0, 100))
        until(manager.problems, "it is told")
        assert manager.hub.held_bytes
        manager.reload(found.config())
        found.until_lines(100)
        until(lambda: not manager.hub.held_bytes and not manager.problems(), "nothing waits any more")


def test_a_syslog_server_that_ends_a_connection_is_noticed() -> None:
    node = Node("n0", batches(random.Random(1), "n0", 2))
    listener = socket.create_server(("127.0.0.1", 0))
    output = SyslogOutput(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    output.write(list(node.parcels(0)))
    listener.accept()[0].close()

    def fails() -> bool:
        try:
            output.write(list(node.parcels(0)))
        except jlogd.JlogError:
            return True
        return False

    until(fails, "the end is noticed")
    listener.close()


def test_standard_output_has_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("n0", batches(random.Random(2), "n0", 5))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    StdoutOutput().write(list(node.parcels(0)))
    assert out.getvalue() == node.text()
