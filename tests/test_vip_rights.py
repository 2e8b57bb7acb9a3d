"""A place that vip may not write: it is said who may not write where, before it runs and while it does."""

from __future__ import annotations

import logging
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from daemon_support import ROOT, until

import jlogd
from jlogd import access
from vip import history
from vip.history import Entry, History, unfit
from vip.report import problems

NOBODY = 65534
# To read the interpreter and this checkout, which may be root's alone; of no use for writing.
READ = "-all,+dac_read_search"


def vip(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command run by a user that may not write what only its owner may."""
    unprivileged = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={READ}", f"--ambient-caps={READ}", f"--bounding-set={READ}",
    ]  # fmt: skip
    command = [*(unprivileged if os.geteuid() == 0 else []), sys.executable, "-m", "vip.cli.main", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def refusal(place: Path) -> str:
    """What is said of a place that belongs to whoever runs the tests, and may be read by it alone."""
    owner = pwd.getpwuid(os.geteuid()).pw_name
    reader = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else owner
    return f"user {reader} may not write {place}, which belongs to {owner} (mode 0{place.stat().st_mode & 0o777:o})"


@pytest.fixture
def config() -> Iterator[Path]:
    """Where another user may look: pytest's own directories are for one alone."""
    with tempfile.TemporaryDirectory(prefix="vip-rights-") as place:
        os.chmod(place, 0o755)
        path = Path(place) / "vip.toml"
        store = f'store = "solo"\nsolo_file = "{place}/run/solo.db"\n'
        path.write_text(f'[vip]\nnode = "n1"\n{store}log = "{place}/log"\n')
        path.chmod(0o644)
        yield path


def test_a_log_that_is_not_there_or_belongs_to_another_user_is_told_before_it_is_missed(config: Path) -> None:
    log = config.parent / "log"
    told = vip("check-config", config)
    assert (
        told.returncode == 0
        and f"make one, as the user that vip runs as or as root: jlogctl create {log}" in told.stderr
    )
    jlogd.create(log)
    assert unfit(str(log)) == ""
    log.chmod(0o500)
    told = vip("check-config", config)
    assert told.returncode == 0 and "is right" in told.stdout
    assert told.stderr == f"warning: vip.log: changes of owner cannot be written: {refusal(log)}\n"
    log.chmod(0o777)
    (log / "head-00000001").chmod(0o400)
    assert f"may not write {log}/" in vip("check-config", config).stderr, "its files count as well"


def test_the_store_of_a_machine_that_may_not_be_written_says_who_and_where(config: Path) -> None:
    directory = config.parent / "run"
    directory.mkdir(mode=0o500)
    told = vip("show", "--config", config)
    assert (told.returncode, told.stdout) == (3, "")
    assert f"error: {directory}/solo.db: {refusal(directory)}" in told.stderr
    assert "unable to open" not in told.stderr


def test_what_is_mounted_read_only_is_not_blamed_on_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.obstacle(tmp_path / "new") == ""
    monkeypatch.setattr(os, "access", lambda *_words, **_options: False)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert access.obstacle(tmp_path / "new" / "file").startswith(f"{tmp_path} is read-only here")


def test_a_daemon_says_that_it_keeps_no_log_and_writes_what_waited_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(history, "REST_SECONDS", 0.02)
    log = tmp_path / "log"
    writes = History(str(log))
    writes.start()
    writes.note(Entry(1.0, "10.0.0.1", "gold", "n1", "n2", "drained", "n2"), write=True)
    until(lambda: writes.failure, "it is told")
    assert problems(daemon(writes)) == [f"changes of owner are not written to LOG: {unfit(str(log))}"]
    jlogd.create(log)
    until(lambda: records(log), "it is written")
    until(lambda: not problems(daemon(writes)), "and nothing is wrong any more")
    writes.close()
    told = [record.getMessage() for record in caplog.records if "changes of owner" in record.getMessage()]
    assert len(told) == 2 and "tried again every 0.02 s" in told[0] and told[1].endswith(f"written to {log} again")


def records(log: Path) -> list[bytes]:
    with jlogd.open(log) as opened, opened.subscriber() as reader:
        return [bytes(record) for batch in reader for record in batch]


def daemon(history: History) -> Any:
    """A daemon that is well but for what its history says."""
    calm = SimpleNamespace(failure="", alarms=())
    node = SimpleNamespace(
        trouble={}, phase="live", view=SimpleNamespace(generation=0),
        holdings=SimpleNamespace(blocked=dict), plan=SimpleNamespace(settings=SimpleNamespace(generation=0)),
    )  # fmt: skip
    checks = SimpleNamespace(failing=dict)
    return cast(
        Any,
        SimpleNamespace(
            node=node, stream=calm, heart=calm, keeper=calm, checks=checks, guard_failure="", history=history,
            settings=SimpleNamespace(log="LOG"),
        ),
    )  # fmt: skip
