"""`import-jlog` and `export` where the log is behind a daemon: as on a directory."""

from __future__ import annotations

import signal
from pathlib import Path

from cli_support import SECONDS_MAX, done, failed, jlogctl, process
from libjlog_writer import OldLog
from test_cli_remote import configured, wait_for


def test_through_a_daemon(tmp_path: Path) -> None:
    old = OldLog(tmp_path / "old", ">", unit_limit=5000)
    for number in range(2000):
        old.write(b"record %d" % number, 1_000_000 + number // 100)
    old.checkpoint("master", *old.records[700][:2])
    old.checkpoint("audit", 0, 0)
    wanted = b"".join(data + b"\n" for *_, data in old.records)
    with process("run", "--config", configured(tmp_path), module="jlogd") as daemon:
        log = f"ipc://{tmp_path}/sock/mainlog"
        wait_for(daemon, f"ipc://{tmp_path}/sock")
        ended = done(jlogctl("import-jlog", old.path, log))
        assert ended.lines == [
            f"imported 2,000 records (20.4 KiB) from {old.path} into mainlog",
            "subscriber audit goes on at 1, was at 00000000:00000000",
            f"subscriber master goes on at 702, was at {old.records[700][0]:08x}:{old.records[700][1]:08x}",
        ]
        assert done(jlogctl("import-jlog", old.path, log)).lines[0].startswith("imported 0 records")
        done(jlogctl("export", log, "--output", tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == wanted
        assert done(jlogctl("export", log, "--from", 11, "--to", 13)).raw == b"record 10\nrecord 11\n"
        failed(jlogctl("repair", tmp_path / "spool" / "mainlog"), 3, "is in use; stop the daemon")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(SECONDS_MAX) == 0
    done(jlogctl("repair", tmp_path / "spool" / "mainlog"))
