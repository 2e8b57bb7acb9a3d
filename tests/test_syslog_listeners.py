"""Syslog listeners: framing, limits, back pressure, and ends of all kinds.

How this could fail: a message cut or joined where the network cut the stream; memory that grows with a message that
never ends; an empty or odd frame that ends the source; a sender that is read while the log takes nothing; a slow
sender that holds a place for ever; a stale socket file that prevents the start; a listener other machines can reach;
a descriptor that leaks.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_support import ListSink, LogUnderTest, eventually

from jlogd.errors import ConfigError, JlogError, UsageError
from jlogd.journal.batch import Batch
from jlogd.sources.config import SyslogSource
from jlogd.sources.framing import LengthTable, LineFramer, StreamFramer, cut
from jlogd.sources.syslog import SyslogReceiver

LIMIT = 20


# Framing


class Stream:
    """A connection's bytes, cut at will and framed."""

    def __init__(self, limit: int = LIMIT, table: LengthTable | None = None) -> None:
        self.counters = {"malformed": 0, "oversized": 0, "incomplete": 0}
        self.sink = ListSink()
        self.framer = StreamFramer(self.sink, self.counters, limit, {} if table is None else table)

    def take(self, *chunks: bytes) -> list[bytes]:
        for chunk in chunks:
            self.framer.feed(chunk)
        self.framer.finish()
        return self.sink.kept


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


MESSAGE = st.one_of(
    st.binary(max_size=12),
    st.integers(0, 65).map(lambda size: b"x" * size),
    st.sampled_from([b"<13>a", b"3 <1", b"12", b"\0", b"a\r", b"<13>\0b", b"0", b"9 <999999999 ", b"99999 <"]),
)
CUTS = st.lists(st.integers(0, 500), max_size=12)
TABLE: LengthTable = {}  # shared over examples, as it is over connections


@given(
    st.lists(MESSAGE.map(lambda m: m.replace(b"\n", b"").replace(b"\0", b"")), max_size=12),
    CUTS,
    st.sampled_from([b"\n", b"\0"]),
)
def test_terminated_messages_however_the_stream_is_cut(messages: list[bytes], cuts: list[int], end: bytes) -> None:
    messages = [b"<13>first", *messages]
    stream = Stream()
    kept = stream.take(*chunks_of(b"".join(message + end for message in messages), cuts))
    assert kept == [piece for message in messages for piece in cut(message, LIMIT)]
    assert stream.counters == {"malformed": 0, "oversized": sum(len(m) > LIMIT for m in messages), "incomplete": 0}


@given(st.lists(MESSAGE, max_size=12), CUTS, st.sampled_from([b"", b"\n", b"\0"]))
def test_counted_messages_however_the_stream_is_cut(messages: list[bytes], cuts: list[int], between: bytes) -> None:
    messages = [b"<13>first", *(message for message in messages if message)]
    stream = Stream(table=TABLE)
    data = b"".join(b"%d %s%s" % (len(message), message, between) for message in messages)
    assert stream.take(*chunks_of(data, cuts)) == [piece for message in messages for piece in cut(message, LIMIT)]
    assert stream.counters == {"malformed": 0, "oversized": sum(len(m) > LIMIT for m in messages), "incomplete": 0}


@given(
    st.lists(MESSAGE, max_size=8).map(b"\n".join) | st.binary(max_size=200),
    CUTS,
    st.sampled_from([b"", b"8 <13>ab\n", b"5 <13>a"]),
)
def test_any_bytes_give_the_same_records_however_they_are_cut(data: bytes, cuts: list[int], start: bytes) -> None:
    whole, pieces = Stream(), Stream(table=TABLE)
    assert pieces.take(*chunks_of(start + data, cuts)) == whole.take(start + data)
    assert pieces.counters == whole.counters
    assert all(0 < len(record) <= LIMIT for record in whole.sink.kept)


@given(st.binary(max_size=300), CUTS)
def test_lines_with_empty_ones_kept(data: bytes, cuts: list[int]) -> None:
    sink = ListSink()
    framer = LineFramer(sink, {"oversized": 0}, LIMIT)
    for chunk in chunks_of(data, cuts):
        framer.feed(chunk)
    framer.finish()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    assert sink.kept == [piece for line in lines for piece in cut(line, LIMIT) or [b""]]


