"""The control messages, the addresses, and the mailbox: what needs no socket."""

from __future__ import annotations

import json
import select
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd import errors
from jlogd.errors import JlogError, LogFull, ProtocolError, RemoteError, UsageError
from jlogd.journal.types import Caps, LogStat, Settings, SubscriberStat
from jlogd.wire import messages as m
from jlogd.wire.address import check_address, check_socket_free, is_target, parse_target
from jlogd.wire.credentials import Keys
from jlogd.wire.mailbox import Mailbox

REQUESTS: list[m.FromClient] = [
    m.Hello(1, 1, "c0ffee", "a test"),
    m.Ping(2),
    m.ListLogs(3),
    m.OpenLog(4, "mainlog"),
    m.CreateLog(5, "mainlog", ["master"], Settings(durability="os")),
    m.CreateLog(5, "mainlog"),
    m.Stat(6, "mainlog"),
    m.Append(7, "mainlog"),
    m.Position(8, "mainlog", (1 << 64) - 1),
    m.Subscribe(9, "mainlog", "master", 12, True, 1 << 20),
    m.Subscribe(9, "mainlog", "", "begin"),
    m.More(10, 9, True),
    m.Unsubscribe(11, 9),
    m.Checkpoint(12, 9, 1 << 62),
    m.SubscriberAdd(13, "mainlog", "x", "end", Caps(max_bytes=5, on_full="drop-oldest")),
    m.SubscriberRemove(14, "mainlog", "x"),
    m.SubscriberSet(15, "mainlog", "x", "2026-01-31T12:00:00Z"),
    m.SubscriberCaps(17, "mainlog", "x", Caps(max_bytes=1)),
    m.SubscriberClone(16, "mainlog", "y", "x"),
    m.Credit(9, 4096),
    m.Bye(),
]
_SUBSCRIBER = SubscriberStat(name="x", next=1, lag_records=0, lag_bytes=0, lag_seconds=0.0)
_STAT = LogStat(
    name="l", target="t", uuid="u", bytes=1, segments=1, first=1, next=2, epoch=1, durability="commit",
    compression="none", segment_bytes=4096, created=1.5, oldest_time=1.0, newest_time=2.0, subscribers=[_SUBSCRIBER],
    counters={"batches": 1},
)  # fmt: skip
ANSWERS: list[m.FromDaemon] = [
    m.Welcome(1, 1, "0.1", m.Limits(), "east1"),
    m.Pong(2),
    m.Pong(),
    m.Done(3),
    m.Refused(4, "log-full", "it is full", 3),
    m.Logs(5, ["a", "b"]),
    m.Opened(6, "a", "uuid", "zstd", "commit"),
    m.StatIs(7, _STAT),
    m.PositionIs(8, None),
    m.PositionIs(8, 77),
    m.Acks([m.Ack(1, 100, 10), m.Ack(2, 110, 5, True)]),
    m.Subscribed(9, 1, 4096),
    m.Delivery(9, 120, 2048, [m.GapIs(100, 109, "dropped", "too old")]),
    m.End(9, 10, 120),
    m.Ended(9, "format", "broken"),
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_a_request_survives_the_way(message: m.FromClient) -> None:
    assert m.decode_request(m.encode(message)) == message


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: type(message).__name__)
def test_an_answer_survives_the_way(message: m.FromDaemon) -> None:
    assert m.decode_answer(m.encode(message)) == message


def test_every_message_is_tried_here() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(m.FromClient))
    assert {type(message) for message in ANSWERS} == set(get_args(m.FromDaemon))


def test_verbs_are_the_class_names_in_lower_case() -> None:
    assert json.loads(m.encode(m.SubscriberAdd(1, "l", "n")))["verb"] == "subscriber-add"
    assert json.loads(m.encode(m.ListLogs(1)))["verb"] == "list-logs"


def test_what_a_newer_peer_adds_is_ignored() -> None:
    assert m.decode_request(b'{"verb":"ping","id":4,"mood":"good"}') == m.Ping(4)
    assert m.decode_answer(b'{"verb":"pong","id":4,"mood":"good"}') == m.Pong(4)


@pytest.mark.parametrize(
    "control",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"verb":"dance","id":1}',
        b'{"verb":"ping"}',
        b'{"verb":"ping","id":0}',
        b'{"verb":"ping","id":-1}',
        b'{"verb":"ping","id":"1"}',
        b'{"verb":"ping","id":1.5}',
        b'{"verb":"ping","id":9223372036854775808}',
        b'{"verb":"stat","id":1,"log":"' + b"x" * 65 + b'"}',
        b'{"verb":"credit","sub":1,"bytes":-5}',
        b'{"verb":"create-log","id":1,"log":"l","settings":{"segment_bytes":1}}',
        b'{"verb":"create-log","id":1,"log":"l","settings":{"durability":"never"}}',
        b'{"verb":"subscriber-add","id":1,"log":"l","name":"n","caps":{"max_age":5}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"verb":"ping","id":' * 10_000,
    ],
)
def test_what_is_not_a_request_is_a_protocol_error(control: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_request(control)


@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.integers()).map(lambda it: json.dumps(it).encode()))
def test_no_bytes_raise_anything_else(control: bytes) -> None:
    for decode in (m.decode_request, m.decode_answer):
        with suppress(ProtocolError):
            decode(control)
    assert isinstance(m.request_id(control), int)


def test_the_id_of_a_request_that_is_not_understood() -> None:
    assert m.request_id(b'{"verb":"dance","id":12}') == 12
    assert m.request_id(b'{"id":"x"}') == 0
    assert m.request_id(b"nonsense") == 0


