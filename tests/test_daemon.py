"""The daemon as a process: started, fed, reloaded, stopped and killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from daemon_support import ROOT, SECONDS_MAX, RunningDaemon, daemon, until
from ports import free_ports

import jlogd
from jlogd.journal.check import check


def send_tcp(running: RunningDaemon, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.syslog)) as made:
        made.sendall(data)


def test_syslog_by_udp_and_tcp_keeps_its_bytes(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        send_tcp(running, b"<13>Oct 11 22:14:15 east1 app: by tcp \xff\n")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"<13>1 - - - - - - by udp", ("127.0.0.1", running.syslog))
        running.until_records(2)
        assert set(running.records()) == {
            b"<13>Oct 11 22:14:15 east1 app: by tcp \xff",
            b"<13>1 - - - - - - by udp",
        }
        assert running.end() == 0
        assert running.said("everything taken in is durable")
    assert list(check(running.mainlog)) == []


def test_a_clean_stop_loses_nothing_that_arrived(tmp_path: Path) -> None:
    lines = [b"line %d" % number for number in range(20_000)]
    with daemon(tmp_path) as running:
        send_tcp(running, b"\n".join(lines) + b"\n")
        running.until_records(1)
        assert running.end(signal.SIGINT) == 0
        assert running.records() == lines


def test_a_followed_file_arrives_exactly_once_whatever_dies(tmp_path: Path) -> None:
    followed = tmp_path / "app.log"
    followed.touch()
    extra = f'[[source.file]]\nlog = "mainlog"\npaths = ["{followed}"]\n'
    expected = []
    with daemon(tmp_path, extra) as running:
        for round_number in range(5):
            lines = [b"round %d line %d %s" % (round_number, number, b"x" * 50) for number in range(20_000)]
            expected += lines
            before = running.stat()["next"]
            with followed.open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
            until(lambda before=before: running.stat()["next"] > before, "some of it is in the log")
            running.process.kill()
            running.process.wait()
            running.launch()
            running.wait_ready()
        running.until_records(len(expected))
        assert running.end() == 0
        assert running.records() == expected
    assert [found for found in check(running.mainlog) if not found.harmless] == []


def test_standard_input_is_taken_to_its_end(tmp_path: Path) -> None:
    text = tmp_path / "input"
    text.write_bytes(b"one\ntwo\nthree")
    with text.open("rb") as stdin, daemon(tmp_path, '[[source.stdin]]\nlog = "mainlog"\n', stdin=stdin) as running:
        running.until_records(3)
        assert running.records() == [b"one", b"two", b"three"]
        assert running.get("/healthz")[0] == 200


def test_a_reload_applies_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        followed = tmp_path / "new.log"
        followed.write_bytes(b"from the new source\n")
        extra = f'[log.other]\n[[source.file]]\nlog = "other"\npaths = ["{followed}"]\n'
        running.write_config(extra, 'max_lag_bytes = "1GiB"\non_full = "drop-oldest"')
        running.config.write_text(running.config.read_text().replace('"east1"', '"west1"'))
        running.send_signal(signal.SIGHUP)
        until(lambda: running.said("not applied"), "the reload is reported")
        running.until_records(1, "other")
        assert running.records("other") == [b"from the new source"]
        (master,) = running.stat()["subscribers"]
        assert master["caps"] == {"max_bytes": 1 << 30, "max_age": 0.0, "on_full": "drop-oldest"}
        assert running.said("SIGHUP: applied log.other: added")
        assert re.search(r"not applied node\.name: .*east1.*west1", running.errors.read_text())


def test_a_wrong_configuration_changes_nothing_at_a_reload(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.config.write_text("[node]\nnam = 3\n")
        running.send_signal(signal.SIGHUP)
        until(lambda: running.said("jlogd.toml:2"), "the mistake is reported with its line")
        send_tcp(running, b"still here\n")
        running.until_records(1)


def test_what_a_reload_cannot_read_twice_holds_up_nobody(tmp_path: Path) -> None:
    """Standard input that is said not to be opened was not; a pipe in the place of the file is refused, not read."""
    with daemon(tmp_path) as running:
        running.write_config('[[source.stdin]]\nlog = "mainlog"\n')
        running.send_signal(signal.SIGHUP)
        until(lambda: running.said("not applied source.stdin: added"), "the reload is reported")
        assert not running.said("source stdin feeds")
        running.config.unlink()
        os.mkfifo(running.config)
        running.send_signal(signal.SIGHUP)
        until(lambda: running.said("is no regular file"), "the pipe is refused")
        assert running.end() == 0


def test_a_reload_that_cannot_bind_leaves_the_sources_as_they_were(tmp_path: Path) -> None:
    """What was listened on goes on, other sources too; health tells that it is not as configured."""
    followed = tmp_path / "app.log"
    followed.touch()
    extra = f'[[source.file]]\nlog = "mainlog"\npaths = ["{followed}"]\n'
    with daemon(tmp_path, extra) as running, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        old = running.config.read_text()
        running.config.write_text(old.replace(f"tcp://127.0.0.1:{running.syslog}", f"tcp://127.0.0.1:{port}"))
        running.send_signal(signal.SIGHUP)
        until(lambda: running.get("/healthz")[0] == 503, "health tells it")
        assert "cannot listen on" in running.get("/healthz")[1]
        send_tcp(running, b"still heard\n")
        followed.write_bytes(b"still followed\n")
        running.until_records(2)
        running.config.write_text(old)
        running.send_signal(signal.SIGHUP)
        until(lambda: running.get("/healthz")[0] == 200, "all is well again")


def test_two_daemons_on_the_same_ports_are_told(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        config = tmp_path / "second.toml"
        config.write_text(running.config.read_text().replace(str(running.spool), str(tmp_path / "its own spool")))
        second = subprocess.run(
            [sys.executable, "-m", "jlogd.cli.jlogd", "run", "--config", str(config)],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        assert second.returncode == 3
        assert "cannot listen on" in second.stderr
        assert "Traceback" not in second.stderr
        assert not (tmp_path / "its own spool").exists()


def test_a_spool_of_another_host_is_refused(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        assert running.end() == 0
    from jlogd.journal.disk import PosixDisk
    from jlogd.journal.head import OWNER, Owner
    from jlogd.journal.slots import SlotFile

    file = SlotFile.open(PosixDisk(), running.mainlog / "owner", OWNER)
    file.read()
    file.write(Owner(7, "another host", "its boot").encode(), sync=True)
    file.close()
    process = running.launch()
    assert process.wait(SECONDS_MAX) == 3
    assert running.said("is owned by host another host since epoch 7")
    assert not running.said("Traceback")


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(SECONDS_MAX)
        running = RunningDaemon(tmp_path)
        running.process.kill()
        running.process.wait()
        process = running.launch(NOTIFY_SOCKET=path)
        assert b"READY=1" in listener.recv(4096)
        process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in listener.recv(4096)
        assert process.wait(SECONDS_MAX) == 0


def test_a_blocking_cap_holds_up_the_source_and_shows(tmp_path: Path) -> None:
    """Nothing is lost: what does not fit waits, health says so, and it goes on when the subscriber moves."""
    followed = tmp_path / "app.log"
    lines = [b"%06d %s" % (number, b"y" * 93) for number in range(50_000)]
    followed.write_bytes(b"\n".join(lines) + b"\n")
    extra = f'[[source.file]]\nlog = "mainlog"\npaths = ["{followed}"]\n'
    with daemon(tmp_path, extra, 'segment_size = "64KiB"\nmax_lag_bytes = "200KiB"\non_full = "block"') as running:
        until(lambda: running.get("/healthz")[0] == 503, "health tells that the log is full")
        assert "fallen behind its cap" in running.get("/healthz")[1]
        got: list[bytes] = []
        with jlogd.open(running.address) as log, log.subscriber("master", follow=True) as reader:
            for batch in reader:
                got += batch
                batch.checkpoint()
                if len(got) >= len(lines):
                    break
        assert got == lines
        until(lambda: running.get("/healthz")[0] == 200, "health recovers")


def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        send_tcp(running, b"a\nb\nc\n")
        running.until_records(3)
        text = running.get("/metrics")[1]
        assert 'jlogd_appended_records_total{log="mainlog"} 3.0' in text
        assert 'jlogd_subscriber_lag_records{log="mainlog",subscriber="master"} 3.0' in text
        assert 'jlogd_source_records_total{source="syslog"} 3.0' in text
        assert "jlogd_sync_seconds_bucket" in text


@pytest.mark.slow
def test_producers_over_the_wire_survive_the_daemon(tmp_path: Path) -> None:
    """Four numbered producers, a daemon that is killed again and again: each record once, in order of its producer."""
    count = 20_000
    with daemon(tmp_path) as running:

        def produce(label: int) -> None:
            with jlogd.open(running.address) as log, log.writer() as writer:
                for number in range(count):
                    writer.append(b"%d %d" % (label, number))
                    if number % 1000 == 0:
                        writer.flush()

        threads = [threading.Thread(target=produce, args=(label,)) for label in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            before = running.stat()["next"]
            until(
                lambda before=before: (
                    running.stat()["next"] > before + 2000 or not any(thread.is_alive() for thread in threads)
                ),
                "progress",
            )
            running.process.kill()
            running.process.wait()
            running.launch()
            running.wait_ready()
        for thread in threads:
            thread.join(4 * SECONDS_MAX)
            assert not thread.is_alive()
        by_label: dict[int, list[int]] = {label: [] for label in range(4)}
        for record in running.records():
            label, number = record.split()
            by_label[int(label)].append(int(number))
        assert by_label == {label: list(range(count)) for label in range(4)}


def test_the_built_in_configuration_is_what_the_first_command_runs(tmp_path: Path) -> None:
    """`jlogd run` without a file, on other ports: prints what to paste, takes a record, ends at Ctrl-C."""
    syslog, zmq, http = free_ports(3)
    script = (
        "import jlogd.daemon.defaults as d; d.DEFAULT_TOML = d.DEFAULT_TOML"
        f".replace('5514', '{syslog}').replace('5140', '{zmq}').replace('5180', '{http}');"
        "from jlogd.cli.jlogd import cli; cli.main(['run'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = []
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert process.poll() is None
            printed.append(line.strip())
        command = next(line for line in printed if line.startswith("logger") and "--tcp" in line)
        subprocess.run(command.split("  #")[0], shell=True, check=True, timeout=SECONDS_MAX)
        log = jlogd.open(tmp_path / "var/spool/mainlog")
        until(lambda: log.stat().next == 2, "the record is in the log")
        assert [subscriber.name for subscriber in log.subscribers()] == ["master"]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        process.kill()
        process.communicate()
