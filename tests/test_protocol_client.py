"""A client written from docs/protocol.md alone: pyzmq, json, struct and a checksum, nothing of jlogd's own.

If it works, so will one in another language. Every example of a message in the document is checked here too.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zstandard
from wire_support import Daemon

DOCUMENT = Path(__file__).parent.parent / "docs" / "protocol.md"
HEADER = struct.Struct("<4sBBBBIIIIQQQqqQQqII")
LINES, LENGTHS = 0, 1

_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    _TABLE.append(_byte)


def castagnoli(data: bytes) -> int:
    """CRC-32C, one byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def batch(records: list[bytes], producer: int = 0, start: int = 0, compress: bool = False) -> bytes:
    """Header and body."""
    if any(b"\n" in record for record in records):
        encoding = LENGTHS
        raw = struct.pack(f"<{len(records)}I", *map(len, records)) + b"".join(records)
    else:
        encoding, raw = LINES, b"\n".join(records)
    body = zstandard.compress(raw) if compress else raw
    head = HEADER.pack(
        b"JLB1", encoding, int(compress), 0, 0, len(records), len(body), len(raw), castagnoli(body),
        producer, start, start + len(records), 10, 20, 0, 0, 0, 0, 0,
    )[:92]  # fmt: skip
    return head + struct.pack("<I", castagnoli(head)) + body


def unbatch(frame: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """First sequence number and records of each batch in a frame, both checksums checked."""
    while frame:
        fields = HEADER.unpack_from(frame)
        magic, encoding, codec, _, _, count, body_bytes, raw_bytes, body_crc = fields[:9]
        first, header_crc = fields[14], fields[18]
        body, rest = frame[96 : 96 + body_bytes], frame[96 + body_bytes :]
        assert magic == b"JLB1" and header_crc == castagnoli(frame[:92]) and body_crc == castagnoli(body)
        raw = zstandard.decompress(body) if codec else body
        assert len(raw) == raw_bytes
        if encoding == LINES:
            records = raw.split(b"\n")
        else:
            records, at = [], 4 * count
            for length in struct.unpack_from(f"<{count}I", raw):
                records.append(raw[at : at + length])
                at += length
        assert len(records) == count
        yield first, records
        frame = rest


class Client:
    """As small as the document lets it be."""

    def __init__(self, address: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 86400000)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 17825888)
        self.socket.connect(address)
        self.last_id = 0
        self.welcome = self.ask("hello", protocol=1, client="c" * 32, note="a test")

    def send(self, verb: str, *frames: bytes, **fields: Any) -> int:
        self.last_id += max(1, len(frames))
        id_ = self.last_id - max(0, len(frames) - 1)
        control = {"verb": verb, **fields} if verb in ("credit", "bye") else {"verb": verb, "id": id_, **fields}
        self.socket.send_multipart([json.dumps(control).encode(), *frames])
        return id_

    def receive(self) -> tuple[dict[str, Any], bytes]:
        assert self.socket.poll(20_000), "no answer"
        control, *frames = self.socket.recv_multipart()
        message = json.loads(control)
        if message["verb"] == "pong" and not message.get("id"):
            return self.receive()
        return message, frames[0] if frames else b""

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        id_ = self.send(verb, **fields)
        message, _ = self.receive()
        assert message["id"] == id_
        return message

    def append(self, log: str, *batches: bytes) -> list[list[Any]]:
        """The acknowledgements of all the batches."""
        first = self.send("append", *batches, log=log)
        acks: list[list[Any]] = []
        while len(acks) < len(batches):
            message, _ = self.receive()
            assert message["verb"] == "acks", message
            acks += message["acks"]
        assert [ack[0] for ack in acks] == list(range(first, first + len(batches)))
        return acks

    def close(self) -> None:
        self.send("bye")
        self.socket.close(linger=200)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    client = Client(daemon.address)
    yield client
    client.close()


def test_the_checksum_is_the_documented_one() -> None:
    assert castagnoli(b"123456789") == 0xE3069283
    assert "0xE3069283" in DOCUMENT.read_text()


def test_the_greeting(client: Client) -> None:
    assert client.welcome["verb"] == "welcome" and client.welcome["protocol"] == 1
    limits = client.welcome["limits"]
    text = DOCUMENT.read_text()
    for name in ("batch_bytes", "append_bytes", "append_batches", "credit_bytes", "subscriptions", "session_seconds"):
        assert f'"{name}": {limits[name]}' in text
    assert client.ask("ping")["verb"] == "pong"


def test_append_and_read_back(client: Client) -> None:
    sent = [[b"one", b"two", b""], [b"with\nnewline", b"\0\xff"], [b"x" * 1000] * 50]
    frames = [batch(sent[0]), batch(sent[1]), batch(sent[2], compress=True)]
    acks = client.append("mainlog", *frames)
    assert [ack[1:3] for ack in acks] == [[1, 3], [4, 2], [6, 50]]

    sub = client.send("subscribe", log="mainlog", name="master", credit=1 << 20)
    subscribed, _ = client.receive()
    assert subscribed == {"verb": "subscribed", "id": sub, "next": 1, "credit": 1 << 20}
    received: list[tuple[int, list[bytes]]] = []
    while True:
        message, frame = client.receive()
        if message["verb"] == "end":
            break
        assert message["verb"] == "delivery" and message["sub"] == sub
        assert message["cost"] == max(len(frame), 1024)
        received += unbatch(frame)
        client.send("credit", sub=sub, bytes=message["cost"])
    assert message == {"verb": "end", "sub": sub, "id": sub, "next": 56}
    assert received == [(1, sent[0]), (4, sent[1]), (6, sent[2])]

    assert client.ask("checkpoint", sub=sub, next=6)["verb"] == "done"
    assert client.ask("unsubscribe", sub=sub)["verb"] == "done"
    resumed = client.ask("subscribe", log="mainlog", name="master")
    assert resumed["next"] == 6 and resumed["credit"] == 0


