"""Peers that break the protocol on purpose: the daemon goes on, its memory is bounded, nothing of it is in a log.

Memory is the most the daemon ever had (VmHWM), with generous margins; what each peer tries to send is far beyond them.
"""

from __future__ import annotations

import os
import random
import resource
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zstandard
from crc32c import crc32c
from daemon_support import RunningDaemon, daemon, until
from hostile import HELLO, READY, Hostile, frame, greeting, header, peak_bytes
from test_auth import Guarded, guarded
from wire_support import Daemon, Raw, make_log, numbered, records_in

import jlogd
from jlogd.daemon import watch
from jlogd.daemon.server import Server
from jlogd.daemon.tally import OTHERS, PEERS_MAX, Tally
from jlogd.journal.batch import encode
from jlogd.wire import messages as m

MIB = 1 << 20
FLOOD_BYTES = 2048 * MIB
TINY_PARTS = b"\x01\x00" * 32768
BIG_PARTS = frame(bytes(MIB), more=True) * 2


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningDaemon]:
    with daemon(tmp_path) as made:
        yield made


def address_of(running: RunningDaemon) -> str:
    return f"tcp://127.0.0.1:{running.zmq}"


def still_serves(running: RunningDaemon, *before: bytes) -> None:
    """A client gets through, and the log has what it was given and nothing else."""
    with jlogd.open(running.address) as log, log.writer() as writer:
        writer.append(b"still here")
        writer.flush()
    assert running.records() == [*before, b"still here"]
    assert "internal_errors" not in running.get("/metrics")[1]


def turned_away(running: RunningDaemon, reason: str) -> int:
    lines = running.get("/metrics")[1].splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if f'reason="{reason}"' in line and "turned_away" in line)


# A message that does not end


@pytest.mark.slow
@pytest.mark.parametrize(("hello", "most_mib"), [(False, 150), (True, 1100)], ids=["stranger", "client"])
@pytest.mark.parametrize("parts", [TINY_PARTS, BIG_PARTS], ids=["tiny parts", "big parts"])
def test_a_message_without_end_is_cut_off(running: RunningDaemon, parts: bytes, hello: bool, most_mib: int) -> None:
    before = peak_bytes(running.process.pid)
    with Hostile(address_of(running), hello=hello) as peer:
        assert peer.flood(parts, FLOOD_BYTES) < FLOOD_BYTES
    assert peak_bytes(running.process.pid) - before < most_mib * MIB
    assert until(lambda: turned_away(running, "message_without_end" if hello else "no_hello"), "counted") == 1
    still_serves(running)


def test_a_message_of_very_many_parts_is_refused_and_its_sender_cut_off(running: RunningDaemon) -> None:
    with Hostile(address_of(running), hello=True) as peer:
        peer.send(frame(b'{"verb":"append","id":1,"log":"mainlog"}', more=True) + b"\x01\x00" * 5000 + b"\x00\x00")
        peer.wait_hung_up()
    assert turned_away(running, "too_many_parts") == 1
    still_serves(running)


