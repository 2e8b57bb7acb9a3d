"""A daemon looks at the mount of its spool at every start, and a risk that was accepted is told for ever."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest
from cli_support import done, jlogctl
from daemon_support import SECONDS_MAX, RunningDaemon, daemon, until

import jlogd
from jlogd.daemon.config import Node
from jlogd.daemon.spool import prepare_spool
from jlogd.errors import ConfigError, SpoolUnfit
from jlogd.spoolcheck import check, verdict
from jlogd.spoolcheck.findings import failed
from jlogd.spoolcheck.helpers import CallFailed

UNFIT = failed("peer.ring", "counts are lost", "mount it otherwise")
TOLD = "at a risk that was accepted on 20"


@pytest.fixture
def unfit(tmp_path: Path) -> Path:
    """A spool in which the last full check of this host found a failure."""
    spool = tmp_path / "spool"
    spool.mkdir()
    known = check.Checked()
    list(check._run(spool, known, full=False))  # the host, kernel and mount that a verdict is about
    check.keep(spool, known, [UNFIT])
    return spool


def start(running: RunningDaemon, *words: str) -> subprocess.Popen[bytes]:
    running.words = list(words)
    return running.launch()


@pytest.mark.parametrize("accept_risk", [False, True])
def test_a_spool_that_may_not_be_written_is_no_risk_to_accept(
    tmp_path: Path, accept_risk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_crew: object) -> None:
        raise CallFailed("mkdir", errno.EACCES)

    monkeypatch.setattr(check.Crew, "begin", refuse)
    with pytest.raises(SpoolUnfit, match=f"{tmp_path} cannot be written: .* denied to .*belongs to") as told:
        check.admit(tmp_path, accept_risk)
    assert "accept" not in str(told.value) and "name another spool" in str(told.value)


def test_a_spool_that_cannot_be_made_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"cannot make {tmp_path}/file/spool: not a directory; choose another"):
        prepare_spool(Node(name="east1"), tmp_path / "file" / "spool", False)


def test_a_spool_that_failed_is_refused_until_the_risk_is_accepted(unfit: Path, tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    try:
        assert running.process.wait(SECONDS_MAX) == 3
        for words in ("is not fit for logs: peer.ring: counts are lost", "mount it otherwise", "--accept-risk"):
            assert running.said(words), running.errors.read_text()
        assert not running.said("Traceback") and not running.mainlog.exists()
        start(running, "--accept-risk")
        running.wait_ready()
        assert running.said("accepted at a risk: peer.ring")
        [risk] = running.stat()["risks"]
        assert TOLD in risk and "peer.ring: counts are lost" in risk
        assert 'jlogd_log_accepted_risks{log="mainlog"} 1.0' in running.get("/metrics")[1]
        for target in (running.address, running.mainlog):
            [told] = done(jlogctl("stat", target, "--json")).objects
            assert told["risks"] == [risk] and risk in told["warnings"] and told["healthy"]
            assert f"warning: mainlog: {risk}" in done(jlogctl("stat", target)).err
        assert running.end() == 0
        # It was accepted for one start. The next one is refused; without the failure it runs, and tells it still.
        assert start(running).wait(SECONDS_MAX) == 3
        done(jlogctl("check-spool", unfit))
        start(running)
        running.wait_ready()
        assert running.stat()["risks"] == [risk]
        assert running.end() == 0
    finally:
        running.process.kill()
        running.process.wait()


def test_a_fit_spool_has_no_risks(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        assert running.stat()["risks"] == []
        assert 'jlogd_log_accepted_risks{log="mainlog"} 0.0' in running.get("/metrics")[1]
        assert "warning" not in done(jlogctl("stat", running.mainlog)).err
        assert not [path for path in running.spool.iterdir() if path.is_dir() and path != running.mainlog]


def test_a_record_of_risks_that_is_damaged_hides_no_log(tmp_path: Path) -> None:
    log = tmp_path / "mainlog"
    jlogd.create(log)
    (tmp_path / verdict.FILE).write_text("{")
    assert "cannot be told" in done(jlogctl("stat", log)).err


def test_a_spool_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    running = RunningDaemon(tmp_path)
    try:
        until(lambda: running.process.poll() is not None, "the daemon ends")
        assert running.process.returncode == 2
        assert running.said("node.spool: cannot make") and not running.said("Traceback")
    finally:
        running.process.kill()
        running.process.wait()


def test_a_relative_spool_is_looked_at_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not where the process that looks happens to be."""
    monkeypatch.chdir(tmp_path)
    Path("var/logs").mkdir(parents=True)
    assert not any(one.failed for one in check.admit(Path("var/logs")))