@pytest.mark.parametrize(
    ("data", "kept", "counters"),
    [
        (b"<1>a\n\n\n<1>b\n", [b"<1>a", b"<1>b"], {}),
        (b"<1>a\r\n<1>b", [b"<1>a\r", b"<1>b"], {}),
        (b"<1>a\0<1>b\nc\0", [b"<1>a", b"<1>b\nc"], {}),
        (b"2026 is a year\n17 <x\n", [b"2026 is a year", b"17 <x"], {}),
        (b"12", [b"12"], {}),
        (b"5 <1>ab5 <1", [b"<1>ab", b"<1"], {"incomplete": 1}),
        (b"5 <1>ab12", [b"<1>ab", b"12"], {"incomplete": 1}),
        (b"5 <1>ab99 <1>", [b"<1>ab", b"<1>"], {"oversized": 1, "incomplete": 1}),
        (b"5 <1>ab<1>plain\n<1>more\n", [b"<1>ab", b"<1>plain", b"<1>more"], {"malformed": 1}),
        (b"5 <1>ab05 <1>x\n", [b"<1>ab", b"05 <1>x"], {"malformed": 1}),
        (b"5 <1>ab1234567890 <1>x\n", [b"<1>ab", b"1234567890 <1>x"], {"malformed": 1}),
        (b"1 <2 <1", [b"<", b"<1"], {}),
    ],
)
def test_streams_one_meets(data: bytes, kept: list[bytes], counters: dict[str, int]) -> None:
    for size in range(1, len(data) + 1):
        stream = Stream()
        assert stream.take(*cut(data, size)) == kept
        assert {key: value for key, value in stream.counters.items() if value} == counters


def test_a_message_without_end_takes_no_memory() -> None:
    for start in (b"<13>", b"999999999 <13>"):
        stream = Stream(limit=1000)
        stream.framer.feed(start)
        for _ in range(2000):
            stream.framer.feed(b"x" * 700)
            pending = len(stream.framer._counted._pending) + len(stream.framer._terminated._pending)
            assert pending <= 1000
        assert len(b"".join(stream.sink.kept)) >= 2000 * 700 - 1000
        assert stream.counters["oversized"] == 1


def test_the_table_of_lengths_is_bounded() -> None:
    table: LengthTable = {}
    stream = Stream(limit=10000, table=table)
    for at in range(40000):
        message = b"<" * (at % 900 + 100) if at % 2 else b"<%05d" % at
        stream.framer.feed(b"%d %s" % (len(message), message))
        assert len(table) <= 16384
    assert table and len(stream.sink.kept) == 40000


def test_lengths_that_begin_alike_are_told_apart() -> None:
    messages = [b"<" * size for size in (1, 10, 100, 1000, 10000, 100000, 1000, 10000, 100000, 12345, 123456, 1234)]
    stream = Stream(limit=200000)
    assert stream.take(b"".join(b"%d %s" % (len(message), message) for message in messages)) == messages


# Listeners


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LogUnderTest]:
    under_test = LogUnderTest(tmp_path / "log")
    yield under_test
    under_test.close()


Starter = Callable[..., SyslogReceiver]


@pytest.fixture
def start(target: LogUnderTest) -> Iterator[Starter]:
    started: list[SyslogReceiver] = []

    def start(*listen: str, **options: Any) -> SyslogReceiver:
        source = SyslogReceiver(SyslogSource(log="main", listen=listen, **options))
        started.append(source)
        source.start(target.writer)
        return source

    yield start
    for source in started:
        assert source.stop(10)
        assert source.failed is None


def connect(source: SyslogReceiver, at: int = 0) -> socket.socket:
    address = source.addresses[at]
    if address.kind.startswith("unix"):
        kind = socket.SOCK_STREAM if address.kind == "unix" else socket.SOCK_DGRAM
        made = socket.socket(socket.AF_UNIX, kind)
        made.connect(address.host)
        return made
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if address.kind == "tcp" else socket.SOCK_DGRAM)
    made.connect((address.host, address.port))
    return made