@pytest.mark.parametrize("start", ["begin", "end", 0, 17, (1 << 63) - 1])
def test_starts_survive_the_way(start: str | int) -> None:
    assert m.start_from_wire(m.start_to_wire(start)) == start  # type: ignore[arg-type]


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)), st.integers(-720, 720))
def test_times_keep_their_moment(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert m.start_from_wire(m.start_to_wire(aware)) == aware


def test_a_time_without_a_zone_means_the_local_one() -> None:
    moment = datetime(2026, 1, 31, 12)
    assert m.start_from_wire(m.start_to_wire(moment)) == moment.astimezone(UTC)


@pytest.mark.parametrize("start", ["now", "", "2026-01-31", "2026-01-31T12:00:00", "12:00"])
def test_other_starts_are_refused_with_what_is_accepted(start: str) -> None:
    with pytest.raises(UsageError, match="sequence number"):
        m.start_from_wire(start)


def _all_errors(root: type[JlogError]) -> list[type[JlogError]]:
    return [root, *(error for child in root.__subclasses__() for error in _all_errors(child))]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in _all_errors(JlogError) if kind.__module__ == errors.__name__],
    ids=lambda kind: kind.__name__,
)
def test_an_error_is_raised_as_what_it_was(kind: type[JlogError]) -> None:
    refused = m.decode_answer(m.encode(m.refused(3, kind("what, where, what next"))))
    assert isinstance(refused, m.Refused)
    error = errors.from_wire(refused.code, refused.message)
    assert type(error) is kind and str(error) == "what, where, what next"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in _all_errors(JlogError) if kind.__module__ == errors.__name__]
    assert len(set(codes)) == len(codes)


def test_an_unknown_code_is_a_remote_error() -> None:
    assert type(errors.from_wire("quantum", "x")) is RemoteError
    assert type(errors.from_wire("log-full", "x")) is LogFull


def test_controls_are_json_that_any_language_can_write() -> None:
    for message in (*REQUESTS, *ANSWERS):
        assert json.loads(m.encode(message))["verb"]
    assert isinstance(msgspec.json.decode(m.encode(m.Acks([m.Ack(1, 2, 3)]))), dict)


# Addresses


def test_a_target_is_an_address_and_the_name_of_a_log() -> None:
    found = parse_target("tcp://127.0.0.1:5140/mainlog")
    assert (found.address, found.log) == ("tcp://127.0.0.1:5140", "mainlog")
    found = parse_target("ipc:///run/jlogd/zmq.sock/mainlog")
    assert (found.address, found.log) == ("ipc:///run/jlogd/zmq.sock", "mainlog")
    assert parse_target("ipc://var/zmq.sock/mainlog").address == "ipc://var/zmq.sock"
    assert parse_target("tcp://[::1]:5140/l").address == "tcp://[::1]:5140"


def test_localhost_is_one_address() -> None:
    assert check_address("tcp://localhost:5140") == check_address("tcp://127.0.0.1:5140")


@pytest.mark.parametrize(
    "text",
    [
        "", "mainlog", "tcp://", "tcp://mainlog", "tcp://127.0.0.1:5140", "tcp://127.0.0.1/mainlog", "ipc://mainlog",
        "tcp://127.0.0.1:5140/", "tcp://127.0.0.1:5140/..", "tcp://127.0.0.1:99999/l", "http://127.0.0.1:5140/l",
        "tcp://127.0.0.1:5140/a b", "ipc:///l", "ipc://@abstract/l", "tcp://127.0.0.1:x/l", "tcp://*:5140/l",
        "ipc:///" + "x" * 200 + "/l", "inproc://x/l",
    ],
)  # fmt: skip
def test_what_is_no_target_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "example.com", "[::]", "[2001:db8::1]", "192.168.1.1", "*"])
def test_addresses_beyond_this_host_need_keys(host: str) -> None:
    if host == "*":
        with pytest.raises(UsageError):
            check_address(f"tcp://{host}:5140")
    else:
        with pytest.raises(UsageError, match=r"not a loopback address, and there are no keys"):
            Keys().resolve(check_address(f"tcp://{host}:5140"))


def test_a_directory_is_no_target() -> None:
    assert is_target("tcp://127.0.0.1:1/l")
    assert not is_target("var/spool/mainlog")


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(UsageError, match="not a socket"):
        check_socket_free(f"ipc://{tmp_path}/precious")
    check_socket_free(f"ipc://{tmp_path}/free")


# The mailbox


def test_what_is_put_while_the_owner_sleeps_wakes_it() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def own() -> None:
        while len(taken) < 3000:
            if mailbox.arm():
                select.select([mailbox.fileno()], [], [], 30)
            taken.extend(mailbox.take())

    owner = threading.Thread(target=own)
    owner.start()
    putters = [threading.Thread(target=lambda: [mailbox.put(n) for n in range(1000)]) for _ in range(3)]
    for thread in (*putters, owner):
        if thread is not owner:
            thread.start()
    for thread in (*putters, owner):
        thread.join(60)
    assert sorted(taken) == sorted(list(range(1000)) * 3)
    mailbox.close()


def test_nothing_sleeps_while_something_waits() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("x")
    assert not mailbox.arm()
    assert list(mailbox.take()) == ["x"]
    assert mailbox.arm()
    mailbox.put("y")
    assert len(mailbox) == 1
    assert list(mailbox.take()) == ["y"]
    mailbox.close()
    mailbox.put("z")
