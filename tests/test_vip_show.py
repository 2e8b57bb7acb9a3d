"""What vip says, in which words: `vip show` and `vip plan` from a store that stands still, a daemon to a second one."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ports import free_ports

from cluster.solo import SoloStore
from cluster.types import Put, Txn
from jlogd.errors import CannotListen
from vip.assign import OWNERLESS, assign
from vip.cli.main import cli
from vip.cli.show import folded
from vip.clock import ns
from vip.config import parse
from vip.fitness import Member
from vip.kernel import linux
from vip.kernel.errors import KernelError
from vip.process import server_of
from vip.records import Keys, OwnRecord, SessionRecord, encode
from vip.units import bundles_of, units_of

# stdout and stderr of a command that must end with the code given.
Ask = Callable[..., tuple[str, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command on a cluster of one machine, whose store is a file; no daemon runs."""
    config = tmp_path / "vip.toml"
    config.write_text(
        f'[vip]\nnode = "mta1"\nstore = "solo"\nsolo_file = "{tmp_path}/solo.db"\n'
        '[[vip.topology]]\nblock = "10.77.0.0/16"\ninterface = "lan"\n'
        '[[vip.topology]]\nblock = "fd77::/64"\ninterface = "lan"\n'
        '[[vip.group]]\nname = "gold"\naddresses = ["10.77.16.1", "fd77::1:1"]\nprefer = ["mta1", "mta2"]\n'
        '[[vip.group]]\nname = "pool"\naddresses = ["10.77.16.8-10.77.16.11"]\nspread = true\n'
    )

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--config", str(config)], prog_name="vip")
        shown = capsys.readouterr()
        assert ended.value.code == code, shown
        return shown.out, shown.err

    return run


def test_what_there_is_not_is_not_shown(ask: Ask) -> None:
    for words in (("show", "nosuch"), ("show", "nosuch", "--json"), ("show", "gold", "nosuch")):
        told = "error: there is no address, group or node nosuch; groups: gold, pool; nodes: mta1, mta2\n"
        assert ask(*words, code=1) == ("", told)
    assert ask("show", "glod", code=1)[1] == "error: there is no address, group or node glod; did you mean gold?\n"
    assert "10.77.16.12 is in no group of this configuration" in ask("show", "10.77.16.12", code=1)[1]


def test_what_there_is_is_shown_however_it_is_written(ask: Ask) -> None:
    for word in ("gold", "fd77::1:1", "FD77:0::0001:1"):
        shown, _ = ask("show", word, code=1)
        assert "fd77::1:1" in shown and "pool" not in shown, word
    for node in ("mta1", "mta2"):
        assert "there are no addresses to show" in ask("show", node)[0]


def alive(store: Path, owned: dict[str, str], *nodes: str) -> None:
    """Sessions of nodes, heard just now, and who owns what."""
    keys, wall = Keys("default"), time.time()
    with contextlib.closing(SoloStore(store)) as base:
        session = SessionRecord(at=wall, wait=ns(1000.0), ready=True, age=1000)
        base.commit(Txn(success=tuple(Put(keys.session(node), encode(session)) for node in nodes)), within=5)
        revisions = {item.key: item.create_revision for item in base.read(keys.prefix, within=5).items}
        for address, node in owned.items():
            own = OwnRecord(node, revisions[keys.session(node)], since=wall - 5000, why="in words")
            base.commit(Txn(success=(Put(keys.own(address), encode(own)),)), within=5)


def test_addresses_that_are_alike_are_one_line(ask: Ask, tmp_path: Path) -> None:
    shown, _ = ask("show", "pool", code=1)
    assert "10.77.16.8-10.77.16.11   pool    free    nobody" in shown and shown.count("no node is alive") == 1
    assert ask("show", "--all", "pool", code=1)[0].count("no node is alive") == 4
    pool = [f"10.77.16.{number}" for number in range(8, 12)]
    alive(tmp_path / "solo.db", dict(zip(pool, ("mta1", "mta1", "mta2", "mta1"), strict=True)), "mta1", "mta2")
    lines = [line.split()[:4] for line in ask("show", "pool")[0].splitlines() if line.startswith("10.")]
    assert [(line[0], line[3]) for line in lines] == [
        ("10.77.16.8-10.77.16.9", "mta1"), ("10.77.16.10", "mta2"), ("10.77.16.11", "mta1")
    ]  # fmt: skip
    assert ask("show", "pool", "--json")[0].count("\n") == 4, "for programs each stands by itself"


