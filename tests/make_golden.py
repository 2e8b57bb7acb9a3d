"""Make the logs of `tests/golden`: small logs of format 1 that every later jlogd has to read. See `test_golden.py`.

    PYTHONPATH=. python tests/make_golden.py [DIRECTORY]

They are kept as they are: this script says how they were made, and makes them again, to the byte, as long as the format
and the writer stay the same. Time, random numbers, host and boot are made up: nothing of the machine is in them.
"""

from __future__ import annotations

import base64
import json
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from unittest import mock

from crc32c import crc32c
from format_reader import blake
from format_support import rewrite_slots

import jlogd
from jlogd import Caps, Log, Settings

GOLDEN = Path(__file__).parent / "golden"
HOST, BOOT = "the host that made the golden logs", "and its boot"


def lines() -> Iterator[bytes]:
    """Records as a text file has them: short, empty, with a carriage return, not UTF-8."""
    yield from (b"first", b"", b"a line\r", "größer".encode(), b"\xff\xfe", b"", b"last")


def binary() -> Iterator[bytes]:
    """Records with newlines, and all bytes there are."""
    yield from (b"\n", b"", bytes(range(256)), b"two\nlines\n", b"\0" * 5)


def words(number: int) -> Iterator[bytes]:
    for at in range(number):
        yield b"%04d the quick brown fox jumps over the lazy dog" % at


class Made:
    """What a log was told: its records by sequence number."""

    def __init__(self, path: Path, settings: Settings, *subscribers: str) -> None:
        self.path = path
        self.records: dict[int, bytes] = {}
        jlogd.create(path, settings, subscribers)

    def append(self, log: Log, records: list[bytes], producer: str = "", batch: int = 3) -> None:
        with log.writer(producer=producer, linger_ms=1e9) as writer:
            while records:
                futures = [writer.append(record, receipt=True) for record in records[:batch]]
                writer.flush()
                for record, future in zip(records[:batch], futures, strict=True):
                    assert future is not None
                    self.records[future.result(0).first] = record
                records = records[batch:]

    def consume(self, log: Log, subscriber: str, items: int) -> None:
        with log.subscriber(subscriber) as consumer:
            for item in islice(consumer, items):
                item.checkpoint()


def make_lines(path: Path) -> Made:
    made = Made(path, Settings(), "all", "half")
    with jlogd.open(path) as log:
        made.append(log, list(lines()))
        made.consume(log, "half", 2)
    return made


def make_lengths(path: Path) -> Made:
    made = Made(path, Settings(durability="interval=10s"), "all")
    with jlogd.open(path) as log:
        made.append(log, list(binary()), "importer")
    return made


def make_zstd(path: Path) -> Made:
    made = Made(path, Settings(compression="zstd", durability="os"), "all")
    with jlogd.open(path) as log:
        made.append(log, list(words(40)), batch=20)
        made.append(log, list(binary()))
    return made


def make_rolled(path: Path) -> Made:
    """Segments that follow one another, the first of them pruned; named and anonymous producers; caps of every kind."""
    made = Made(path, Settings(segment_bytes=4096, caps=Caps(max_bytes=1 << 20, on_full="block")), "quick", "slow")
    with jlogd.open(path) as log:
        for number in range(4):
            made.append(log, list(words(30)), f"producer-{number % 2}")
            made.append(log, list(words(10)))
        made.consume(log, "quick", 45)
        made.consume(log, "slow", 30)
        log.add_subscriber("capped", "end", Caps(max_bytes=5000, max_age=60.5, on_full="drop-oldest"))
    return made


def make_torn(path: Path) -> Made:
    """After a power loss: the head on disk is an old one, and the last batch is there in part."""
    made = Made(path, Settings(), "all")
    with jlogd.open(path) as log:
        made.append(log, list(words(9)))
        old_head = (path / "head-00000001").read_bytes()
        made.append(log, list(words(6)))
        size = _segments(path)[-1].stat().st_size
        made.append(log, list(words(3)))
    for sequence in range(16, 19):
        del made.records[sequence]
    (path / "head-00000001").write_bytes(old_head)
    segment = _segments(path)[-1]
    segment.write_bytes(segment.read_bytes()[: size + 150])
    return made


def make_fenced(path: Path) -> Made:
    """A log that another writer took over, and to which the one before wrote on."""
    made = Made(path, Settings(segment_bytes=4096), "all")
    with jlogd.open(path) as log:
        made.append(log, list(words(9)))
    ahead = path.with_name("ahead")
    shutil.copytree(path, ahead)
    with jlogd.open(ahead) as log, log.writer(linger_ms=1e9) as writer:
        for record in words(40):
            writer.append(record + b" from the fenced writer")
            writer.flush()
    (path / "head-00000001").unlink()
    with jlogd.open(path) as log:
        made.append(log, list(words(12)))
    for segment in _segments(ahead):
        shutil.copy(segment, path)
    shutil.rmtree(ahead)
    return made


MAKERS = {
    "lines": make_lines,
    "lengths": make_lengths,
    "zstd": make_zstd,
    "rolled": make_rolled,
    "torn": make_torn,
    "fenced": make_fenced,
}


def make(directory: Path) -> None:
    """Make all golden logs below `directory`, and `expected.json` with the records they were given."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    expected = {}
    for name, maker in MAKERS.items():
        with _made_up_world():
            made = maker(directory / name)
        _anonymous(made.path)
        expected[name] = {str(at): base64.b64encode(record).decode() for at, record in made.records.items()}
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


@contextmanager
def _made_up_world() -> Iterator[None]:
    clock, dice = count(1_700_000_000_000_000_000, 1_000_000), random.Random(1)
    with (
        mock.patch("time.time_ns", lambda: next(clock)),
        mock.patch("os.urandom", dice.randbytes),
        mock.patch("random._urandom", dice.randbytes),
    ):
        yield


def _anonymous(log: Path) -> None:
    """Take the identity of host and boot out of a log, and remove its lock files."""
    for path in [*log.glob("*.lock"), *log.glob("subscribers/*.lock"), log.with_name(".lock")]:
        path.unlink(missing_ok=True)
    host, boot = HOST.encode(), BOOT.encode()
    lengths = len(host).to_bytes(2, "little") + len(boot).to_bytes(2, "little")
    rewrite_slots(log / "owner", lambda payload: payload[:4] + lengths + host + boot)
    for path in log.glob("head-*"):
        rewrite_slots(path, lambda payload: payload[:64] + blake(boot, 8) + payload[72:])
    for path in _segments(log):
        data = bytearray(path.read_bytes())
        data[80:96] = blake(host, 16)
        data[124:128] = crc32c(bytes(data[:124])).to_bytes(4, "little")
        path.write_bytes(data)


def _segments(log: Path) -> list[Path]:
    return sorted(log.glob("*.seg"))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if sys.argv[1:] else GOLDEN)
