"""Commands when members of etcd do not answer: any one that does is enough, and without one it is said what follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ports import free_ports

from cluster.errors import StoreRefused, StoreUnavailable
from cluster.memory import MemoryCluster, MemoryStore
from cluster.types import Snapshot, Txn, TxnResult
from vip.cli import cluster as commands
from vip.cli.main import cli
from vip.records import Keys


class Members(MemoryStore):
    """Three members: every question goes to the next one, and only the last answers."""

    asked = 0

    def read(self, prefix: str, *, within: float) -> Snapshot:
        self._next()
        return super().read(prefix, within=within)

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        self._next()
        return super().commit(txn, within=within)

    def _next(self) -> None:
        self.asked += 1
        if self.asked % 3:
            raise StoreUnavailable(f"member {self.asked % 3} is away")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "vip.toml"
    members = ", ".join(f'"http://127.0.0.1:{port}"' for port in free_ports(3))
    path.write_text(f'[vip]\nnode = "n1"\nstore = "etcd"\netcd = [{members}]\nhttp = "127.0.0.1:5999"\n')
    return path


def run(config: Path, *words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--config", str(config)], prog_name="vip")
    return ended.value.code


def opening(open_store: Callable[[], MemoryStore]) -> Callable[[object], Callable[[], MemoryStore]]:
    return lambda _settings: open_store


def test_one_member_that_answers_is_enough(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryCluster()
    monkeypatch.setattr(commands, "opener", opening(lambda: Members(memory)))
    assert run(config, "show") == 0
    assert run(config, "drain", "n1", "--wait", "0s") == 0
    assert Keys("default").drain("n1") in memory.keys


@pytest.mark.parametrize("words", [("show",), ("plan",), ("drain", "n1"), ("move", "10.0.0.1", "n1")])
def test_without_any_every_one_is_named_and_what_becomes_of_addresses(
    config: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, *words) == 3
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("error: no member of etcd answers: ") and told.err.count("refused") == 3
    for member in commands.load(config).etcd:
        assert member in told.err
    assert "lets go of its addresses 3.5 s after its last heartbeat" in told.err
    assert "curl http://127.0.0.1:5999/healthz" in told.err and "vip history" in told.err


def test_a_refusal_is_the_answer_and_no_other_member_is_asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(MemoryStore):
        asked = 0

        def read(self, prefix: str, *, within: float) -> Snapshot:
            self.asked += 1
            raise StoreRefused("permission denied")

    store = Refusing(MemoryCluster())
    monkeypatch.setattr(commands, "opener", opening(lambda: store))
    assert run(config, "show") == 3 and store.asked == 1