def test_a_unix_socket_is_bounded_by_the_memory_it_takes(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(spool)
    grown = watch._memory_bytes() + 200 * MIB
    monkeypatch.setattr(watch, "MEMORY_BYTES_MAX", grown)
    with Daemon(spool, f"ipc://{tmp_path}/s") as made, Raw(made.address) as raw:
        with Hostile(made.address, hello=True) as peer:
            sent = peer.flood(BIG_PARTS, FLOOD_BYTES)
            assert sent < FLOOD_BYTES
        assert ("message_without_end", f"uid {os.geteuid()}") in made.server.tally.counts()
        raw.append(numbered(0))
        raw.outcomes(1)
        assert len(records_in(spool)) == 1


def test_a_client_that_is_fast_is_not_taken_for_one_that_floods(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks it sends many times what a message may have, in messages that are complete."""
    monkeypatch.setattr(watch, "LOOK_SECONDS", 1.0)
    make_log(spool, durability="os")
    with Daemon(spool) as made, jlogd.open(made.target()) as log, log.writer() as writer:
        looks = made.server._door.watch.looks + 3
        sent = 0
        while made.server._door.watch.looks < looks or sent <= 2 * watch.MESSAGE_BYTES_MAX:
            writer.append(b"x" * MIB)
            sent += MIB
        writer.flush()
        assert made.server.tally.counts() == {} and made.server.stats()["sessions"] == 1


def test_nobody_ends_the_session_of_another_user(spool: Path, tmp_path: Path) -> None:
    """Not even who knows its random name: to be the same client it must have come as the same user."""
    make_log(spool, subscribers=["master"])
    with Daemon(spool) as made:
        server = Server(made.logs, ["tcp://127.0.0.1:0", f"ipc://{tmp_path}/s"])
        server.start()
        over_tcp, over_ipc = server.addresses
        try:
            with Raw(over_tcp, client="same") as first, Raw(over_ipc, client="same") as other:
                first.hold("master")
                assert isinstance(other.ask(m.Subscribe(0, "mainlog", "master", credit=1)), m.Refused)
                assert first.settle() == [] and server.current()["sessions"] == 2
                with Raw(over_tcp, client="same") as again:
                    again.hold("master")
                    assert server.current()["sessions"] == 2
        finally:
            server.close()


# Frames


@pytest.mark.parametrize("size", [m.FRAME_BYTES_MAX + 1, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_frame_that_announces_too_much_is_not_read(running: RunningDaemon, size: int) -> None:
    before = peak_bytes(running.process.pid)
    with Hostile(address_of(running), hello=True) as peer:
        peer.send(header(size) + b"x" * 1000)
        peer.wait_hung_up()
    assert peak_bytes(running.process.pid) - before < 64 * MIB
    still_serves(running)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"<13>syslog\n",
        bytes(100), b"\xff" * 100, greeting(b"PLAIN"), greeting(b"CURVE"), greeting(b"X" * 20),
        greeting() + frame(b"\x05READY" + b"\xff" * 200, command=True), greeting() + frame(b"x"), b"\x01\x00" * 5000,
        greeting() + frame(b"\x05ERROR\x03400", command=True), greeting() + b"\x04\x00",
        greeting() + READY + b"\xf8\x05",
    ],
    ids=range(14),
)  # fmt: skip
def test_nonsense_ends_its_own_connection_at_most(running: RunningDaemon, nonsense: bytes) -> None:
    with Hostile(address_of(running), greet=False) as peer:
        peer.send(nonsense)
        still_serves(running)


def test_random_bytes_after_the_greeting_do_no_harm(running: RunningDaemon, rng: random.Random) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            peer = stack.enter_context(Hostile(address_of(running), hello=rng.random() < 0.5))
            for _ in range(rng.randrange(1, 20)):
                flags = rng.choice([0, 1, 2, 3, 4, 6, rng.randrange(256)])
                size = rng.choice([0, 1, 20, 255])
                if not peer.send(bytes((flags, size)) + rng.randbytes(rng.choice([size, size, max(0, size - 1)]))):
                    break
    still_serves(running)


@pytest.mark.slow
def test_half_a_greeting_is_not_waited_for_for_ever(running: RunningDaemon) -> None:
    """ZeroMQ's own limit, GREETING_MS; here only that it comes, and that others are served meanwhile."""
    with ExitStack() as stack:
        peers = [stack.enter_context(Hostile(address_of(running), greet=False)) for _ in range(50)]
        for at, peer in enumerate(peers):
            peer.send((greeting() + READY)[:at])
        still_serves(running)
        for peer in peers:
            peer.wait_hung_up()


def test_who_greets_and_says_nothing_is_cut_off(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "IDLE_SECONDS", 0.3)
    make_log(spool)
    with Daemon(spool) as made, Raw(made.address) as raw, Hostile(made.address) as silent:
        silent.wait_hung_up()
        assert made.server.tally.counts()["silent", "127.0.0.1"] == 1
        assert raw.settle() == []  # one with a session may be silent for longer


def test_who_sends_nothing_but_faults_is_cut_off(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FAULTS_MAX", 50)
    make_log(spool)
    with Daemon(spool) as made, Raw(made.address) as raw, Hostile(made.address, hello=True) as peer:
        until(lambda: made.server.current()["connections"] == 2, "both are known")
        for _ in range(60):
            peer.send(frame(b'{"verb":"dance"}'))
        peer.wait_hung_up()
        until(lambda: 50 <= made.server.tally.counts()["protocol", "127.0.0.1"] <= 60, "counted")
        assert made.server.tally.counts()["too_many_faults", "127.0.0.1"] == 1
        assert raw.settle() == []


def test_who_is_known_after_its_first_faults_is_cut_off_for_later_ones(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages and connections are told by different threads of ZeroMQ, and so in any order."""
    monkeypatch.setattr(watch, "FAULTS_MAX", 50)
    told, came = threading.Event(), watch.Watch._came

    def late(self: watch.Watch, descriptor: int) -> None:
        assert told.wait(30)
        came(self, descriptor)

    monkeypatch.setattr(watch.Watch, "_came", late)
    make_log(spool)
    with Daemon(spool) as made, Hostile(made.address, hello=True) as peer:
        for _ in range(60):
            peer.send(frame(b'{"verb":"dance"}'))
        until(lambda: made.server.tally.counts().get(("protocol", "127.0.0.1")) == 60, "counted")
        told.set()
        until(lambda: made.server.current()["connections"] == 1, "it is known")
        for _ in range(120):  # some of which are counted with those before
            peer.send(frame(b'{"verb":"dance"}'))
        peer.wait_hung_up()
        assert made.server.tally.counts()["too_many_faults", "127.0.0.1"] == 1


@pytest.mark.slow
def test_who_reads_no_answers_costs_no_more_than_a_bound(running: RunningDaemon) -> None:
    """Each request is refused, in more words than it has."""
    before = peak_bytes(running.process.pid)
    with Hostile(address_of(running), hello=True) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = frame(b'{"verb":"checkpoint","id":5,"sub":7,"next":1}')
        assert peer.flood(ask * 50, FLOOD_BYTES // 8) < FLOOD_BYTES // 8
    assert peak_bytes(running.process.pid) - before < 300 * MIB
    still_serves(running)


# Connections


@pytest.mark.slow
def test_very_many_connections_leave_room_for_clients_and_for_the_log(tmp_path: Path) -> None:
    with daemon(tmp_path, log='segment_size = "64KiB"') as running:
        running.end()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        try:
            running.launch()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        running.wait_ready()
        with jlogd.open(running.address) as log, log.writer() as writer, ExitStack() as stack:
            writer.append(b"before")
            writer.flush()
            for _ in range(900):
                with suppress(ConnectionError):  # cut off before it is connected
                    stack.enter_context(Hostile(address_of(running), greet=False)).send(greeting())
            for _ in range(40):  # segments are rolled meanwhile, each a file to open
                writer.append(b"x" * 8000)
                writer.flush()
            assert until(lambda: turned_away(running, "too_many_connections"), "counted") > 100
        until(lambda: _connections(running) < 100, "the flood is over")
        still_serves(running, b"before", *[b"x" * 8000] * 40)


def _connections(running: RunningDaemon) -> float:
    lines = running.get("/metrics")[1].splitlines()
    return float(next(line for line in lines if 'what="connections"' in line).split()[-1])


def test_one_peer_beyond_this_host_cannot_take_all_the_places(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "CONNECTIONS_PER_PEER_MAX", 5)
    monkeypatch.setattr(watch, "_is_local", lambda host: False)
    make_log(spool)
    with Daemon(spool) as made, ExitStack() as stack:
        peers = [stack.enter_context(Hostile(made.address, greet=False)) for _ in range(8)]
        reason = ("too_many_connections_of_one_peer", "127.0.0.1")
        until(lambda: made.server.tally.counts().get(reason) == 3, "three were cut off")
        for peer in peers[5:]:
            peer.wait_hung_up()


# Batches


def sent(running: RunningDaemon, batch: bytes) -> m.FromDaemon:
    with Raw(address_of(running)) as raw:
        raw.send(m.Append(0, "mainlog"), batch)
        return raw.receive()


@pytest.mark.slow
def test_a_bomb_is_refused_by_what_it_declares(running: RunningDaemon) -> None:
    """A body of 16 KiB that becomes 500 MiB, under headers that admit it or lie about it."""
    before = peak_bytes(running.process.pid)
    body = zstandard.ZstdCompressor(level=19).compress(bytes(500 * MIB))
    honest = encode([b"x" * 1000]).numbered(7, 0, 1)
    for raw_bytes in (1000, len(body), 16 * MIB, 500 * MIB, (1 << 32) - 1):
        answer = sent(running, forged(honest.to_wire(), body, raw_bytes))
        assert isinstance(answer, m.Refused) and answer.code in ("format", "too-large"), answer
    assert peak_bytes(running.process.pid) - before < 100 * MIB
    assert turned_away(running, "format") + turned_away(running, "too_large") == 5
    still_serves(running)


def forged(wire: bytes, body: bytes, raw_bytes: int) -> bytes:
    """A batch with another body, its header made to fit."""
    made = bytearray(wire[:96])
    made[5] = 1
    struct.pack_into("<III", made, 12, len(body), raw_bytes, crc32c(body))
    struct.pack_into("<I", made, 92, crc32c(bytes(made[:92])))
    return bytes(made) + body


@pytest.mark.parametrize(
    "name", ["../mainlog", "..", ".", "/etc/passwd", "a/b", "mainlog/../x", ".lock", "x\0y", "", " "]
)
def test_names_cannot_leave_the_spool(running: RunningDaemon, name: str) -> None:
    before = sorted(path for path in running.directory.rglob("*") if "subscribers" not in str(path))
    with Raw(address_of(running)) as raw:
        for message in (
            m.CreateLog(0, name), m.OpenLog(0, name), m.Stat(0, name), m.Subscribe(0, name), m.Append(0, name),
            m.CreateLog(0, "fine", [name]), m.SubscriberAdd(0, "mainlog", name), m.SubscriberRemove(0, "mainlog", name),
            m.SubscriberClone(0, "mainlog", name, "master"), m.SubscriberClone(0, "mainlog", "copy", name),
            m.Subscribe(0, "mainlog", name, credit=1000) if name else m.OpenLog(0, name),
        ):  # fmt: skip
            frames = [numbered(0).to_wire()] if isinstance(message, m.Append) else []
            assert isinstance(raw.ask(message, *frames), m.Refused), message
    assert sorted(path for path in running.directory.rglob("*") if "subscribers" not in str(path)) == before


# Replay


class Recorder:
    """A relay that keeps what a client sent."""

    def __init__(self, port: int) -> None:
        self.sent = b""
        self._upstream = socket.create_connection(("127.0.0.1", port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        """Relay one connection until the client leaves."""
        client, _ = self._listener.accept()
        ends = {client: self._upstream, self._upstream: client}
        while True:
            for ready in select.select(list(ends), [], [], 60)[0]:
                data = ready.recv(65536)
                if not data:
                    client.close()
                    self._upstream.close()
                    return
                if ready is client:
                    self.sent += data
                ends[ready].sendall(data)


@pytest.mark.slow
def test_what_was_recorded_on_the_wire_cannot_be_sent_again(tmp_path: Path) -> None:
    """A whole connection, byte by byte; it gets no further than the handshake, and nothing of it can be read."""
    with guarded(tmp_path) as made:
        recorder = Recorder(made.port)
        relaying = threading.Thread(target=recorder.run, daemon=True)
        relaying.start()
        with made.open("web3", target=f"tcp://127.0.0.1:{recorder.port}/mainlog") as log, log.writer() as writer:
            writer.append(b"a secret and only record")
            writer.flush()
        relaying.join(60)
        assert len(recorder.sent) > 500
        assert b"secret" not in recorder.sent and b"mainlog" not in recorder.sent and b"verb" not in recorder.sent
        for _ in range(3):
            with Hostile(f"tcp://127.0.0.1:{made.port}", greet=False) as peer:
                peer.send(recorder.sent)
                peer.wait_hung_up()
        assert until(lambda: turned_away(made.running, "handshake"), "counted") >= 1
        still_in(made)
        assert made.running.records() == [b"a secret and only record", b"in"]


def still_in(made: Guarded) -> None:
    with made.open("web3") as log, log.writer() as writer:
        writer.append(b"in")
        writer.flush()


@pytest.mark.slow
def test_a_stranger_at_a_door_with_keys_costs_nothing(tmp_path: Path) -> None:
    with guarded(tmp_path) as made:
        before = peak_bytes(made.running.process.pid)
        with ExitStack() as stack:
            for _ in range(20):
                peer = stack.enter_context(Hostile(f"tcp://127.0.0.1:{made.port}", greet=False))
                peer.send(greeting(b"CURVE"))
                peer.flood(frame(bytes(15 * MIB), command=True), 64 * MIB)
            peer = stack.enter_context(Hostile(f"tcp://127.0.0.1:{made.port}", greet=False))
            peer.send(greeting() + READY + frame(HELLO % 5))  # without keys, as on the loopback
            peer.wait_hung_up()
        assert peak_bytes(made.running.process.pid) - before < 400 * MIB
        still_in(made)
        assert made.running.records() == [b"in"]


def test_a_client_with_a_key_gets_no_further_than_its_grants(tmp_path: Path) -> None:
    """It may append to one log: everything else it can say is refused, and counted under its name."""
    with guarded(tmp_path) as made:
        with made.open("web3") as log:
            connection = log._connection  # type: ignore[attr-defined]
            for message in (
                m.Stat(1, "mainlog"), m.CreateLog(1, "new"), m.SubscriberAdd(1, "mainlog", "x"),
                m.SubscriberRemove(1, "mainlog", "master"), m.OpenLog(1, "audit"), m.Position(1, "audit", 5),
            ):  # fmt: skip
                with pytest.raises(jlogd.NotGranted, match="client web3 may not"):
                    connection.request(message)
        assert turned_away(made.running, "not_granted") == 6
        assert 'peer="web3"' in made.running.get("/metrics")[1]


def test_the_peers_that_are_counted_are_bounded() -> None:
    tally = Tally()
    for number in range(1000):
        tally.count("reason", f"10.0.{number // 256}.{number % 256}" + "x" * 200)
    counts = tally.counts()
    assert len(counts) == PEERS_MAX + 1 and counts["reason", OTHERS] == 1000 - PEERS_MAX
    assert max(len(peer) for _, peer in counts) <= 64
