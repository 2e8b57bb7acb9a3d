"""`jlogd.audit` while the log takes nothing: what was counted is kept, within bounds, and logged once it may be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import jlogd
from jlogd.auditing import Audit
from jlogd.journal.types import Caps


def audit_of(directory: Path) -> Audit:
    """One that flushes only when it is told to, or has to."""
    jlogd.create(directory / "audit")
    return Audit(jlogd.open(directory / "audit"), every=3600.0)


def test_it_goes_on_once_the_log_takes_records_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, nothing is there twice, and memory is bounded meanwhile."""
    monkeypatch.setattr("jlogd.auditing.PAIRS_MAX", 3)
    with audit_of(tmp_path) as audit, jlogd.open(tmp_path / "audit") as log:
        log.add_subscriber("slow", caps=Caps(max_bytes=230))  # the beginning of a segment has 224
        audit.add("spam", "192.0.2.0")
        audit.flush()
        for number in range(1, 4):
            audit.add("spam", f"192.0.2.{number}")
        with pytest.raises(jlogd.LogFull):
            audit.flush()
        for number in range(4, 7):
            audit.add("spam", f"192.0.2.{number}")
        with pytest.raises(jlogd.LogFull):
            audit.add("spam", "192.0.2.7")
        audit.add("spam", "192.0.2.4")
        log.remove_subscriber("slow")
        audit.add("spam", "192.0.2.7")
    with jlogd.open(tmp_path / "audit") as log, log.subscriber() as reader:
        words = [word for batch in reader for record in batch for word in record.split()[3:]]
    counted = Counter({word.partition(b"=")[0]: int(word.partition(b"=")[2]) for word in words})
    assert len(words) == 8 and counted == {b"192.0.2.%d" % n: 1 + (n == 4) for n in range(8)}


def test_it_does_not_count_twice_what_only_the_answer_was_missing_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with audit_of(tmp_path) as audit:
        audit.add("spam", "192.0.2.7", 5)
        writer = audit._writer
        assert writer is not None
        flush = writer.flush
        monkeypatch.setattr(writer, "flush", lambda timeout=None: (flush(timeout), _fail()))
        with pytest.raises(jlogd.JlogError, match="no answer"):
            audit.flush()
    with jlogd.open(tmp_path / "audit") as log, log.subscriber() as reader:
        assert [record.split()[3:] for batch in reader for record in batch] == [[b"192.0.2.7=5"]]


def _fail() -> None:
    raise jlogd.JlogError("no answer")
