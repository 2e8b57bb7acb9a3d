"""The rounds: whatever has arrived is written, synced, and committed together with where it came from.

    parcels --put--> waiting, by source --round--> output.write: appended and synced
                                                   ledger.commit: files and positions, one transaction
                                                   committed: the nodes may forget

The ledger is the authority: of what arrives only what follows the recorded position is written. What comes twice is
skipped, what leaves a hole is refused. So it does not matter what a node or a connection did.

A round takes what is there, up to ROUND_BYTES and SOURCES_MAX, each source in its turn; while one is under way the next
gathers. When a round fails it is done again source by source, so that a file that cannot be written holds up only what
goes into it; that source waits, with growing pauses, and so does what follows it.

Locking: `_changed` guards the parcels that wait and the troubles; nothing is written while it is held. The rest belongs
to the thread of the rounds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from jlogd.errors import FormatError, JlogError
from jlogd.journal.batch import Batch, Gap
from jlogd.manager.aside import Asides
from jlogd.manager.follow import HoleError, follow
from jlogd.manager.ledger import Changes, LedgerFailed, LmdbLedger, SourceState
from jlogd.manager.output import Output
from jlogd.manager.parcel import Item, Parcel, Source
from jlogd.manager.trouble import Trouble, longer

_log = logging.getLogger("jlogd.manager")

# One round: large enough that its sync is spread over much, small enough for the memory of a few.
ROUND_BYTES = 32 << 20
SOURCES_MAX = 500
# How often outputs are given time, and the longest wait for something to do; and how often while there is always more.
IDLE_SECONDS = 1.0
BUSY_SECONDS = 10.0

# A parcel, what of it was to be written, and where its source is then.
Outcome = tuple[Parcel, list[Item], SourceState]


class Rounds:
    """See the module's text. `put`, `trouble`, `waiting` and `stats` may be called from any thread."""

    def __init__(
        self,
        ledger: LmdbLedger,
        output: Callable[[str], Output],
        committed: Callable[[list[tuple[Parcel, SourceState]]], None],
        refused: Callable[[Source, SourceState | None, int], None],
        clock: Callable[[], float] = time.monotonic,
        asides: Asides | None = None,
    ) -> None:
        """`output` gives the output of a name. `committed` is told of parcels and the positions they brought their
        sources to; `refused` of a source whose parcels were thrown away, so many bytes: it is to be pulled again from
        that position. `asides` are those of files, which have work whether anything is written or not."""
        self._ledger = ledger
        self._output = output
        self._committed = committed
        self._refused = refused
        self._clock = clock
        self._asides = asides
        self.busy_seconds = BUSY_SECONDS
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Parcel]] = {}
        self._troubles: dict[str, Trouble] = {}
        self._left: dict[str, Callable[[Parcel], None]] = {}  # where parcels of sources go that others write now
        self._states: dict[str, SourceState] = {}
        self._outputs: dict[str, Output] = {}
        self._ledger_trouble: Trouble | None = None
        self._idled = 0.0
        self._stopping = False
        self._counters = {"rounds": 0, "records": 0, "bytes": 0, "lost": 0, "failures": 0, "refused": 0}
        self._thread = threading.Thread(target=self._run, name="jlogd rounds", daemon=True)

    # ---- from any thread -------------------------------------------------------------------------------------------

    def put(self, parcel: Parcel) -> None:
        """Take a parcel; those of one source in order."""
        with self._changed:
            if self._left.pop(parcel.source.key, None) is not None:
                self._states.pop(parcel.source.key, None)  # others were at it meanwhile
            waiting = self._waiting.setdefault(parcel.source.key, deque())
            if waiting and waiting[0].source != parcel.source:  # its rule changed: what waits goes there, too
                for before in waiting:
                    before.source = parcel.source
                self._troubles.pop(parcel.source.key, None)
            waiting.append(parcel)
            self._changed.notify()

    def leave(self, key: str, elsewhere: Callable[[Parcel], None]) -> None:
        """Other rounds write a source from now on: `elsewhere` gets what waits of it, and what cannot be written."""
        with self._changed:
            self._left[key] = elsewhere
            self._troubles.pop(key, None)
            waiting = self._waiting.pop(key, ())
        for parcel in waiting:
            elsewhere(parcel)

    def trouble(self, key: str) -> str:
        """Why a source waits; empty when it does not."""
        found = self._ledger_trouble or self._troubles.get(key)
        return found.error if found else ""

    def waiting(self, key: str) -> bool:
        """Whether parcels of a source are still to be written."""
        with self._changed:
            return bool(self._waiting.get(key))

    def stats(self) -> dict[str, int]:
        """What was counted since the start."""
        found = dict(self._counters)
        for output in list(self._outputs.values()):
            for name, number in output.stats().items():
                found[f"files_{name}"] = found.get(f"files_{name}", 0) + number
        return found

    @property
    def failed(self) -> bool:
        """Whether the thread ended by itself."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Write what waits, as far as it can be written by then, and let go of the outputs; whether all that is done.
        If not, the ledger is still in use."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._stopping and not self._due():
                        self._changed.wait(self._pause())
                    stopping = self._stopping
                if not self.step() and stopping:
                    break
        except BaseException:
            _log.exception("the rounds end")
            raise
        finally:
            self.end()

    def step(self) -> bool:
        """One round, if there is anything to do; whether there was."""
        parcels = self._take()
        try:
            if parcels:
                self._round(parcels)
            if self._clock() - self._idled > (self.busy_seconds if parcels else IDLE_SECONDS):
                self._idle()
        except LedgerFailed as error:
            self._ledger_failed(error)
        return bool(parcels)

    def end(self) -> None:
        """Let go of the outputs."""
        changes = Changes()
        for output in self._outputs.values():
            _merge(changes, output.close())
        self._look(changes)
        try:
            self._ledger.commit(changes)
        except LedgerFailed as error:
            _log.error("%s", error)

    def state(self, source: Source) -> SourceState | None:
        """How far a source was pulled. Belongs to the thread of the rounds, and to others before it starts."""
        return self._states.get(source.key) or self._ledger.source(source.key)

    def _due(self) -> bool:
        """With `_changed` held: whether there is something to write now."""
        if self._ledger_trouble is not None and self._clock() < self._ledger_trouble.until:
            return False
        return any(self._may(key) for key, parcels in self._waiting.items() if parcels)

    def _may(self, key: str) -> bool:
        trouble = self._troubles.get(key)
        return trouble is None or self._clock() >= trouble.until

    def _pause(self) -> float:
        """With `_changed` held: how long there is nothing to do, at most."""
        untils = [
            self._troubles[key].until for key, parcels in self._waiting.items() if parcels and key in self._troubles
        ]
        if self._ledger_trouble is not None:
            untils = [self._ledger_trouble.until]
        return max(0.01, min([IDLE_SECONDS, *(until - self._clock() for until in untils)]))

    def _take(self) -> list[Parcel]:
        """What the next round has: of each source in its turn, as long as there is room."""
        with self._changed:
            if not self._due():
                return []
            taken: list[Parcel] = []
            size, before = 0, -1
            ready = [key for key, parcels in self._waiting.items() if parcels and self._may(key)][:SOURCES_MAX]
            while size < ROUND_BYTES and len(taken) != before:
                before = len(taken)
                for key in ready:
                    if self._waiting[key] and size < ROUND_BYTES:
                        taken.append(self._waiting[key].popleft())
                        size += taken[-1].bytes
            for key in ready:  # whoever had a turn goes to the end
                rest = self._waiting.pop(key)
                if rest:
                    self._waiting[key] = rest
        return sorted(taken, key=lambda parcel: parcel.source.key)  # stable: in order within a source

    def _put_back(self, parcels: Sequence[Parcel]) -> None:
        with self._changed:
            left = [(parcel, self._left[parcel.source.key]) for parcel in parcels if parcel.source.key in self._left]
            for parcel in reversed([parcel for parcel in parcels if parcel.source.key not in self._left]):
                waiting = self._waiting.setdefault(parcel.source.key, deque())
                if waiting:  # its rule may have changed meanwhile
                    parcel.source = waiting[0].source
                waiting.appendleft(parcel)
        for parcel, elsewhere in left:
            elsewhere(parcel)

    # ---- a round ---------------------------------------------------------------------------------------------------

    def _round(self, parcels: list[Parcel]) -> None:
        """Raises `LedgerFailed`; what is not in the ledger waits again then."""
        left = parcels
        try:
            left = sound = self._sound(parcels)
            if self._tried(sound):
                return
            self._counters["failures"] += 1
            for _, group in groupby(sound, key=lambda parcel: parcel.source.key):
                alone = list(group)
                self._tried(alone, is_last=True)
                left = left[len(alone) :]
        except LedgerFailed:
            self._put_back(left)
            raise

    def _tried(self, parcels: list[Parcel], is_last: bool = False) -> bool:
        """Commit; whether it could be. When nothing smaller is to be tried, what could not be written waits."""
        try:
            outcome, changes, used = self._write(parcels)
        except LedgerFailed:
            raise
        except Exception as error:  # whatever one source brings, the others are to be written
            if is_last:
                self._failed(parcels, error)
            return False
        # Outside of the attempt: what fails from here on is in the ledger, and may not be written again.
        self._settle(parcels, outcome, changes, used)
        return True

    def _sound(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """The parcels that follow what was written; those of a source that do not are thrown away, and it is told."""
        found: list[Parcel] = []
        for _, group in groupby(parcels, key=lambda parcel: parcel.source.key):
            mine = list(group)
            try:
                self._fresh(mine)
                found += mine
            except HoleError as error:
                self._refuse(mine[0].source, str(error), sum(parcel.bytes for parcel in mine))
        return found

    def _refuse(self, source: Source, why: str, size: int) -> None:
        self._counters["refused"] += 1
        _log.error("%s: %s; it is pulled again from what was written", source, why)
        with self._changed:
            size += sum(parcel.bytes for parcel in self._waiting.pop(source.key, ()))
        self._refused(source, self.state(source), size)

    def _fresh(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        """Each parcel of one source with what of it is to be written, and the state it leads to."""
        state = self.state(parcels[0].source)
        found = []
        for parcel in parcels:
            items, state = follow(parcel, state)
            found.append((parcel, items, state))
        return found

    def _write(self, parcels: Sequence[Parcel]) -> tuple[list[Outcome], Changes, list[tuple[Output, Changes]]]:
        """Write, sync and commit; raises when nothing of it is in the ledger."""
        outcome: list[Outcome] = []
        for _, group in groupby(parcels, key=lambda parcel: parcel.source.key):
            outcome += self._fresh(list(group))
        changes = Changes(sources={parcel.source.key: state for parcel, _, state in outcome})
        fresh = [replace(parcel, items=items, era=state.restarts) for parcel, items, state in outcome if items]
        used: list[tuple[Output, Changes]] = []
        for name in {parcel.source.output for parcel in fresh}:
            output = self._output_of(name)
            made = output.write([parcel for parcel in fresh if parcel.source.output == name])
            used.append((output, made))
            _merge(changes, made)
        self._ledger.commit(changes)
        return outcome, changes, used

    def _settle(
        self, parcels: Sequence[Parcel], outcome: Sequence[Outcome], changes: Changes,
        used: Sequence[tuple[Output, Changes]],
    ) -> None:  # fmt: skip
        """Tell everybody what is in the ledger."""
        self._states.update(changes.sources)
        self._ledger_trouble = None
        for output, made in used:
            output.settled(made)
        self._count(outcome)
        for parcel in parcels:
            self._troubles.pop(parcel.source.key, None)
        self._committed([(parcel, state) for parcel, _, state in outcome])

    def _count(self, outcome: Sequence[Outcome]) -> None:
        self._counters["rounds"] += 1
        for _, items, _ in outcome:
            for item in items:
                if isinstance(item, Batch):
                    self._counters["records"] += item.count
                    self._counters["bytes"] += item.raw_bytes
                elif isinstance(item, Gap):
                    self._counters["lost"] += item.count

    def _output_of(self, name: str) -> Output:
        if name not in self._outputs:
            self._outputs[name] = self._output(name)
        return self._outputs[name]

    # ---- trouble ---------------------------------------------------------------------------------------------------

    def _failed(self, parcels: Sequence[Parcel], error: Exception) -> None:
        """One source cannot be written: it waits, and its parcels with it. What came damaged is asked for again."""
        source = parcels[0].source
        if isinstance(error, FormatError):
            return self._refuse(source, f"what came is damaged: {error}", sum(parcel.bytes for parcel in parcels))
        self._put_back(parcels)
        if not self.waiting(source.key):
            return None
        expected = isinstance(error, JlogError | OSError)
        text = str(error) if expected else f"{type(error).__name__}: {error}; this is a mistake of jlogd"
        before = self._troubles.get(source.key)
        trouble = longer(before, text, self._clock())
        with self._changed:
            self._troubles[source.key] = trouble
        if before is None or before.error != trouble.error:
            _log.error("%s cannot be written: %s", source, trouble.error, exc_info=None if expected else error)

    def _ledger_failed(self, error: LedgerFailed) -> None:
        """Whether the last transaction is there is not known: open the ledger anew, and believe what it says."""
        trouble = longer(self._ledger_trouble, str(error), self._clock())
        if self._ledger_trouble is None:
            _log.error("%s", error)
        self._ledger_trouble = trouble
        # Also when it cannot be opened: nothing is to be written, or cut, by what was believed before.
        self._states.clear()
        for output in self._outputs.values():
            output.reset()
        if self._asides is not None:
            self._asides.reset()
        with suppress(LedgerFailed):
            self._ledger.reopen()

    def _idle(self) -> None:
        self._idled = self._clock()
        changes = Changes()
        for output in self._outputs.values():
            _merge(changes, output.idle(time.time()))
        self._look(changes)
        self._ledger.commit(changes)

    def _look(self, changes: Changes) -> None:
        """Whether what was set aside has come again."""
        if self._asides:
            self._asides.look(time.time())
            changes.asides.update(self._asides.take_pending())


def _merge(into: Changes, more: Changes) -> None:
    into.sources.update(more.sources)
    into.files.update(more.files)
    into.parts.update(more.parts)
    into.asides.update(more.asides)
