"""Verifying against the journals: is what the nodes still hold in the files, each record once and in order?

    the node     its log is read, without a name, from the oldest record there is up to the first not yet pulled; of
                 what belongs into one path, the lines are counted and hashed
    the files    of one log only: the last so many lines of all parts of the path must have that hash, marked lines left
                 out on both sides. So nothing is missing, doubled, changed or in another order.
                 of several logs, or with parts that were left to someone else: each batch must stand in them, in order.
                 That nothing is there twice is for the ledger's counts then.

Records that a marked line of the file says are missing are not asked for, nor what was pulled before the log began
anew. It needs no manager to run, and one may run meanwhile: the ledger is looked at as it is at one moment. A hash for
each path is held, and one batch.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

import msgspec
import zstandard

from jlogd.entry import open as open_log
from jlogd.errors import JlogError
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.types import LogStat
from jlogd.log import Log
from jlogd.manager.census import open_on
from jlogd.manager.config import ManagerConfig, TextLog, wanted
from jlogd.manager.ledger import FileState, LmdbLedger, SourceState
from jlogd.manager.parcel import Source
from jlogd.manager.template import Origin, Template

READ_BYTES = 4 << 20
_MARK = b"--- jlogd: "
_MARKS = re.compile(rb"^--- jlogd: [^\n]* ---\n", re.MULTILINE)
_MISSING = re.compile(rb"^--- jlogd: .* (?:is|are) missing here, (\d+) to (\d+): .* ---$")

Judgement = Literal["right", "wrong", "unknown"]


class JournalReport(msgspec.Struct, kw_only=True):
    """One log of one node: so many records from `first` on were compared; `judgement` unknown: they could not be."""

    source: str
    judgement: Judgement
    first: int = 0
    records: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a source come from and go to; `why` says why that is not known."""

    source: Source | None = None
    template: Template | None = None
    open: Callable[[], Log] | None = None
    why: str = ""


class Expected(Protocol):
    """What the files of one path must hold."""

    def add(self, text: bytes) -> bool:
        """More lines of it; False when they are not there."""

    def holds(self) -> bool:
        """Whether all of it is there; asked once, at the end."""

    def close(self) -> None:
        """Let go of the files."""


def compare(
    ledger: LmdbLedger, place_of: Callable[[str], Place], progress: Callable[[int, int], None] = lambda *_: None
) -> list[JournalReport]:
    """Every source whose records go into files; `place_of` a key of the ledger. `progress`: sources done, and all."""
    sources, files = ledger.snapshot()
    wanted = {key: state for key, state in sources.items() if state.output == "files"}
    reports = []
    for key, state in wanted.items():
        try:
            reports.append(_compare(key, state, files, place_of(key)))
        except (JlogError, OSError) as error:
            reports.append(JournalReport(source=key, judgement="unknown", text=str(error)))
        progress(len(reports), len(wanted))
    return reports


def pulled(config: ManagerConfig, name: str) -> Callable[[str], Place]:
    """Where what the manager `name` pulls comes from and goes to, by its configuration."""
    nodes = {node.name: node for node in config.node}

    def place_of(key: str) -> Place:
        node_name, log, _ = key.split("/")
        node = nodes.get(node_name)
        if node is None:
            return Place(why=f"{node_name} is not in the configuration any more")
        source = next((one for one in wanted(config, name, node, [log]) if one.key == key), None)
        kind, _, text = source.output.partition(":") if source is not None else ("", "", "")
        if source is None or kind != "files":
            return Place(why="no rule of the configuration has it written to files any more")
        return Place(source, Template(text, config.time_zone), lambda: open_on(config, node, log))

    return place_of


def written(texts: Mapping[str, TextLog], origin: Origin, spool: Path) -> Callable[[str], Place]:
    """The same for the text logs of a node; of `origin` the log is each one's own."""

    def place_of(key: str) -> Place:
        _, log, subscriber = key.split("/")
        text = texts.get(log)
        if text is None:
            return Place(why="the configuration has no text for it any more")
        source = Source(origin._replace(log=log), subscriber, "files:")
        return Place(source, Template(text.template, text.time_zone), lambda: open_log(spool / log))

    return place_of


