"""The logs of a daemon's spool: those it makes, and those it cannot serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.daemon.config_file import parse
from jlogd.daemon.daemon import Daemon
from jlogd.daemon.logs import SpoolLogs
from jlogd.errors import FormatError, LogExists, LogNotFound, SpoolFull
from jlogd.journal.journal import Journal
from jlogd.journal.repair import repair
from jlogd.journal.types import Settings


@pytest.fixture
def logs(spool: Path) -> Iterator[SpoolLogs]:
    logs = SpoolLogs(spool, lambda _name: lambda _seconds: None)
    yield logs
    logs.close()


def test_a_client_that_makes_a_log_twice_is_told_no_path(logs: SpoolLogs, spool: Path) -> None:
    logs.create("mainlog", None, [])
    (spool / "other" / "thing").mkdir(parents=True)
    with pytest.raises(LogExists, match="this daemon already has a log mainlog") as twice:
        logs.create("mainlog", None, [])
    with pytest.raises(LogExists, match="has something else named other") as other:
        logs.create("other", None, [])
    assert str(spool) not in f"{twice.value}{other.value}"
    with pytest.raises(LogExists, match=str(spool / "other")):  # in the daemon's own log, the path is wanted
        logs.ensure("other", Settings(), [])


def test_a_damaged_log_leaves_the_others_served(logs: SpoolLogs, spool: Path) -> None:
    wanted = {"fine": (Settings(), ["a"]), "mainlog": (Settings(), ["master"])}
    for name in ("fine", "mainlog", "headless", "ownerless"):
        Journal.create(spool / name)
    (spool / "mainlog" / "log.json").write_bytes(b"{oops")
    (spool / "headless" / "log.json").unlink()
    (spool / "ownerless" / "owner").unlink()
    logs.open_all(wanted)
    assert logs.names() == ["fine"]
    assert sorted(logs.unserved) == ["headless", "mainlog", "ownerless"]
    for name in ("headless", "mainlog"):
        assert f"jlogctl repair {spool / name} --dry-run" in logs.unserved[name]
    with pytest.raises(LogNotFound, match="cannot serve log mainlog") as told:
        logs.get("mainlog")
    assert str(spool) not in str(told.value)
    for name in ("mainlog", "headless"):
        repair(spool / name)
    logs.open_all(wanted)
    assert logs.names() == ["fine", "headless", "mainlog"] and sorted(logs.unserved) == ["ownerless"]


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_damage_that_leaves_no_log_of_the_configuration_is_raised(logs: SpoolLogs, spool: Path, harm: str) -> None:
    for name in ("mainlog", "found"):
        Journal.create(spool / name)
    meta = spool / "mainlog" / "log.json"
    meta.write_bytes(b"{oops") if harm == "damaged" else meta.unlink()
    with pytest.raises(FormatError if harm == "damaged" else LogExists, match="jlogctl repair"):
        logs.open_all({"mainlog": (Settings(), [])})


def test_what_keeps_a_log_from_taking_records_is_told(spool: Path, tmp_path: Path) -> None:
    Journal.create(spool / "mainlog")
    (spool / "mainlog" / "log.json").write_bytes(b"{oops")
    (tmp_path / "lines").touch()
    config = parse(
        f'[node]\nname = "east1"\nspool = "{spool}"\n[log.mainlog]\n[log.fine]\n'
        f'[[source.file]]\nlog = "mainlog"\npaths = ["{tmp_path}/lines"]\n'
    )
    daemon = Daemon(config)
    try:
        daemon.start()
        found = "\n".join(daemon.problems())
        assert "log mainlog is not served: log.json cannot be read" in found
        assert "does not run as configured: this daemon cannot serve log mainlog" in found
        assert daemon.logs.names() == ["fine"]
        repair(spool / "mainlog")
        daemon.reload(config)
        assert daemon.problems() == [] and daemon.logs.names() == ["fine", "mainlog"]
        daemon.logs.get("fine").journal._note_full([SpoolFull("no space for it")])
        assert daemon.problems() == ["log fine refuses appends: no space for it"]
    finally:
        daemon.stop()
