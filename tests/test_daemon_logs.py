"""The logs of a daemon's spool: those it makes, and those it cannot serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.daemon.logs import SpoolLogs
from jlogd.errors import LogExists
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