def test_a_batch_sent_again_is_there_once(daemon: Daemon, client: Client) -> None:
    producer = int.from_bytes(hashlib.blake2b(b"web3", digest_size=8).digest(), "little") | 1 << 63
    frames = [batch([b"a", b"b"], producer, 0), batch([b"c"], producer, 2)]
    client.append("mainlog", *frames)
    again = Client(daemon.address)
    assert again.append("mainlog", *frames) == [[2, 0, 2, True], [3, 3, 1, True]]
    assert again.ask("position", log="mainlog", producer=producer)["position"] == 3
    assert again.ask("position", log="mainlog", producer=77)["position"] is None
    again.send("append", batch([b"later"], producer, 9), log="mainlog")
    message, _ = again.receive()
    assert (message["verb"], message["code"]) == ("refused", "producer-gap")
    again.close()


def test_following(client: Client) -> None:
    sub = client.ask("subscribe", log="mainlog", start="end", follow=True, credit=1 << 20)["id"]
    client.send("append", batch([b"new"]), log="mainlog")
    verbs = {}
    while len(verbs) < 2:
        message, frame = client.receive()
        verbs[message["verb"]] = (message, frame)
    message, frame = verbs["delivery"]
    assert message["sub"] == sub and message["next"] == 2
    assert list(unbatch(frame)) == [(1, [b"new"])]
    assert verbs["acks"][0]["acks"][0][1] == 1


def test_more_after_the_end(client: Client) -> None:
    sub = client.ask("subscribe", log="mainlog", credit=1 << 20)["id"]
    assert client.receive()[0] == {"verb": "end", "sub": sub, "id": sub, "next": 1}
    client.append("mainlog", batch([b"later"]))
    more = client.send("more", sub=sub)
    assert list(unbatch(client.receive()[1])) == [(1, [b"later"])]
    assert client.receive()[0] == {"verb": "end", "sub": sub, "id": more, "next": 2}


def test_administration(client: Client) -> None:
    assert client.ask("list-logs")["logs"] == ["mainlog"]
    settings = {"durability": "os", "compression": "zstd"}
    made = client.ask("create-log", log="audit", subscribers=["x"], settings=settings)
    assert (made["verb"], made["compression"], made["durability"]) == ("opened", "zstd", "os")
    assert client.ask("open-log", log="audit")["uuid"] == made["uuid"]
    caps = {"max_bytes": 1 << 30, "max_age": 86400.0, "on_full": "drop-oldest"}
    assert client.ask("subscriber-add", log="audit", name="y", caps=caps)["verb"] == "done"
    assert client.ask("subscriber-clone", log="audit", name="z", source="y")["verb"] == "done"
    assert client.ask("subscriber-caps", log="audit", name="z")["verb"] == "done"
    assert client.ask("subscriber-set", log="audit", name="z", start="end")["verb"] == "done"
    assert client.ask("subscriber-remove", log="audit", name="x")["verb"] == "done"
    stat = client.ask("stat", log="audit")["stat"]
    assert [subscriber["name"] for subscriber in stat["subscribers"]] == ["y", "z"]
    text = DOCUMENT.read_text()
    for name in (*stat, *stat["subscribers"][0]):
        if name not in ("torn_bytes",):
            assert f"`{name}`" in text, name


def test_refusals(client: Client) -> None:
    expected = {
        "log-not-found": client.ask("stat", log="nope"),
        "log-exists": client.ask("create-log", log="mainlog"),
        "usage": client.ask("subscribe", log="mainlog", start="yesterday"),
        "subscriber-unknown": client.ask("subscribe", log="mainlog", name="nobody"),
        "subscriber-exists": client.ask("subscriber-add", log="mainlog", name="master"),
        "protocol": client.ask("dance"),
    }
    for code, answer in expected.items():
        assert (answer["verb"], answer["code"]) == ("refused", code)
    bad = bytearray(batch([b"x"]))
    bad[-1] ^= 1
    client.send("append", bytes(bad), log="mainlog")
    assert client.receive()[0]["code"] == "format"


def test_without_a_session(daemon: Daemon) -> None:
    client = Client(daemon.address)
    client.send("bye")
    assert client.ask("ping")["code"] == "no-session"
    client.close()


def _examples() -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.S)]


def test_every_example_is_a_message_and_every_message_has_an_example() -> None:
    from jlogd.wire import messages

    shown = set()
    for example in _examples():
        control = json.dumps(example).encode()
        for decode in (messages.decode_request, messages.decode_answer):
            try:
                message = decode(control)
            except messages.ProtocolError:
                continue
            shown.add(example["verb"])
            known = json.loads(messages.encode(message))
            assert set(known) <= set(example) <= {*known, "count", "follow", "caps", "settings"}
            break
        else:
            pytest.fail(f"{example} is no message")
    text = DOCUMENT.read_text()
    for struct_ in (*messages.FromClient.__args__, *messages.FromDaemon.__args__):
        verb = struct_.__struct_config__.tag
        assert verb in shown or f"`{verb}`" in text, verb


def test_every_error_code_is_in_the_table() -> None:
    from jlogd import errors

    text = DOCUMENT.read_text()
    for code in errors._tree(errors.JlogError):
        assert f"`{code}`" in text, code