def test_every_kind_of_listener_keeps_the_bytes(target: LogUnderTest, start: Starter, tmp_path: Path) -> None:
    listen = ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", f"unix://{tmp_path}/s", f"unixgram://{tmp_path}/d"]
    source = start(*listen, *(["tcp://[::1]:0"] if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else []))
    expected = []
    for at in range(len(source.addresses)):
        message = b"<13>1 - h a - - - caf\xe9 %d" % at
        expected.append(message)
        with connect(source, at) as client:
            client.sendall(message if source.addresses[at].kind in ("udp", "unixgram") else message + b"\n")
    eventually(lambda: source.stats()["messages"] == len(expected))
    assert sorted(target.records()) == sorted(expected)
    assert source.stats()["bytes"] == sum(map(len, expected))


def test_datagrams_keep_newlines_and_odd_bytes(target: LogUnderTest, start: Starter) -> None:
    source = start("udp://127.0.0.1:0", message_bytes_max=1000)
    sent = [b"<13>two\nlines", b"", b"<13>end\n", b"\0", b"x" * 2500]
    with connect(source) as client:
        for message in sent:
            client.send(message)
    eventually(lambda: source.stats()["messages"] == 6)
    assert target.records() == [b"<13>two\nlines", b"<13>end\n", b"\0", b"x" * 1000, b"x" * 1000, b"x" * 500]
    assert source.stats()["oversized"] == 1


