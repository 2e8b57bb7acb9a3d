"""A real daemon that demands keys: who comes in, who does not, what each is told, and what a reload changes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_support import done, failed, jlogctl
from daemon_support import ROOT, RunningDaemon, daemon, until
from ports import free_ports

import jlogd
from jlogd.errors import LogNotFound, NotAuthenticated, NotGranted, RemoteError, UsageError
from jlogd.wire import shared
from jlogd.wire.keys import KeyPair, make_pair, write_pair

CLIENTS = ("web3", "archive", "stranger")


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("JLOGD_KEY", "JLOGD_SERVER_KEY", "JLOGD_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    assert shared._shared == {}, "a test left a connection open"


class Guarded:
    """A daemon with a key on all addresses of this host, one without on the loopback, and a unix socket."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        self.keys.mkdir()
        self.pairs: dict[str, KeyPair] = {name: make_pair(name) for name in (*CLIENTS, "east1")}
        for pair in self.pairs.values():
            write_pair(pair, self.keys)
        (self.port,) = free_ports(1)
        self.socket = directory / "s"
        self.running: RunningDaemon

    def tables(self, *, clients: str | None = None, key: str = "east1", more: str = "") -> str:
        return f'[auth]\nkey = "{self.keys}/{key}.key"\n{self.clients() if clients is None else clients}\n{more}'

    def clients(self) -> str:
        return (
            f'[[auth.client]]\nname = "web3"\npublic_key = "{self.pairs["web3"].public}"\nappend = ["main*"]\n'
            f'[[auth.client]]\nname = "archive"\npublic_key = "{self.pairs["archive"].public}"\n'
            'subscribe = ["mainlog:master"]\n'
        )

    def reload(self, extra: str, lines: int = 1) -> None:
        """Reload, and wait until so many lines were said of it: those that come later would be taken for the next's."""
        said = self.running.errors.read_text().count("SIGHUP: ")
        self.write(extra)
        self.running.send_signal(signal.SIGHUP)
        until(lambda: self.running.errors.read_text().count("SIGHUP: ") >= said + lines, "the reload")

    def write(self, extra: str) -> None:
        self.running.write_config(extra)

    @property
    def target(self) -> str:
        return f"tcp://127.0.0.1:{self.port}/mainlog"

    @property
    def ipc(self) -> str:
        return f"ipc://{self.socket}/mainlog"

    def open(self, name: str, server: str = "", target: str = "") -> jlogd.Log:
        server_key = server or self.pairs["east1"].public
        return jlogd.open(target or self.target, key=self.keys / f"{name}.key", server_key=server_key)


class GuardedDaemon(RunningDaemon):
    """Its process; it has two listeners more than others."""

    def __init__(self, guarded: Guarded, extra: str) -> None:
        self.guarded = guarded
        super().__init__(guarded.keys.parent, extra)

    def write_config(self, extra: str = "", log: str = "") -> None:
        super().write_config(extra, log)
        listeners = f'"tcp://0.0.0.0:{self.guarded.port}", "ipc://{self.guarded.socket}", "tcp://127'
        self.config.write_text(self.config.read_text().replace('"tcp://127', listeners, 1))


@contextmanager
def guarded(directory: Path, extra: str | None = None) -> Iterator[Guarded]:
    made = Guarded(directory)
    made.running = GuardedDaemon(made, made.tables() if extra is None else extra)
    try:
        made.running.wait_ready()
        yield made
    finally:
        if made.running.process.poll() is None:
            made.running.process.kill()
            made.running.process.wait()


@pytest.fixture
def east1(tmp_path: Path) -> Iterator[Guarded]:
    with guarded(tmp_path) as made:
        yield made


def append(log: jlogd.Log, *records: bytes) -> None:
    with log.writer() as writer:
        for record in records:
            writer.append(record)
        writer.flush()


def test_who_names_a_log_that_is_not_there_is_told_of_those_it_may_see_only(east1: Guarded) -> None:
    done(jlogctl("create", f"ipc://{east1.socket}/secret"))
    with pytest.raises(LogNotFound) as refused, east1.open("web3", target=east1.target.replace("mainlog", "mainlgo")):
        pass
    assert "there are: mainlog" in str(refused.value) and "secret" not in str(refused.value)


