"""Managers in tests: text files and a ledger on the model disk, a source of parcels, and what must be in the files.

A ledger of the model commits at one numbered call of the disk: a crash strikes before it or after it, never within.
That LMDB does so itself is its own promise; real processes are killed in test_manager_kill.py.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from model_disk import ModelDisk, ModelFile, ModelProcess

from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.disk import Buffer
from jlogd.manager.aside import Asides
from jlogd.manager.files import FileOutput
from jlogd.manager.handles import FileOptions
from jlogd.manager.ledger import Aside, Changes, FileState, SourceState
from jlogd.manager.parcel import Item, Parcel, Source, line_bytes
from jlogd.manager.recovery import recover
from jlogd.manager.rounds import Rounds
from jlogd.manager.template import Origin, Template

ROOT = "/files"
TEMPLATE = f"{ROOT}/%Y/%m%d/%{{log}}/%{{node}}"
DAY_NS = 86_400 * 10**9
# Noon of some day, UTC.
NOON_NS = 1_800_014_400 * 10**9


class ModelText:
    """`TextFile` over a file of the model."""

    def __init__(self, store: ModelStore, file: ModelFile) -> None:
        self._store = store
        self._file = file

    def append(self, buffers: Sequence[Buffer]) -> int:
        return self._file.append(buffers)

    def pread(self, length: int, offset: int) -> bytes:
        return self._file.pread(length, offset)

    def cut(self, length: int) -> None:
        node = self._file.node
        with self._file._call("cut", str(length)):
            del node.cached[length:]
            node.pending = [(at, data[: length - at * 512]) for at, data in node.pending if at * 512 < length]
            self._store.medium.cuts[id(node)] = (node, min(length, *self._store.medium.cut_of(node)))

    def sync(self) -> None:
        self._file.sync()
        node = self._file.node
        if self._store.medium.cuts.pop(id(node), None):
            del node.durable[len(node.cached) :]

    def size(self) -> int:
        return self._file.size()

    def identity(self) -> int:
        return self._store.medium.inode(self._file.node)

    def mode(self) -> int:
        return 0o640

    def close(self) -> None:
        self._file.close()


class Medium:
    """A model disk, with inodes and cuts that are not durable yet."""

    def __init__(self) -> None:
        self.disk = ModelDisk(root=ROOT)
        self.cuts: dict[int, tuple[object, int]] = {}
        self._inodes: dict[int, tuple[object, int]] = {}
        self._number = itertools.count(1000)
        self.ledger = (dict[str, SourceState](), dict[str, FileState](), dict[str, int](), dict[str, Aside]())

    def inode(self, node: object) -> int:
        return self._inodes.setdefault(id(node), (node, next(self._number)))[1]

    def cut_of(self, node: object) -> list[int]:
        return [self.cuts[id(node)][1]] if id(node) in self.cuts else [1 << 60]

    def crash(self, rng: random.Random) -> None:
        """Power loss: what was cut and not synced is cut, or is not."""
        for node, length in self.cuts.values():
            if rng.random() < 0.5:
                del node.durable[length:]  # type: ignore[attr-defined]
        self.cuts.clear()
        self.disk.crash(rng)

    def text(self, path: str) -> bytes:
        return bytes(self.disk._file(Path(path)).cached)

    def paths(self) -> list[str]:
        return sorted(str(path) for path, _ in self.disk._walk())


class ModelStore:
    """`Store` over a process of the model."""

    def __init__(self, medium: Medium, process: ModelProcess) -> None:
        self.medium = medium
        self._process = process

    def create(self, path: str, mode: int) -> ModelText:
        return ModelText(self, self._process.open(Path(path), "create"))

    def open(self, path: str) -> ModelText:
        return ModelText(self, self._process.open(Path(path), "write"))

    def identity(self, path: str) -> int | None:
        if not self._process.exists(Path(path)):
            return None
        return self.medium.inode(self.medium.disk.find(Path(path)))

    def mkdir(self, path: str, mode: int) -> None:
        self._process.mkdir(Path(path))

    def rename(self, old: str, new: str) -> None:
        self._process.rename(Path(old), Path(new))

    def unlink(self, path: str) -> None:
        self._process.unlink(Path(path))

    def sync_dir(self, path: str) -> None:
        self._process.sync_dir(Path(path))


class ModelLedger:
    """A ledger that is durable at one call."""

    def __init__(self, medium: Medium, process: ModelProcess) -> None:
        self._medium = medium
        self._process = process

    def source(self, key: str) -> SourceState | None:
        return self._medium.ledger[0].get(key)

    def file(self, path: str) -> FileState | None:
        return self._medium.ledger[1].get(path)

    def part(self, target: str) -> int:
        return self._medium.ledger[2].get(target, 1)

    def all_files(self) -> Iterator[tuple[str, FileState]]:
        yield from list(self._medium.ledger[1].items())

    def all_asides(self) -> dict[str, Aside]:
        return dict(self._medium.ledger[3])

    def commit(self, changes: Changes) -> None:
        if changes:
            with self._medium.disk.call(self._process, "commit", Path("/ledger")):
                tables = (changes.sources, changes.files, changes.parts, changes.asides)
                for table, new in zip(self._medium.ledger, tables, strict=True):
                    table.update(new)  # type: ignore[attr-defined]
                for name in [name for name, aside in changes.asides.items() if aside is None]:
                    del self._medium.ledger[3][name]

    def reopen(self) -> None:
        return


class Node:
    """A log of a node: batches and gaps, and parcels from any number on."""

    def __init__(self, name: str, items: Sequence[Batch | Gap], output: str = "files", log: str = "mainlog") -> None:
        self.source = Source(Origin(name, "default", log), "mgr1", output)
        self.items = list(items)

    def parcels(self, start: int, rng: random.Random | None = None) -> Iterator[Parcel]:
        """Parcels of up to three items that begin at or before `start`, as a node sends them."""
        left: list[Item] = [item for item in self.items if item.next > start]
        while left:
            count = rng.randint(1, 3) if rng else 2
            yield Parcel(self.source, "uuid", left[:count], 100)
            left = left[count:]

    def text(self) -> bytes:
        """What must be in the files, in this order."""
        return b"".join(i.text() if isinstance(i, Batch) else line_bytes(i, self.source) for i in self.items)


def batches(rng: random.Random, name: str, count: int) -> list[Batch | Gap]:
    """A log of `count` batches over three days, with a gap now and then."""
    found: list[Batch | Gap] = []
    number, moment = rng.choice((1, 500)), NOON_NS
    for at in range(count):
        if rng.random() < 0.15 and at:
            found.append(Gap(number, number + 9, "dropped"))
            number += 10
        records = [
            b"%s:%d " % (name.encode(), number + n) + b"x" * rng.randrange(300) for n in range(rng.randint(1, 4))
        ]
        if rng.random() < 0.2:
            records.append(b"two\nlines")
        found.append(encode(records).stamped(number, number, moment, 1))
        number += len(records)
        moment += rng.choice((10**9, 10**9, DAY_NS // 2))
    return found


class Manager:
    """Rounds over files of the model, in one thread: parcels in, `run` until all is written."""

    def __init__(self, medium: Medium, options: FileOptions | None = None, template: str = TEMPLATE) -> None:
        self.medium = medium
        self.process = medium.disk.process()
        self.ledger = ModelLedger(medium, self.process)
        self.done: list[tuple[Parcel, SourceState]] = []
        self.refused: list[Source] = []
        self._now = 0.0
        store = ModelStore(medium, self.process)
        self.asides = Asides(store, self.ledger, lambda: 1e9)
        recover(store, self.ledger, self.asides)
        self.output = FileOutput(
            store, self.ledger, Template(template, "utc"), options, clock=lambda: 1e9, asides=self.asides
        )
        self.rounds = Rounds(
            self.ledger,  # type: ignore[arg-type]
            lambda _: self.output,
            self.done.extend,
            lambda source, _state, _size: self.refused.append(source),
            clock=self._clock,
            asides=self.asides,
        )
        self.rounds.busy_seconds = float("inf")  # files stay open while there is something to write

    def _clock(self) -> float:
        self._now += 100.0  # every pause is over when it is looked at
        return self._now

    def pull(self, nodes: Sequence[Node], rng: random.Random | None = None) -> None:
        """Everything the nodes have that is not written yet, mixed, in rounds of random size."""
        streams = []
        for node in nodes:
            state = self.ledger.source(node.source.key)
            streams.append(node.parcels(state.next if state else 0, rng))
        rng = rng or random.Random(0)
        while streams:
            stream = rng.choice(streams)
            parcel = next(stream, None)
            if parcel is None:
                streams.remove(stream)
            else:
                self.rounds.put(parcel)
            if rng.random() < 0.4:
                self.rounds.step()
        self.run()

    def run(self, steps: int = 200) -> None:
        """Rounds until nothing waits."""
        for _ in range(steps):
            self.rounds.step()
            if not any(self.rounds._waiting.values()):
                return
        raise AssertionError(f"still waiting: {self.rounds._troubles}")


def written(medium: Medium, node: Node, template: str = TEMPLATE, exactly: bool = True) -> bytes:
    """What the files of a node hold, in the order of their days and parts, as far as the ledger knows them.

    A file that is longer than recorded fails: what is beyond would be there twice. Unless others append to them.
    """
    chosen = Template(template, "utc")
    targets = dict.fromkeys(chosen.expand(node.source.origin, moment) for moment in _moments(node))
    text = b""
    for target in targets:
        for number in range(1, medium.ledger[2].get(target, 1) + 1):
            path = target if number == 1 else f"{target}.part{number}"
            state = medium.ledger[1].get(path)
            if state is None or not state.sources:
                continue
            found = medium.text(path)
            assert len(found) == state.length or not exactly, path
            text += found[: state.length]
    return text


def _moments(node: Node) -> Iterator[int]:
    last = NOON_NS
    for at, item in enumerate(node.items):
        if isinstance(item, Batch):
            last = item.append_time
        else:
            last = next((i.append_time for i in node.items[at:] if isinstance(i, Batch)), last)
        yield last
