"""A server over real journals, on real sockets, that tests can stop and start again over the same directory."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zmq

from jlogd.daemon.served import Served
from jlogd.daemon.server import Server
from jlogd.errors import LogNotFound
from jlogd.journal.batch import Batch, decode, encode
from jlogd.journal.disk import Disk
from jlogd.journal.journal import Journal
from jlogd.journal.types import Settings
from jlogd.wire import messages
from jlogd.wire.link import NEVER_MS
from jlogd.wire.messages import FromDaemon, Limits
from jlogd.writer.committer import Committer


class SpoolLogs:
    """The logs of a spool directory, all open."""

    def __init__(self, spool: Path, disk: Disk | None = None) -> None:
        self.spool = spool
        self.disk = disk
        self.served: dict[str, Served] = {}
        for path in sorted(spool.iterdir()):
            if (path / "log.json").exists():
                self._open(path.name)

    def names(self) -> list[str]:
        return sorted(self.served)

    def get(self, name: str, shown: Callable[[str], bool] | None = None) -> Served:
        try:
            return self.served[name]
        except KeyError:
            raise LogNotFound(f"there is no log {name} here") from None

    def create(self, name: str, settings: Settings | None, subscribers: Sequence[str]) -> Served:
        Journal.create(self.spool / name, settings, subscribers, self.disk)
        return self._open(name)

    def close(self) -> None:
        for served in self.served.values():
            served.committer.close()
            served.journal.close()
        self.served.clear()

    def _open(self, name: str) -> Served:
        journal = Journal.open(self.spool / name, self.disk)
        self.served[name] = Served(journal, Committer(journal))
        return self.served[name]


class Daemon:
    """A server and its logs. `restart` closes both and opens them again at the same address."""

    def __init__(self, spool: Path, address: str = "tcp://127.0.0.1:0", limits: Limits | None = None) -> None:
        self.spool = spool
        self.limits = limits
        self.address = address
        self.start()

    def start(self) -> None:
        self.logs = SpoolLogs(self.spool)
        self.server = Server(self.logs, [self.address], version="test", limits=self.limits)
        self.address = self.server.addresses[0]
        self.server.start()

    def stop(self) -> None:
        self.server.close()
        self.logs.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def target(self, log: str = "mainlog") -> str:
        return f"{self.address}/{log}"

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def make_log(spool: Path, name: str = "mainlog", subscribers: Sequence[str] = (), **settings: object) -> None:
    """A log in a spool directory."""
    Journal.create(spool / name, Settings(**settings), subscribers)  # type: ignore[arg-type]


class Raw:
    """A client that does exactly what it is told: it pings nobody, gives no credit back, and reads when asked to."""

    def __init__(self, address: str, *, hello: bool = True, client: str = "", note: str = "raw") -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = NEVER_MS
        self.socket.ipv6 = "[" in address
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.connect(address)
        self.ids = itertools.count(1)
        self.client = client or secrets.token_hex(8)
        self.frame = b""
        if hello:
            answer = self.ask(messages.Hello(0, 1, self.client, note))
            assert isinstance(answer, messages.Welcome), answer

    def send(self, message: messages.FromClient, *frames: bytes) -> int:
        """Send; the first id it used."""
        id_ = next(self.ids)
        for _ in frames[1:]:
            next(self.ids)
        if hasattr(message, "id"):
            message.id = id_
        self.socket.send_multipart([messages.encode(message), *frames])
        return id_

    def receive(self, timeout: float = 20.0) -> FromDaemon:
        """The next message, probes left out; its batches are in `frame`."""
        while True:
            assert self.socket.poll(int(1000 * timeout)), "nothing came"
            control, *frames = self.socket.recv_multipart()
            message = messages.decode_answer(control)
            if message != messages.Pong():
                self.frame = frames[0] if frames else b""
                return message

    def ask(self, message: messages.FromClient, *frames: bytes) -> FromDaemon:
        """Send, and the next message that comes."""
        self.send(message, *frames)
        return self.receive()

    def settle(self) -> list[FromDaemon]:
        """Everything the daemon had sent when it saw this: a ping, and what comes before its answer."""
        id_ = self.send(messages.Ping(0))
        found = []
        while (message := self.receive()) != messages.Pong(id_):
            found.append(message)
        return found

    def append(self, *batches: Batch, log: str = "mainlog") -> int:
        """Send batches in one append; the id of the first."""
        return self.send(messages.Append(0, log), *(batch.to_wire() for batch in batches))

    def outcomes(self, count: int) -> dict[int, messages.Ack | messages.Refused]:
        """What became of so many batches, by their ids."""
        found: dict[int, messages.Ack | messages.Refused] = {}
        while len(found) < count:
            message = self.receive()
            if isinstance(message, messages.Acks):
                found.update({ack.id: ack for ack in message.acks})
            else:
                assert isinstance(message, messages.Refused), message
                found.update(dict.fromkeys(range(message.id, message.id + message.count), message))
        return found

    def subscribe(self, name: str = "", *, credit: int = 1 << 20, **options: object) -> messages.Subscribed:
        """Subscribe to the main log; see `hold` for one of which nothing more comes."""
        answer = self.ask(messages.Subscribe(0, "mainlog", name, credit=credit, **options))  # type: ignore[arg-type]
        assert isinstance(answer, messages.Subscribed), answer
        return answer

    def hold(self, name: str) -> int:
        """Consume as `name`, without credit."""
        return self.subscribe(name, credit=0, follow=True).id

    def batches(self) -> list[Batch]:
        """The batches of the delivery that was just received."""
        found, at = [], 0
        while at < len(self.frame):
            found.append(decode(self.frame, at))
            at += found[-1].size
        return found

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def numbered(start: int, records: int = 1, producer: int = 7, size: int = 10) -> Batch:
    """A batch of records that name their position."""
    made = [b"%d-%d" % (producer, start + n) for n in range(records)]
    return encode([record.ljust(size, b".") for record in made]).numbered(producer, start, start + records)


def records_in(spool: Path, log: str = "mainlog") -> list[bytes]:
    """Every record of a log, read from the directory."""
    with Journal.open(spool / log) as journal:
        cursor = journal.cursor("begin")
        return [record for items in iter(lambda: cursor.read(1 << 20), []) for item in items for record in item]


@contextmanager
def held_commits(served: Served) -> Iterator[threading.Event]:
    """Commits wait until the event is set, or the block is left."""
    released = threading.Event()
    commit: Callable[..., object] = served.journal.commit

    def slow(batches: Sequence[Batch]) -> object:
        released.wait(60)
        return commit(batches)

    served.journal.commit = slow  # type: ignore[method-assign, assignment]
    try:
        yield released
    finally:
        released.set()
        served.journal.commit = commit  # type: ignore[method-assign, assignment]