def _compare(key: str, state: SourceState, files: Mapping[str, FileState], place: Place) -> JournalReport:
    if place.open is None or place.source is None or place.template is None:
        return JournalReport(source=key, judgement="unknown", text=place.why)
    with place.open() as log:
        stat = log.stat()
        if stat.uuid != state.uuid:
            return JournalReport(source=key, judgement="unknown", text="the log was made anew since")
        if stat.next < state.next:
            return JournalReport(source=key, judgement="unknown", text=_short(stat, state))
        first = max(stat.first, state.since or state.start)
        if first >= state.next:
            return JournalReport(
                source=key, judgement="right", first=state.next, text="the node holds none of it any more"
            )
        run = _Run(key, state, files, place.source, place.template)
        try:
            for item in log.subscriber(start=first):
                if item.first >= state.next:
                    break
                run.take(item)
            return run.report()
        finally:
            run.close()


def _short(stat: LogStat, state: SourceState) -> str:
    return (
        f"the log ends at record {stat.next - 1}, and {state.next - 1} was pulled: was an old copy of its spool "
        "restored? See jlogctl manager status"
    )


@dataclass
class _Run:
    """One source being compared."""

    key: str
    state: SourceState
    files: Mapping[str, FileState]
    source: Source
    template: Template
    first: int = 0  # the first record that is compared
    records: int = 0
    wrong: str = ""
    expected: dict[str, Expected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mine = [path for path, file in self.files.items() if self.key in file.sources and file.status != "moved"]
        lossy = [path for path in mine if self.files[path].sources[self.key][1]]
        self._moved = {f.target for f in self.files.values() if f.status == "moved" and self.key in f.sources}
        self._lost = [span for path in lossy for span in _marked(path, self.files[path], str(self.source))]

    def take(self, item: Batch | Gap) -> None:
        if self.wrong:
            return
        if isinstance(item, Gap):
            if not any(low <= item.first and item.last <= high for low, high in self._lost):
                # Records that were pulled, and that the node has lost since: what is before them cannot be placed.
                self.close()
                self.first = self.records = 0
            return
        for batch in self._wanted(item):
            self.first = self.first or batch.first
            self.records += batch.count
            target = self.template.expand(self.source.origin, batch.append_time)
            if target not in self.expected:
                self.expected[target] = self._of(target)
            if not self.expected[target].add(batch.text()):
                self.wrong = f"records {batch.first} to {batch.next - 1} are not in {target}, or not in order"

    def report(self) -> JournalReport:
        self.wrong = self.wrong or next(
            (f"{target} does not end with the records that the node holds, {self.first} and on: some are missing, "
             "doubled, changed or in another order" for target, one in self.expected.items() if not one.holds()), ""
        )  # fmt: skip
        excuse = self._excuse() if self.wrong else ""
        judgement: Judgement = "unknown" if excuse else "wrong" if self.wrong else "right"
        text = self.wrong + excuse
        return JournalReport(source=self.key, judgement=judgement, first=self.first, records=self.records, text=text)

    def close(self) -> None:
        for one in self.expected.values():
            one.close()
        self.expected.clear()

    def _excuse(self) -> str:
        """Why what was not found may be right all the same."""
        if self.state.restarts and (self._lost or not self.state.since):
            return "; but the log began anew, or elsewhere by decision: marked lines in the files tell"
        if self._moved & set(self.expected):
            return "; but a file of it was renamed or removed, and may have had them"
        if any(isinstance(one, _Nothing) for one in self.expected.values()):
            return "; but the ledger knows no file there at all: they may have been written by another template"
        return ""

    def _wanted(self, batch: Batch) -> Iterator[Batch]:
        """What of a batch is to be in the files."""
        if batch.next <= self.state.next and not any(
            low < batch.next and batch.first <= high for low, high in self._lost
        ):
            yield batch
            return
        for at, record in enumerate(batch.records(), batch.first):
            if at < self.state.next and not any(low <= at <= high for low, high in self._lost):
                yield encode([record]).stamped(at, batch.committed, batch.append_time, batch.epoch)

    def _of(self, target: str) -> Expected:
        parts = sorted(
            ((_number(path, target), path, file) for path, file in self.files.items()
             if file.target == target and file.status != "moved" and file.sources),
        )  # fmt: skip
        if not parts:
            return _Nothing()
        found = [(path, file) for _, path, file in parts]
        alone = all(set(file.sources) == {self.key} and file.status != "left" for _, file in found)
        return _End(found) if alone else _Within(found)


# ---- what the files of a path must hold ------------------------------------------------------------------------------


class _Nothing:
    """A path that the ledger knows no file of."""

    def add(self, text: bytes) -> bool:
        return False

    def holds(self) -> bool:
        return False

    def close(self) -> None:
        return


class _End:
    """The last lines of files, by count and hash."""

    def __init__(self, parts: Sequence[tuple[str, FileState]]) -> None:
        self._parts = parts
        self._lines = 0
        self._hash = hashlib.blake2b()

    def add(self, text: bytes) -> bool:
        text = _unmarked(text)
        self._lines += text.count(b"\n")
        self._hash.update(text)
        return True

    def holds(self) -> bool:
        there = sum(piece.count(b"\n") for piece in self._pieces())
        before, found = there - self._lines, hashlib.blake2b()
        if before < 0:
            return False
        for piece in self._pieces():
            count = piece.count(b"\n")
            if before < count:
                found.update(piece.split(b"\n", before)[-1] if before else piece)
            before = max(0, before - count)
        return found.digest() == self._hash.digest()

    def close(self) -> None:
        return

    def _pieces(self) -> Iterator[bytes]:
        """The contents without marked lines, in pieces of whole lines."""
        for path, state in self._parts:
            for lines in _lines(path, state):
                yield _unmarked(lines)


class _Within:
    """Batches that stand in files in order, with other lines between them."""

    def __init__(self, parts: Sequence[tuple[str, FileState]]) -> None:
        self._open = ExitStack()
        self._maps = [self._map(path, state) for path, state in parts if state.length]
        self._part = self._at = 0

    def add(self, text: bytes) -> bool:
        part, at = self._part, self._at
        while part < len(self._maps):
            found = self._maps[part].find(text, at)
            if found < 0:
                part, at = part + 1, 0
            elif found and self._maps[part][found - 1 : found] != b"\n":
                at = found + 1
            else:
                self._part, self._at = part, found + len(text)
                return True
        return False

    def holds(self) -> bool:
        return True

    def close(self) -> None:
        self._open.close()

    def _map(self, path: str, state: FileState) -> mmap.mmap:
        file = self._open.enter_context(_opened(path, state))
        if not isinstance(file, io.BufferedReader):  # decompressed as it is read
            file = self._open.enter_context(_copied(file))
        return self._open.enter_context(mmap.mmap(file.fileno(), state.length, access=mmap.ACCESS_READ))


def _opened(path: str, state: FileState) -> BinaryIO:
    """A file, or what was made of it: it may have been compressed since the ledger was looked at."""
    if state.status != "compressed":
        with suppress(FileNotFoundError):
            return open(path, "rb")
    return cast(BinaryIO, zstandard.open(f"{path}.zst", "rb"))


def _copied(file: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  whoever asked for it closes it
    while piece := file.read(READ_BYTES):
        copy.write(piece)
    copy.flush()
    return cast(BinaryIO, copy)


def _lines(path: str, state: FileState) -> Iterator[bytes]:
    """What was written to a file, in pieces of whole lines."""
    left, rest = state.length, b""
    with _opened(path, state) as file:
        while left and (piece := file.read(min(left, READ_BYTES))):
            left -= len(piece)
            whole, newline, after = piece.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
                rest = after
            else:
                rest += piece
    if rest:
        yield rest


def _unmarked(lines: bytes) -> bytes:
    return _MARKS.sub(b"", lines) if _MARK in lines else lines


def _marked(path: str, state: FileState, name: str) -> Iterator[tuple[int, int]]:
    """(first, last) of the records of a source that a file says are missing."""
    for lines in _lines(path, state):
        for line in _MARKS.findall(lines) if _MARK in lines else ():
            found = _MISSING.match(line.rstrip(b"\n"))
            if found and f" of {name} ".encode() in line:
                yield int(found[1]), int(found[2])


def _number(path: str, target: str) -> int:
    return int(path.removeprefix(f"{target}.part")) if path != target else 1
