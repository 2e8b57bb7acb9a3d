"""Text files, exactly once: appended to, synced, and only then recorded in the ledger.

    open        is each file what the ledger says? what is new goes into the ledger,      (handles.py)
                with the mark `open`                                                [synced transaction, if any]
    append      all that the round has for a file, in one writev: several files
    sync        at a time, each synced as soon as it is written
    ...         the rounds commit lengths and positions together                    [synced transaction]

After a crash a file marked `open` may be longer than the ledger says, by what a round had written and not committed: it
is cut back to the recorded length, and the records come again. What is cut off is set aside before, by aside.py, until
it has come again: it may be somebody's. It is done at the start, by recovery.py; here only for what could not be
reached then. After a round that failed while this ran it is known what was appended, and only that is cut off, by
undo.py. In no other way is a file ever made shorter.

When one of the files fails, the others of the round are written to their end before anything else is done: nothing is
appended behind the back of whoever cuts back.

Locking: none. The threads that append and sync have a file each, and the thread of the rounds waits for all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from crc32c import crc32c

from jlogd.journal.batch import Batch, Gap
from jlogd.manager.aside import Asides
from jlogd.manager.compress import Compressor
from jlogd.manager.handles import FileOptions, Handle, OpenFiles
from jlogd.manager.job import Job, rest, text_of
from jlogd.manager.ledger import Changes, FileState, Ledger
from jlogd.manager.output import OutputFailed
from jlogd.manager.parcel import Parcel, Source, line_bytes
from jlogd.manager.store import Map, Store
from jlogd.manager.template import Template

_log = logging.getLogger("jlogd.manager")

# How much of a file is read at a time, where it is read at all.
READ_BYTES = 1 << 20


@dataclass(slots=True)
class Work:
    """One file of a round, what it gets, and how that went. `crc` is that of the file with it."""

    handle: Handle
    job: Job
    crc: int = 0
    error: Exception | None = None

    def do(self) -> None:
        """Append and sync; whatever fails is kept for the thread of the rounds, which waits for the other files."""
        try:
            self._append()
            self._sync()
        except Exception as error:
            self.error = error

    def _append(self) -> None:
        handle, buffers = self.handle, list(self.job.buffers)
        handle.dirty, handle.ours, handle.done = True, self.job.buffers, 0
        while buffers:
            done = handle.file.append(buffers)
            handle.done += done
            buffers = rest(buffers, done)
        self.crc = handle.state.crc
        for buffer in self.job.buffers:
            self.crc = crc32c(buffer, self.crc)

    def _sync(self) -> None:
        try:
            self.handle.file.sync()
        except OSError:
            self.handle.sync_failed = True
            raise


class FileOutput:
    """See the module's text."""

    def __init__(
        self, store: Store, ledger: Ledger, template: Template, options: FileOptions | None = None,
        map_files: Map = map, clock: Callable[[], float] = time.time, asides: Asides | None = None,
    ) -> None:  # fmt: skip
        """`map_files` may work on several files at a time. `asides` is one for all outputs of a ledger."""
        self._store = store
        self._ledger = ledger
        self._template = template
        self._map = map_files
        self._clock = clock
        self._asides = asides or Asides(store, ledger, clock)
        self._open = OpenFiles(store, ledger, template.base, options or FileOptions(), clock, self._asides)
        self._compressor: Compressor | None = None

    # ---- the interface ---------------------------------------------------------------------------------------------

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        jobs = self._jobs(parcels)
        self._open.begin(jobs)
        works = [Work(self._open.ready(target, job.until), job) for target, job in jobs.items()]
        self._open.flush(self._map)
        pending = self._open.pending
        pending.asides.update(self._asides.pending)
        if pending:
            # Before a byte is appended: a file that is longer than recorded is known to be ours.
            self._ledger.commit(pending)
            self._open.take_pending()
            self._asides.take_pending()
        self._do(works)
        return Changes(files={work.handle.path: self._grown(work) for work in works})

    def settled(self, changes: Changes) -> None:
        self._open.settled(changes)
        self._open.counters["rounds"] += 1
        if self._asides:
            self._asides.look(self._clock(), {state.target for state in changes.files.values()})

    def idle(self, now: float) -> Changes:
        self._open.close_idle(now)
        changes = self._open.take_pending()
        if self._compressor is not None:
            done = self._compressor.step(now)
            done.files = {path: state for path, state in done.files.items() if path not in changes.files}
            changes.files.update(done.files)
            self._open.counters["compressed"] += len(done.files)
        return changes

    def compress(self, compressor: Compressor) -> None:
        """Have files compressed whose date is over; told before the first round."""
        self._compressor = compressor
        compressor.watch(self._open.has_path)

    def reset(self) -> None:
        self._open.reset()

    def close(self) -> Changes:
        self._open.close()
        return self._open.take_pending()

    def stats(self) -> dict[str, int]:
        return {**dict(self._open.counters), "open": len(self._open)}

    # ---- what a round has for each file ----------------------------------------------------------------------------

    def _jobs(self, parcels: Sequence[Parcel]) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        last_time: dict[str, int] = {}
        for parcel in parcels:
            source = parcel.source
            for at, item in enumerate(parcel.items):
                moment = item.append_time if isinstance(item, Batch) else self._time_near(parcel, at, last_time)
                last_time[source.key] = moment
                target = self._target(source, moment)
                job = jobs.get(target) or jobs.setdefault(target, Job(target, self._over(source, moment, target)))
                if isinstance(item, Batch):
                    data, lines = text_of(item)
                    job.add(source.key, data, lines, item.count, 0)
                else:
                    lost = item.count if isinstance(item, Gap) else 0
                    job.add(source.key, [line_bytes(item, source)], 1, 0, lost)
        return jobs

    def _time_near(self, parcel: Parcel, at: int, last_time: dict[str, int]) -> int:
        """The time of something that has none: that of the batch after it, else before it, else now."""
        for item in parcel.items[at:]:
            if isinstance(item, Batch):
                return item.append_time
        key = parcel.source.key
        before = self._ledger.source(key)
        return last_time.get(key) or (before.last_time if before is not None else 0) or int(self._clock() * 1e9)

    def _over(self, source: Source, moment: int, target: str) -> int:
        """When the date in a path is over; asked only for files that are not open, and only when it matters."""
        known = target in self._open or self._compressor is None
        return 0 if known else self._template.over(source.origin, moment)

    def _target(self, source: Source, moment: int) -> str:
        try:
            return self._template.expand(source.origin, moment)
        except ValueError as error:
            raise OutputFailed(f"{source}: {error}; change the template of its files") from None

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _do(self, works: Sequence[Work]) -> None:
        """Append and sync. Raises what one of the files failed with, once all have ended."""
        if len(works) == 1:
            works[0].do()  # handing one file over to another thread would cost more than it gains
        else:
            for _ in self._map(Work.do, works):
                pass
        for work in works:
            if work.error is not None:
                raise work.error

    def _grown(self, work: Work) -> FileState:
        """The state of a file after its round; checks that nobody else wrote to it meanwhile."""
        handle, job, state = work.handle, work.job, work.handle.state
        length = state.length + sum(map(len, job.buffers))
        sources = dict(state.sources)
        for source, (records, lost) in job.sources.items():
            before = sources.get(source, (0, 0))
            sources[source] = before[0] + records, before[1] + lost
        lines, now = state.lines + job.lines, int(self._clock())
        grown = msgspec.structs.replace(state, length=length, crc=work.crc, lines=lines, sources=sources, written=now)
        if handle.file.size() == length:
            return grown
        return self._mixed(handle, grown)

    def _mixed(self, handle: Handle, state: FileState) -> FileState:
        """Someone else appended at the same moment. Ours is whole, by the rules of append: the file is taken as it is,
        and not written any more."""
        if handle.file.size() < state.length:
            raise OutputFailed(f"{handle.path} became shorter while it was written; it is written again elsewhere")
        crc = lines = at = 0
        while data := handle.file.pread(READ_BYTES, at):
            crc, lines, at = crc32c(data, crc), lines + data.count(b"\n"), at + len(data)
        self._open.give_up(handle.path, state.target, "someone else writes to it")
        return msgspec.structs.replace(state, length=at, crc=crc, lines=lines, status="left", open=False)