def test_only_what_follows_each_other_is_one_line() -> None:
    def of(*addresses: str) -> list[tuple[str, ...]]:
        return [(address, "x") for address in addresses]

    assert folded(of("10.0.0.1", "10.0.0.2", "10.0.0.4")) == [("10.0.0.1-10.0.0.2", "x"), ("10.0.0.4", "x")]
    assert folded([("10.0.0.1", "x"), ("10.0.0.2", "y")]) == [("10.0.0.1", "x"), ("10.0.0.2", "y")]
    assert folded(of("fd77::fe", "fd77::ff", "fd77::100")) == [("fd77::fe-fd77::100", "x")]
    assert folded(of("255.255.255.255", "::1:0:0", "10.0.0.1")) == of("255.255.255.255", "::1:0:0", "10.0.0.1")
    assert folded([]) == []


def test_what_would_move_from_a_lost_node_is_said_of_that_node(ask: Ask, tmp_path: Path) -> None:
    alive(tmp_path / "solo.db", {"10.77.16.1": "mta1", "fd77::1:1": "mta1", "10.77.16.8": "mta1"}, "mta1", "mta2")
    shown, _ = ask("plan", "--lost", "mta1")
    lost, free = ([line for line in shown.splitlines() if line.startswith(word)] for word in ("gold", "10.77.16.9"))
    assert "if mta1 were gone; mta2 is number 2 of its preference" in lost[0] and OWNERLESS not in lost[0]
    assert OWNERLESS in free[0], "as it is, whoever is lost"


def test_balance_says_what_it_counts() -> None:
    """Groups that move as one count once, so it is not what stands under ADDRESSES."""
    addresses = "".join(f'[[vip.group]]\nname = "g{n}"\naddresses = ["10.0.{n}.1", "10.0.{n}.2"]\n' for n in range(9))
    top = '[vip]\nnode = "mta1"\nstore = "solo"\n[[vip.topology]]\nblock = "10.0.0.0/8"\ninterface = "lan"\n'
    bundles = bundles_of(units_of(parse(top + addresses)))
    wishes = assign(bundles, [Member("mta1"), Member("mta2")], {bundle.name: "mta1" for bundle in bundles})
    moved = [wish.why for wish in wishes.values() if wish.kind == "shift"]
    assert moved == ["balance: mta1 has 9 groups or single addresses, mta2 only 0"]


def test_a_second_daemon_says_at_once_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(linux, "_ALONE", f"\0vip-test-{id(caplog)}")
    monkeypatch.setattr(linux, "_ALONE_SECONDS_MAX", -1.0)
    with linux._alone(), pytest.raises(KernelError, match="another vip daemon"):
        linux._alone()
    assert [record.getMessage() for record in caplog.records] == [
        "another vip daemon, or the guard of the last one, is still here: waiting for its end"
    ]


def test_the_page_of_a_daemon_is_that_of_vip_and_a_port_that_is_taken_names_its_setting() -> None:
    (port,) = free_ports(1)
    daemon = cast(Any, SimpleNamespace(settings=SimpleNamespace(http=f"127.0.0.1:{port}")))
    server = server_of(daemon)
    assert server is not None
    try:
        with pytest.raises(
            CannotListen, match=r"^vip\.http: cannot listen on .*; set another port in \[vip\] http"
        ) as told:
            server_of(daemon)
        answer = server.answer("/", "", "")
    finally:
        server.close()
    assert "another jlogd or vip" in str(told.value)
    assert answer is not None
    page = answer[2].decode()
    assert "<title>vip</title>" in page and "jlogd" not in page and "records" not in page
    assert re.findall('href="(.*?)"', page) == ["/stat", "/metrics", "/healthz", "/readyz"]
    assert server_of(cast(Any, SimpleNamespace(settings=SimpleNamespace(http="")))) is None
