"""The other outputs: another journal, standard output, a syslog server.

    journal   exactly once: batches are numbered by their place in the log they come from, under a producer's name that
              says which log that is, and the journal drops what it has already
    stdout    at least once: what was printed in a round that did not end is printed again
    syslog    RFC 5424 over TCP, counted frames; at least once: a round is done when the server's host has everything,
              and whether the server wrote it is not known to anybody

Each has a thread of rounds of its own, so that a slow server holds up nothing else.
"""

from __future__ import annotations

import array
import fcntl
import re
import select
import socket
import sys
import termios
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from jlogd.entry import create
from jlogd.entry import open as open_log
from jlogd.errors import JlogError, LogExists, LogNotFound
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.producers import producer_id
from jlogd.journal.types import check_name
from jlogd.log import Log
from jlogd.manager.job import text_of
from jlogd.manager.ledger import Changes
from jlogd.manager.output import OutputFailed
from jlogd.manager.parcel import Item, Mark, Parcel, Source, line_bytes
from jlogd.manager.template import Template
from jlogd.writer.writer import Writer

# What a round may take to become durable somewhere else.
FLUSH_SECONDS = 30.0
# To a syslog server: to connect, and to send what a round has.
CONNECT_SECONDS = 10.0
SEND_SECONDS = 30.0
# local0.info, for records that say nothing of it themselves.
PRIORITY = 134
_SYSLOG = re.compile(rb"<\d{1,3}>1 ")


class Plain:
    """What outputs without files and without memory have in common."""

    def __init__(self) -> None:
        self._counters: Counter[str] = Counter()

    def settled(self, changes: Changes) -> None:
        self._counters["rounds"] += 1

    def idle(self, now: float) -> Changes:
        return Changes()

    def reset(self) -> None:
        """There is nothing to forget."""

    def close(self) -> Changes:
        return Changes()

    def stats(self) -> dict[str, int]:
        return dict(self._counters)


class JournalOutput(Plain):
    """Records into other logs: directories or addresses, named by a template of names."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._names = Template(target.rpartition("/")[2])
        self._place = target.rpartition("/")[0]
        self._open: dict[str, tuple[Log, Writer]] = {}
        self._positions: dict[str, int | None] = {}

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        used: dict[str, Writer] = {}
        try:
            for parcel in parcels:
                self._send(parcel, used)
            for writer in used.values():
                writer.flush(FLUSH_SECONDS)
        except (JlogError, TimeoutError, OSError) as error:
            self.reset()  # what was sent and not acknowledged is asked for anew
            raise OutputFailed(f"{self._target}: {error or 'not durable in time'}") from error
        return Changes()

    def reset(self) -> None:
        for log, writer in self._open.values():
            with suppress(JlogError, TimeoutError, OSError):
                writer.close(0.0)
            log.close()
        self._open.clear()
        self._positions.clear()

    def close(self) -> Changes:
        self.reset()
        return Changes()

    def _send(self, parcel: Parcel, used: dict[str, Writer]) -> None:
        name = check_name("log", self._names.expand(parcel.source.origin, 0))
        target = f"{self._place}/{name}" if self._place else name
        log, writer = self._open.get(target) or self._connect(target)
        used[target] = writer
        # A log that began anew has other numbers: it is another producer.
        producer = f"{parcel.source.key}#{parcel.era}"
        key = f"{target} {producer}"
        if key not in self._positions:
            self._positions[key] = log.producer_position(producer)
        done = self._positions[key] or 0
        for batch in numbered(parcel, producer_id(producer)):
            if batch.producer_to > done:
                writer.send(batch)

    def _connect(self, target: str) -> tuple[Log, Writer]:
        try:
            log = open_log(target)
        except LogNotFound:
            with suppress(LogExists):
                create(target)
            log = open_log(target)
        try:
            self._open[target] = log, log.writer(on_full="wait")
        except BaseException:
            log.close()
            raise
        return self._open[target]


def numbered(parcel: Parcel, producer: int) -> list[Batch]:
    """The items of a parcel as batches that their journal knows again: numbered by their place in the log they are of.

    Gaps become their line, with the numbers of what is missing; a mark goes with what follows it.
    """
    found: list[Batch] = []
    marks: list[bytes] = []
    for item in parcel.items:
        if isinstance(item, Mark):
            marks.append(line_bytes(item, parcel.source)[:-1])
            continue
        found.append(_numbered(item, parcel.source, marks, producer))
        marks = []
    return found


def _numbered(item: Batch | Gap, source: Source, marks: list[bytes], producer: int) -> Batch:
    if isinstance(item, Gap):
        batch = encode([*marks, line_bytes(item, source)[:-1]])
    elif marks:
        batch = encode([*marks, *item.records()], item.first_time, item.last_time)
    else:
        batch = replace(item, first=0, committed=0, append_time=0, epoch=0)
    return batch.numbered(producer, item.first, item.next)


class StdoutOutput(Plain):
    """Records as lines on standard output."""

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        out = sys.stdout.buffer
        for parcel in parcels:
            for item in parcel.items:
                if isinstance(item, Batch):
                    for piece in text_of(item)[0]:
                        out.write(piece)
                else:
                    out.write(line_bytes(item, parcel.source))
        out.flush()
        return Changes()


class SyslogOutput(Plain):
    """Records to a syslog server. A record that is an RFC 5424 message already is sent as it is."""

    def __init__(self, address: str) -> None:
        """`address` is tcp://HOST:PORT."""
        super().__init__()
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._address = host.strip("[]"), int(port)
        self._text = address
        self._socket: socket.socket | None = None

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, CONNECT_SECONDS)
            self._socket.settimeout(SEND_SECONDS)
            for parcel in parcels:
                self._socket.sendall(b"".join(_frames(parcel)))
            self._wait_until_there(self._socket)
        except OSError as error:
            self.reset()
            raise OutputFailed(f"the syslog server at {self._text}: {error}") from error
        return Changes()

    def reset(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> Changes:
        self.reset()
        return Changes()

    @staticmethod
    def _wait_until_there(connection: socket.socket) -> None:
        """Until the server's host has acknowledged every byte, and while it has not closed."""
        left = array.array("i", [0])
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        deadline = time.monotonic() + SEND_SECONDS
        while True:
            fcntl.ioctl(connection, termios.TIOCOUTQ, left)
            if readable.poll(0) and connection.recv(1, socket.MSG_PEEK) == b"":
                raise ConnectionResetError("it closed the connection")
            if not left[0]:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left[0]} bytes were not acknowledged within {SEND_SECONDS:g} s")
            time.sleep(0.001)


def _frames(parcel: Parcel) -> list[bytes]:
    frames: list[bytes] = []
    origin = parcel.source.origin
    for item in parcel.items:
        moment = item.append_time if isinstance(item, Batch) else time.time_ns()
        stamp = datetime.fromtimestamp(moment / 1e9, UTC).isoformat(timespec="microseconds")
        header = f"<{PRIORITY}>1 {stamp.replace('+00:00', 'Z')} {origin.node} {origin.log} - - - ".encode()
        for record in _records(item, parcel.source):
            message = record if _SYSLOG.match(record) else header + record
            frames.append(b"%d %s" % (len(message), message))
    return frames


def _records(item: Item, source: Source) -> Sequence[bytes]:
    return item.records() if isinstance(item, Batch) else [line_bytes(item, source)[:-1]]