def test_both_framings_at_once_and_an_unfinished_end(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0")
    with connect(source) as lines, connect(source) as counted:
        lines.sendall(b"<13>a\n<13>b\n<13>unfinished")
        counted.sendall(b"9 <13>c\nd\n\n7 <13>e\0f10 <13>unf")
    eventually(lambda: source.stats()["messages"] == 6)
    records = target.records()
    assert sorted(records) == sorted(
        [b"<13>a", b"<13>b", b"<13>unfinished", b"<13>c\nd\n\n"[:9], b"<13>e\0f", b"<13>unf"]
    )
    assert source.stats()["incomplete"] == 1


def test_much_over_many_connections_arrives_in_order(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0")

    def send(who: int) -> None:
        with connect(source) as client:
            for start_at in range(0, 5000, 500):
                texts = [b"<13>%d %05d" % (who, at) for at in range(start_at, start_at + 500)]
                if who % 2:
                    client.sendall(b"".join(b"%d %s" % (len(text), text) for text in texts))
                else:
                    client.sendall(b"\n".join(texts) + b"\n")

    threads = [threading.Thread(target=send, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: source.stats()["messages"] == 30000)
    records = target.records()
    for who in range(6):
        mine = [record for record in records if record.startswith(b"<13>%d " % who)]
        assert mine == [b"<13>%d %05d" % (who, at) for at in range(5000)]


def test_json_has_the_header_and_the_peer(target: LogUnderTest, start: Starter, tmp_path: Path) -> None:
    source = start("udp://127.0.0.1:0", "tcp://127.0.0.1:0", f"unix://{tmp_path}/s", format="json")
    peers = []
    for at in range(3):
        with connect(source, at) as client:
            name = client.getsockname()
            peers.append(f"{name[0]}:{name[1]}" if at < 2 else f"pid={os.getpid()} uid={os.getuid()}")
            client.sendall(
                b"<34>1 - east1 su - - - caf\xe9\x00!" if at == 0 else b"<34>1 - east1 su - - - hello\nno header\n"
            )
    eventually(lambda: source.stats()["messages"] == 5)
    records = [json.loads(record) for record in target.records()]
    assert sorted({record["peer"] for record in records}) == sorted(peers)
    assert [record["app_name"] for record in records if "unparsed" not in record] == ["su"] * 3
    assert [record["message"] for record in records if "unparsed" in record] == ["no header"] * 2
    assert source.stats()["malformed"] == 2


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "unix://{}/s"])
def test_one_peer_does_not_take_all_the_connections(
    target: LogUnderTest, start: Starter, tmp_path: Path, listen: str
) -> None:
    """One peer is an address, or a user; each of its connections may be silent in the middle of a message for ever."""
    source = start(listen.format(tmp_path), connections_max=10, connections_per_peer_max=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(source)).sendall(b"<13>unfinished")
        eventually(lambda: source.stats()["connections_open"] == 3)
        for _ in range(4):
            with connect(source) as other:
                assert other.recv(1) == b""
        assert source.stats()["refused"] == 4
    eventually(lambda: source.stats()["connections_open"] == 0)
    with connect(source) as again:  # what has ended counts no more
        again.sendall(b"<13>in\n")
        eventually(lambda: source.stats()["messages"] == 4)


def test_one_connection_too_many_is_closed_at_once(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0", connections_max=2)
    with connect(source) as first, connect(source):
        eventually(lambda: source.stats()["connections_open"] == 2)
        with connect(source) as third:
            assert third.recv(1) == b""
        assert source.stats()["refused"] == 1
        first.close()
        eventually(lambda: source.stats()["connections_open"] == 1)
        with connect(source) as fourth:
            fourth.sendall(b"<13>in\n")
            eventually(lambda: source.stats()["messages"] == 1)
    assert target.records() == [b"<13>in"]


def test_silent_connections_are_closed_when_asked_for(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0", idle_timeout=0.01)
    with connect(source) as client:
        client.sendall(b"<13>half")
        assert client.recv(1) == b""
    eventually(lambda: source.stats()["messages"] == 1)
    assert source.stats()["idle_closed"] == 1
    assert target.records() == [b"<13>half"]


def test_a_reset_connection_keeps_what_came_before(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0")
    client = connect(source)
    client.sendall(b"<13>whole\n<13>part")
    eventually(lambda: source.stats()["messages"] == 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    eventually(lambda: source.stats()["messages"] == 2)
    assert target.records() == [b"<13>whole", b"<13>part"]


def test_a_stop_takes_in_what_has_arrived(target: LogUnderTest) -> None:
    source = SyslogReceiver(SyslogSource(log="main", listen=("tcp://127.0.0.1:0", "udp://127.0.0.1:0")))
    source.start(target.writer)
    with connect(source) as lines, connect(source) as counted, connect(source, 1) as datagrams:
        lines.sendall(b"<13>a\n" * 20000 + b"<13>rest")
        counted.sendall(b"5 <13>b" * 20000)
        datagrams.send(b"<13>c")
        assert source.stop(10)
    assert source.failed is None and not source.running
    records = target.records()
    assert [records.count(b"<13>" + what) for what in (b"a", b"rest", b"b", b"c")] == [20000, 1, 20000, 1]
    assert source.stats()["connections_open"] == 0


class BlockedWriter:
    """A writer that takes nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.blocked = threading.Event()
        self.got = 0

    def send(self, batch: Batch) -> None:
        self.blocked.set()
        self.let.wait()
        self.got += batch.count

    def extend(self, records: list[bytes]) -> None:
        self.blocked.set()
        self.let.wait()
        self.got += len(records)

    def flush(self, timeout: float | None = None) -> None:
        pass


def test_while_the_log_takes_nothing_nothing_is_read() -> None:
    source = SyslogReceiver(
        SyslogSource(log="main", listen=("tcp://127.0.0.1:0", "udp://127.0.0.1:0"), receive_buffer=4096)
    )
    writer = BlockedWriter()
    source.start(writer)
    line = b"<13>" + b"x" * 995 + b"\n"
    with connect(source) as client, connect(source, 1) as datagrams:
        client.sendall(line)
        assert writer.blocked.wait(20)
        client.setblocking(False)
        sent = len(line)
        while True:
            try:
                sent += client.send(line[sent % len(line) :])
            except BlockingIOError:
                break
        for _ in range(100):
            datagrams.send(line)
        assert sent < 64 << 20 and source.stats()["messages"] == 0
        writer.let.set()
        whole, part = divmod(sent, len(line))
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: source.stats()["connections_open"] == 0 and source.stats()["connections"] == 1)
        eventually(lambda: source.stats()["dropped"] > 0)
    assert source.stop(10)
    stats = source.stats()
    assert stats["dropped"] + stats["messages"] == 100 + whole + bool(part)
    assert writer.got == stats["messages"]


def test_an_error_of_the_writer_ends_the_source_and_is_kept() -> None:
    class Broken(BlockedWriter):
        def extend(self, records: list[bytes]) -> None:
            raise JlogError("the disk is gone")

    source = SyslogReceiver(SyslogSource(log="main", listen=("udp://127.0.0.1:0",)))
    source.start(Broken())
    with connect(source) as client:
        client.send(b"x")
        assert source.join(20)
    assert str(source.failed) == "the disk is gone"
    with pytest.raises(UsageError, match="make a new one"):
        source.start(Broken())


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(
    target: LogUnderTest, start: Starter, tmp_path: Path
) -> None:
    path = tmp_path / "dev-log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(path))
    source = start(f"unixgram://{path}", socket_mode=0o622)
    assert stat.S_IMODE(path.stat().st_mode) == 0o622
    for kind in ("unixgram", "unix"):
        other = SyslogReceiver(SyslogSource(log="main", listen=(f"{kind}://{path}",)))
        with pytest.raises(JlogError, match="another program listens there"):
            other.start(target.writer)
    assert source.stop(10)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(JlogError, match="no socket"):
        start(f"unix://{path}")
    assert path.read_text() == "precious"


def test_what_cannot_be_listened_on_is_said_and_nothing_stays_open(target: LogUnderTest, start: Starter) -> None:
    source = start("tcp://127.0.0.1:0")
    before = len(os.listdir("/proc/self/fd"))
    address = str(source.addresses[0])
    other = SyslogReceiver(SyslogSource(log="main", listen=("udp://127.0.0.1:0", address)))
    with pytest.raises(JlogError, match=f"cannot listen on {address}.*in use"):
        other.start(target.writer)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:514", "udp://[::]:514", "tcp://10.0.0.1:514", "udp://192.168.1.1:514", "tcp://example.com:514",
        "tcp://[::ffff:10.0.0.1]:514", "tcp://127.0.0.1", "tcp://:514", "127.0.0.1:514", "tls://127.0.0.1:514",
        "tcp://127.0.0.1:99999", "tcp://127.0.0.1:x", "tcp://127.0.0.1:514/x", "unix://relative", "unix://host/path",
        "unix:///" + "x" * 200, "unix:///dir/", "", "tcp://a@127.0.0.1:1", "unix://", "tcp://[::1:514",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^listen: found .*; accepted: "):
        SyslogSource(log="main", listen=(address,))


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:514", "udp://[::]:514", "udp://192.168.1.1:514"])
def test_addresses_beyond_this_host_must_be_asked_for(address: str) -> None:
    assert [str(found) for found in SyslogSource(log="main", listen=(address,), open=True).addresses()] == [address]
    with pytest.raises(ConfigError, match="open = true"):
        SyslogSource(log="main", listen=(address,))


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:5514", "udp://[::1]:0", "tcp://localhost:1", "udp://127.9.9.9:65535", "unix:///dev/log"],
)
def test_addresses_that_are_accepted(address: str) -> None:
    assert str(SyslogSource(log="main", listen=(address,)).addresses()[0]) == address.replace("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"log": ""}, "log"), ({"log": "a/b"}, "log"), ({"name": "../x"}, "name"), ({"listen": ()}, "listen"),
        ({"listen": ("tcp://127.0.0.1:1",) * 2}, "listen"),
        ({"format": "xml"}, "format"), ({"message_bytes_max": 1}, "message_bytes_max"),
        ({"connections_max": 0}, "connections_max"),
        ({"idle_timeout": -1}, "idle_timeout"), ({"socket_mode": 0}, "socket_mode"),
        ({"receive_buffer": 0}, "receive_buffer"),
    ],
)  # fmt: skip
def test_wrong_settings_name_the_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: found .*; accepted: "):
        SyslogSource(**{"log": "main", "listen": ("udp://127.0.0.1:1",), **options})


def test_settings_from_a_table() -> None:
    source = msgspec.convert({"log": "main", "listen": ["udp://127.0.0.1:1"]}, SyslogSource)
    assert source.format == "raw"
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"log": "main", "listen": [], "port": 1}, SyslogSource)