def test_each_client_does_what_it_is_granted_and_nothing_else(east1: Guarded) -> None:
    with east1.open("web3") as log:
        append(log, b"one", b"two")
        for refused, words in (
            (lambda: log.stat(), "client web3 may not read log mainlog"),
            (lambda: log.subscriber("master"), "client web3 may not subscribe to log mainlog as master"),
            (lambda: log.subscriber(), "client web3 may not read log mainlog without"),
            (lambda: log.add_subscriber("x"), "client web3 may not administer log mainlog"),
            (lambda: log.remove_subscriber("master"), "client web3 may not administer"),
            (lambda: log.set_subscriber("master", "end"), "client web3 may not administer"),
            (lambda: log.clone_subscriber("x", "master"), "client web3 may not administer"),
        ):
            with pytest.raises(NotGranted, match=words):
                refused()
    with east1.open("archive") as log:
        with log.subscriber("master") as subscriber:
            batch = next(iter(subscriber))
            assert isinstance(batch, jlogd.Batch) and list(batch) == [b"one", b"two"]
            batch.checkpoint()
        with pytest.raises(NotGranted, match="client archive may not subscribe to log mainlog as other"):
            log.subscriber("other")
        with pytest.raises(NotGranted, match="client archive may not append to log mainlog"):
            append(log, b"three")
    assert east1.running.records() == [b"one", b"two"]


def test_what_may_not_be_seen_is_not_told_to_exist(east1: Guarded) -> None:
    said = []
    for log in ("secret", "missing"):
        done(jlogctl("create", f"tcp://127.0.0.1:{east1.running.zmq}/secret")) if log == "secret" else None
        with pytest.raises(NotGranted) as raised:
            east1.open("web3", target=f"tcp://127.0.0.1:{east1.port}/{log}")
        said.append(str(raised.value).replace(log, "LOG"))
    assert said[0] == said[1]
    options = ("--key", east1.keys / "web3.key", "--server-key", east1.keys / "east1.pub")
    with pytest.raises(NotGranted):  # the list shows mainlog, whose statistics are not granted
        from jlogd.wire.client import list_remote
        from jlogd.wire.credentials import Keys

        address = f"tcp://127.0.0.1:{east1.port}"
        assert list_remote(address, Keys(east1.keys / "web3.key", east1.pairs["east1"].public)) == ["mainlog"]
        with east1.open("web3") as log:
            log.stat()
    failed(jlogctl("create", f"tcp://127.0.0.1:{east1.port}/new", *options), 3, "web3 may not administer log new")


def test_who_has_no_key_a_wrong_one_or_the_wrong_server_key_is_told_so(east1: Guarded) -> None:
    with pytest.raises(NotAuthenticated, match="wants a key: give --key FILE"):
        jlogd.open(east1.target)
    with pytest.raises(NotAuthenticated, match=r"does not know the key of this client .*stranger\.key.*auth\.client"):
        east1.open("stranger")
    wrong = make_pair().public
    with pytest.raises(NotAuthenticated, match="does not have the key it should have"):
        east1.open("web3", wrong)
    with pytest.raises(NotAuthenticated, match="does not have any of the 2 keys"):
        jlogd.open(east1.target, key=east1.keys / "web3.key", server_key=[wrong, make_pair().public])
    with pytest.raises(NotAuthenticated, match="speaks without keys"):  # surely, or perhaps: the daemon hangs up first
        east1.open("web3", target=f"tcp://127.0.0.1:{east1.running.zmq}/mainlog")
    counted = east1.running.get("/metrics")[1]
    assert re.search(r'wire_turned_away_total\{peer="127.0.0.1",reason="unknown_key"\} [1-9]', counted)
    assert east1.running.records() == []


