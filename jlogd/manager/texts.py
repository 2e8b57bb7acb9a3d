"""The text logs of a node: its own logs, written to files in the usual place by the same rounds as a manager's.

Each log with a `text` has a subscriber of its own, a template, and a size at which the next part is begun. One ledger
is for all of them, beside that of a manager. It is there only where a log has a text.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from jlogd.journal.journal import Journal
from jlogd.manager import orders
from jlogd.manager.aside import Asides
from jlogd.manager.compress import Compressor
from jlogd.manager.config import TextLog
from jlogd.manager.files import FileOutput
from jlogd.manager.handles import FileOptions
from jlogd.manager.ledger import LmdbLedger, SourceState
from jlogd.manager.local import LocalPull
from jlogd.manager.output import Output
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.recovery import recover
from jlogd.manager.rounds import Rounds
from jlogd.manager.store import PosixStore
from jlogd.manager.template import Origin, Template

_log = logging.getLogger("jlogd.manager")

# The subscriber of a log's text.
SUBSCRIBER = "text"
STOP_SECONDS = 10.0
ORDERS_SECONDS = 0.5


class Texts:
    """See the module's text. Methods belong to the daemon's main thread; `problems` to any."""

    def __init__(self, ledger: Path, node: str, subcluster: str, journal: Callable[[str], Journal]) -> None:
        """`journal` gives the open journal of a log. Nothing is made before a log has a text."""
        self._directory = ledger
        self._node, self._subcluster = node, subcluster
        self._journal = journal
        self._logs: dict[str, TextLog] = {}
        self._pulls: dict[str, LocalPull] = {}
        self._ledger: LmdbLedger | None = None
        self._asides: Asides | None = None
        self._rounds: Rounds | None = None
        self._compressor: Compressor | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jlogd compress")  # no thread before it has work
        self._ended = threading.Event()

    def replace(self, logs: Mapping[str, TextLog]) -> None:
        """Write these texts from now on. Raises `LogInUse`, `UsageError`, `LedgerFailed`."""
        changed = [name for name, log in self._logs.items() if logs.get(name) != log]
        for name in changed:
            self._pulls[name].stop()
        for name in changed:
            self._pulls.pop(name).join()
        fresh = {name: log for name, log in logs.items() if name not in self._pulls}
        self._logs = dict(logs)
        if fresh and self._ledger is None:
            self._open()
        for name, log in fresh.items():
            self._begin(name, log)

    def stop(self) -> None:
        """Write what was read, and let go."""
        self._ended.set()
        for pull in self._pulls.values():
            pull.stop()
        for pull in self._pulls.values():
            pull.join()
        self._pulls.clear()
        ended = self._rounds is None or self._rounds.stop(STOP_SECONDS)
        if self._compressor is not None:
            self._compressor.stop()
        if not ended:  # a disk that does not answer: the end of the process lets go of the ledger
            return _log.warning("the texts are not written within %g s; what is missing is written later", STOP_SECONDS)
        self._pool.shutdown()
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = self._rounds = None

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        for name, pull in list(self._pulls.items()):
            trouble = self._rounds.trouble(pull.source.key) if self._rounds is not None else ""
            if trouble:
                found.append(f"the text of {name} cannot be written: {trouble}")
            elif pull.error:
                found.append(f"the text of {name} is not written: {pull.error}")
        return found

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        ledger = LmdbLedger(self._directory)
        try:
            self._asides = Asides(PosixStore(), ledger)
            recover(PosixStore(), ledger, self._asides)
        except BaseException:
            ledger.close()
            raise
        self._ledger = ledger
        self._rounds = Rounds(self._ledger, self._output, self._committed, self._refused, asides=self._asides)
        self._rounds.start()
        threading.Thread(target=self._carry_out, name="jlogd text orders", daemon=True).start()

    def _begin(self, name: str, log: TextLog) -> None:
        assert self._ledger is not None and self._rounds is not None
        origin = Origin(self._node, self._subcluster, name, self._node)
        # An output is known by all that it was made from: one that changed is another one.
        made_from = msgspec.json.encode(log).decode()
        source = Source(origin, SUBSCRIBER, f"files:{made_from}")
        pull = LocalPull(lambda: self._journal(name), source, self._rounds.put, self._ledger.source(source.key))
        self._pulls[name] = pull
        pull.start()
        _log.info("the text of %s goes to %s", name, log.template)

    def _output(self, name: str) -> Output:
        assert self._ledger is not None
        log = msgspec.json.decode(name.partition(":")[2], type=TextLog)
        options = FileOptions(file_mode=int(log.file_mode, 8), size_max=log.size_max)
        store = PosixStore()
        output = FileOutput(store, self._ledger, Template(log.template, log.time_zone), options, asides=self._asides)
        if log.compress == "zstd":
            self._compressor = self._compressor or Compressor(store, self._ledger, self._pool.submit)
            output.compress(self._compressor)
        return output

    def _committed(self, done: list[tuple[Parcel, SourceState]]) -> None:
        for parcel, state in done:
            pull = self._pulls.get(parcel.source.origin.log)
            if pull is not None:
                pull.committed(parcel, state)

    def _refused(self, source: Source, state: SourceState | None, size: int) -> None:
        pull = self._pulls.get(source.origin.log)
        if pull is not None:
            pull.again(state, size)

    def _carry_out(self) -> None:
        """The thread of the orders."""
        while not self._ended.wait(ORDERS_SECONDS):
            try:
                for path, order in orders.given(self._directory):
                    if self._obeyed(order):
                        orders.done(path)
            except Exception:  # the next order is to be heard whatever became of this one
                _log.exception("in the thread of the orders")

    def _obeyed(self, order: orders.Order) -> bool:
        """Whether there is nothing more to do for an order; it is not kept for another time."""
        pull = self._pulls.get(order.log) if isinstance(order, orders.Resume) else None
        if pull is None:
            return False
        if pull.stopped:
            pull.resume()
            return True
        if pull.streaming:
            _log.warning("%s goes on by itself: the order to resume it is dropped", pull.source)
        return pull.streaming