def test_the_commands_take_keys(east1: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = ("--key", east1.keys / "web3.key", "--server-key", east1.keys / "east1.pub")
    done(jlogctl("append", east1.target, *options, stdin=b"by option\n"))
    failed(jlogctl("append", east1.target, stdin=b"x\n"), 3, "wants a key")
    failed(jlogctl("stat", east1.target, *options), 3, "client web3 may not read log mainlog")
    monkeypatch.setenv("JLOGD_KEY", str(east1.keys / "web3.key"))
    monkeypatch.setenv("JLOGD_SERVER_KEY", east1.pairs["east1"].public)
    done(jlogctl("append", east1.target, stdin=b"by environment\n"))
    assert east1.running.records() == [b"by option", b"by environment"]


def test_sockets_of_this_host_go_without(east1: Guarded) -> None:
    for target in (east1.ipc, east1.running.address):
        with jlogd.open(target) as log:
            append(log, b"local")
    with east1.open("stranger", target=east1.ipc) as log:  # keys are not used there
        append(log, b"local")
    assert east1.running.records() == [b"local"] * 3


def test_the_right_one_of_several_server_keys_is_found_wherever_it_stands(east1: Guarded) -> None:
    right = east1.pairs["east1"].public
    others = [make_pair().public for _ in range(2)]
    for server_keys in ([right, *others], [others[0], right, others[1]], [*others, right]):
        with jlogd.open(east1.target, key=east1.keys / "web3.key", server_key=server_keys) as log:
            append(log, b"in")
    assert east1.running.records() == [b"in"] * 3


# Reload


def test_a_client_that_is_removed_is_out_with_its_next_message(east1: Guarded) -> None:
    with east1.open("web3") as writing, east1.open("archive") as reading:
        append(writing, b"before")
        subscriber = reading.subscriber("master", follow=True)
        assert next(iter(subscriber))
        east1.reload(east1.tables(clients=""))
        with pytest.raises(NotAuthenticated, match="any more"):
            append(writing, b"after")
        with pytest.raises(NotAuthenticated, match="any more"):
            next(iter(subscriber))
        with pytest.raises(NotAuthenticated, match="does not know the key"):
            jlogd.open(east1.target, key=east1.keys / "archive.key", server_key=[east1.pairs["east1"].public] * 2)
        with jlogd.open(east1.ipc) as log:  # the name it held is free
            log.subscriber("master").close()
    assert east1.running.records() == [b"before"]


def test_a_grant_that_is_removed_ends_what_it_allowed(east1: Guarded) -> None:
    with east1.open("web3") as writing, east1.open("archive") as reading:
        append(writing, b"before")
        subscriber = reading.subscriber("master", follow=True)
        assert next(iter(subscriber))
        clients = east1.clients().replace('"main*"', '"other"').replace("mainlog:master", "mainlog:other")
        east1.reload(east1.tables(clients=clients), lines=2)
        with pytest.raises(NotGranted, match="web3 may not append"):
            append(writing, b"after")
        with pytest.raises(NotGranted, match="archive may not subscribe"):
            next(iter(subscriber))
        east1.reload(east1.tables())
        append(writing, b"granted again")
    assert east1.running.records() == [b"before", b"granted again"]


def test_a_client_goes_over_to_another_key(east1: Guarded) -> None:
    successor = make_pair("next")
    write_pair(successor, east1.keys)
    both = east1.clients().replace(
        f'"{east1.pairs["web3"].public}"', f'["{east1.pairs["web3"].public}", "{successor.public}"]'
    )
    with pytest.raises(NotAuthenticated):
        east1.open("next")
    east1.reload(east1.tables(clients=both))
    for name in ("web3", "next"):
        with east1.open(name) as log:
            append(log, name.encode())
    east1.reload(east1.tables(clients=east1.clients().replace(east1.pairs["web3"].public, successor.public)))
    with pytest.raises(NotAuthenticated):
        east1.open("web3")
    with east1.open("next") as log:
        append(log, b"next")
    assert east1.running.records() == [b"web3", b"next", b"next"]


@pytest.mark.parametrize("way", ["another file", "the same file"])
def test_the_daemon_goes_over_to_another_key_under_a_writer(east1: Guarded, way: str) -> None:
    successor = make_pair("next")
    write_pair(successor, east1.keys)
    both = [east1.pairs["east1"].public, successor.public]
    with jlogd.open(east1.target, key=east1.keys / "web3.key", server_key=both) as log, log.writer() as writer:
        writer.append(b"old key")
        writer.flush()
        if way == "the same file":
            os.replace(east1.keys / "next.key", east1.keys / "east1.key")
            east1.reload(east1.tables())
        else:
            east1.reload(east1.tables(key="next"))
        until(lambda: east1.running.said(f"the key of this daemon is {successor.public} now"), "the change")
        writer.append(b"new key")
        writer.flush()
    with pytest.raises(NotAuthenticated, match="does not have the key"):
        east1.open("web3")
    with east1.open("web3", successor.public) as log:
        append(log, b"only the new one")
    assert east1.running.records() == [b"old key", b"new key", b"only the new one"]


def test_a_reload_with_a_key_that_may_not_be_used_changes_nothing(east1: Guarded) -> None:
    (east1.keys / "east1.key").chmod(0o644)
    east1.reload(east1.tables(clients=""))
    assert east1.running.said("mode 0644")
    with east1.open("web3") as log:
        append(log, b"still in")


# Start


def run_config(tmp_path: Path, text: str, command: str = "run") -> subprocess.CompletedProcess[str]:
    config = tmp_path / "jlogd.toml"
    config.write_text(f'[node]\nspool = "{tmp_path}/spool"\n{text}')
    option = ["--config", str(config)] if command == "run" else [str(config)]
    return subprocess.run(
        [sys.executable, "-m", "jlogd.cli.jlogd", command, *option], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["run", "check-config"])
@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0", "tcp://east1:0"])
def test_an_open_address_without_a_key_is_refused_at_the_start(tmp_path: Path, address: str, command: str) -> None:
    ended = run_config(tmp_path, f'[listen]\nzmq = ["{address}"]\nhttp = ""', command)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "needs a key of this daemon" in ended.stderr or "numeric" in ended.stderr, ended.stderr


def test_a_daemon_does_not_start_with_a_key_others_may_read(tmp_path: Path) -> None:
    secret, _ = write_pair(make_pair("east1"), tmp_path)
    secret.chmod(0o640)
    ended = run_config(tmp_path, f'[listen]\nzmq = ["tcp://0.0.0.0:0"]\nhttp = ""\n[auth]\nkey = "{secret}"')
    assert ended.returncode == 2 and "mode 0640" in ended.stderr and "Traceback" not in ended.stderr


def test_insecure_is_what_it_says_and_said_at_every_start(tmp_path: Path) -> None:
    with guarded(tmp_path, '[auth]\ninsecure = true\n[auth.keyless]\nappend = ["*"]') as made:
        assert made.running.said("insecure = true")
        with jlogd.open(made.target) as log:
            append(log, b"anybody")
            with pytest.raises(NotGranted, match="a client without a key may not read"):
                log.stat()
        listed = done(jlogctl("list", made.target.removesuffix("/mainlog")))
        assert listed.lines[1].split() == ["mainlog", *"------"] and listed.err == ""
        assert done(jlogctl("list", made.target.removesuffix("/mainlog"), "--json")).objects == [{"name": "mainlog"}]
        with pytest.raises(UsageError, match="there are no keys"):
            jlogd.open(f"tcp://192.0.2.1:{made.port}/mainlog")
        made.running.end()
        made.running.launch()
        made.running.wait_ready()
        assert made.running.errors.read_text().count("insecure = true") == 2


def test_what_is_open_to_anyone_is_said_at_the_start(tmp_path: Path) -> None:
    extra = '[[source.syslog]]\nlog = "mainlog"\nname = "net"\nlisten = ["udp://0.0.0.0:0"]\nopen = true'
    with daemon(tmp_path, extra) as running:
        until(lambda: running.said("the source net (udp://0.0.0.0:0) is open to whoever reaches it"), "said")


def test_the_loopback_can_demand_a_key_too(tmp_path: Path) -> None:
    made = Guarded(tmp_path)
    with daemon(tmp_path, made.tables().replace("[[auth", 'loopback = "key"\n[[auth', 1)) as running:
        with pytest.raises(NotAuthenticated, match="wants a key"):
            jlogd.open(running.address)
        with made.open("web3", target=running.address) as log:
            append(log, b"keyed")


def test_users_of_a_unix_socket_are_known_by_the_kernel(tmp_path: Path) -> None:
    uid, gid = os.geteuid(), os.getegid()
    keyless = "[auth.keyless]\n"
    write_pair(make_pair("east1"), tmp_path)
    keyless += f'[auth]\nkey = "{tmp_path}/east1.key"\n'
    with guarded(tmp_path, f'[[auth.client]]\nname = "me"\nuid = {uid}\nappend = ["*"]\n{keyless}') as made:
        with jlogd.open(made.ipc) as log:
            append(log, b"mine")
            with pytest.raises(NotGranted, match="client me may not read"):
                log.stat()
            made.reload(f'[[auth.client]]\nname = "us"\ngid = {gid}\nread = ["*"]\n{keyless}', lines=2)
            assert log.stat().next == 2
            made.reload(f'[[auth.client]]\nname = "they"\nuid = {uid + 1}\nread = ["*"]\n{keyless}')
            with pytest.raises(NotGranted, match="a client without a key may not read"):
                log.stat()
        assert made.socket.stat().st_mode & 0o777 == 0o660


def test_nobody_there_is_still_told_apart_from_a_wrong_key(tmp_path: Path) -> None:
    secret, public = write_pair(make_pair("web3"), tmp_path)
    with pytest.raises(RemoteError, match="is jlogd running") as raised:
        jlogd.open(f"tcp://127.0.0.1:{free_ports(1)[0]}/mainlog", key=secret, server_key=public)
    assert not isinstance(raised.value, NotAuthenticated)
