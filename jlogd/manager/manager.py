"""A manager: hub, rounds, ledger and outputs put together.

    hub  --parcels-->  rounds  --> outputs, ledger
     ^------ committed ---'

Start: the ledger is taken (one manager for one ledger), files are cut back to what it says, the rounds begin, nodes are
connected. Stop: the hub reads no more, the rounds write what they have, the nodes are told; so nothing is pulled twice
after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from jlogd.manager import orders
from jlogd.manager.aside import Asides
from jlogd.manager.compress import Compressor
from jlogd.manager.config import ManagedNode, ManagerConfig, output_of, wanted
from jlogd.manager.files import FileOutput
from jlogd.manager.handles import FileOptions
from jlogd.manager.hub import Hub
from jlogd.manager.ledger import LmdbLedger
from jlogd.manager.output import Output
from jlogd.manager.outputs import JournalOutput, StdoutOutput, SyslogOutput
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.recovery import recover
from jlogd.manager.rounds import Rounds
from jlogd.manager.status import (
    STUCK_SECONDS,
    Leaving,
    ManagerStatus,
    is_away,
    is_drained,
    node_status,
    problems,
    pull_status,
    waits_for,
)
from jlogd.manager.store import PosixStore
from jlogd.manager.template import Template
from jlogd.wire.keys import read_pair
from jlogd.wire.shared import note

_log = logging.getLogger("jlogd.manager")

# Files of a round are synced by so many threads: file systems merge what is synced at the same time.
SYNC_THREADS = 8
# How often orders are looked for.
ORDERS_SECONDS = 0.5
# At the end: time to write what was read.
STOP_SECONDS = 10.0


class Manager:
    """See the module's text. `start`, `reload` and `stop` belong to one thread."""

    def __init__(self, config: ManagerConfig, name: str, ledger: Path) -> None:
        """`name` is the manager's, `ledger` the directory of its ledger. Raises `LogInUse`, `UsageError`,
        `BadKey`, `LedgerFailed`; nothing runs yet."""
        self.config = config
        self.name = config.name or name
        pair = read_pair(config.key) if config.key else None
        self.ledger = LmdbLedger(ledger)
        self._pool = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="jlogd sync")
        self._compressor: Compressor | None = None
        self._asides = Asides(PosixStore(), self.ledger)
        self.rounds = self._make_rounds(self._asides)
        # Those of outputs other than files, which wait for somebody else: each by itself.
        self._others: dict[str, Rounds] = {}
        self._written_by: dict[str, Rounds] = {}  # by source
        who = f"manager {self.name}, {note()}"
        self.hub = Hub(lambda source: self.ledger.source(source.key), self._put, config.memory, who, pair)
        self.stuck_seconds = STUCK_SECONDS
        self._leaving: Leaving = ""
        self._leaving_since = 0.0
        self._waits: list[str] = []
        self._away: list[str] = []
        self._asked = 0.0
        self._order: Path | None = None  # that it is decommissioned by
        self._is_gone = False  # no nodes any more
        self._deciding = threading.Lock()  # guards what nodes the hub has: of `reload`, and of the orders' thread
        self._cut_back = 0
        self._stopped = threading.Event()
        self._clerk = threading.Thread(target=self._carry_out, name="jlogd orders", daemon=True)

    def start(self) -> None:
        """Begin to pull. Raises `LedgerFailed`."""
        self._cut_back = recover(PosixStore(), self.ledger, self._asides)
        self.rounds.start()
        self.hub.start()
        # Looked at before the nodes are: a manager that was decommissioned makes no subscribers anew.
        for path, order in orders.given(self.ledger.directory):
            if isinstance(order, orders.Decommission) and order.manager == self.name:
                self.hub.is_leaving = True
                if not order.drain:
                    self._obey(path, order)
        if not self._leaving:
            self._apply()
        self._clerk.start()
        if self._leaving:
            return _log.warning("%s", self._gone())
        config = self.config
        places = dict.fromkeys(output_of(config, rule).partition(":")[2] or "standard output" for rule in config.rules)
        nodes = f"{len(config.node)} node{'' if len(config.node) == 1 else 's'}"
        _log.info("manager %s pulls from %s into %s", self.name, nodes, ", ".join(places))

    def reload(self, config: ManagerConfig) -> None:
        """Go over to other nodes and rules. What else is in it takes effect at the next start."""
        with self._deciding:
            self.config = config
            if not self._is_gone:
                self._apply()

    def stop(self) -> None:
        """Write what was read, tell the nodes, let go of everything."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._clerk.ident is not None:
            self._clerk.join()
        self.hub.pause()
        ended = [rounds.stop(STOP_SECONDS) for rounds in [self.rounds, *self._others.values()]]
        self.hub.close()
        if self._compressor is not None:
            self._compressor.stop()
        if not all(ended):  # a disk or a server that does not answer: the end of the process lets go of the ledger
            return _log.warning("what was read is not written within %g s; it is pulled again", STOP_SECONDS)
        self._pool.shutdown()
        self.ledger.close()

    def status(self) -> ManagerStatus:
        """How everything is. From any thread."""
        sessions = list(self.hub.sessions.values())
        return ManagerStatus(
            name=self.name,
            held_bytes=self.hub.held_bytes,
            counters=self._counters(),
            nodes=[node_status(session) for session in sessions],
            pulls=[
                pull_status(session, pull, self._trouble(pull.source))
                for session in sessions
                for pull in list(session.pulls.values())
            ],
            problems=self.problems(),
            leaving=self._leaving,
            waits=self._waits,
            away=self._away,
            order=self._order.name if self._order is not None else "",
            unclaimed=self._asides.unclaimed(),
        )

    def problems(self) -> list[str]:
        """What is wrong, in words. From any thread."""
        if self.hub.failed or any(rounds.failed for rounds in [self.rounds, *list(self._others.values())]):
            return ["a thread of the manager failed: nothing is pulled until it is started again; its log says why"]
        gone = [self._gone()] if self._leaving == "let go" else []
        if self.ledger.removed():
            gone.append(
                f"the ledger {self.ledger.directory} was taken away under this manager: put it back; or start the "
                "manager anew, which begins a new ledger and new parts of its files"
            )
        return gone + problems(list(self.hub.sessions.values()), self._trouble, self.stuck_seconds)

    def _gone(self) -> str:
        undo = f"remove {self._order} and start it again" if self._order is not None else "start it again"
        return f"manager {self.name} was decommissioned and pulls nothing; to use it again, {undo}"

    def _carry_out(self) -> None:
        """The thread of the orders."""
        while not self._stopped.wait(ORDERS_SECONDS):
            try:
                for path, order in orders.given(self.ledger.directory):
                    self._obey(path, order)
            except Exception:  # the pulls go on whatever becomes of an order
                _log.exception("in the thread of the orders")

    def _obey(self, path: Path, order: orders.Order) -> None:
        if isinstance(order, orders.Resume):
            session = self.hub.sessions.get(order.node)
            pulls = list(session.pulls.values()) if session is not None else []
            phases = {pull.phase for pull in pulls if pull.source.origin.log == order.log}
            # One that has not stopped yet, after a restart of this manager, will do so when it looks at the log.
            if "stopped" in phases:
                self.hub.resume(order.node, order.log, order.at)
                orders.done(path)
            elif phases == {"streaming"}:  # it is not kept for another time: that is for a person to look at
                _log.warning("%s at %s goes on by itself: the order to resume it is dropped", order.log, order.node)
                orders.done(path)
        elif order.manager == self.name:
            if path != self._order:
                self._away, self._asked = [], time.monotonic()
                self._order = path
            if self._leaving != "let go":
                self._leave(order.drain)

    def _leave(self, drain: bool) -> None:
        """Let the subscribers go, once everything the nodes had when this was asked is written, if `drain`."""
        if not self._leaving:
            if self._clerk.ident is not None:  # at the start it is said in other words
                _log.warning("manager %s is decommissioned%s", self.name, ": it drains first" if drain else "")
            self._leaving, self._leaving_since = "draining", time.monotonic()
            self.hub.is_leaving = True
        if drain and not self._drained():
            return
        with self._deciding:
            self._is_gone = True
            self.hub.set_nodes([], lambda _node, _logs: [])
        if not self.hub.sessions:
            if drain:  # what is drained stays so: started again, it has nothing to pull
                orders.withdraw(self.ledger.directory, orders.Decommission)
                self._order = orders.give(self.ledger.directory, orders.Decommission(self.name))
            self._leaving = "let go"

    def _drained(self) -> bool:
        """Whether everything is written. Nodes that are away hold up only themselves: once nothing else is left the
        others are let go, and these are drained when they are back."""
        since = self._leaving_since
        sessions = list(self.hub.sessions.values())
        left = [session for session in sessions if not is_drained(session, since)]
        self._waits = [text for session in left for text in waits_for(session, since)]
        away = sorted(session.node.name for session in left if is_away(session, self._asked))
        alone = len(away) == len(left)
        self._away = away if alone and len(away) == len(sessions) else []
        if alone and away and not self._away:
            with self._deciding:
                self._apply(away)
        return not left

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _apply(self, names: Sequence[str] | None = None) -> None:
        """Have the hub pull from the nodes of the configuration, or from those of them."""
        config = self.config

        def of_node(node: ManagedNode, logs: list[str]) -> list[Source]:
            return wanted(config, self.name, node, logs)

        self.hub.set_nodes([node for node in config.node if names is None or node.name in names], of_node)

    def _make_rounds(self, asides: Asides | None = None) -> Rounds:
        return Rounds(
            self.ledger, self._output, lambda done: self.hub.committed(done), lambda *what: self.hub.refused(*what),
            asides=asides,
        )  # fmt: skip

    def _rounds_of(self, source: Source) -> Rounds:
        return self.rounds if source.output.startswith("files:") else self._others.get(source.output, self.rounds)

    def _put(self, parcel: Parcel) -> None:
        """In the hub's thread."""
        output = parcel.source.output
        if not output.startswith("files:") and output not in self._others:
            self._others[output] = self._make_rounds()
            self._others[output].start()
        rounds, key = self._rounds_of(parcel.source), parcel.source.key
        before = self._written_by.get(key)
        if before is not rounds:
            self._written_by[key] = rounds
            if before is not None:  # its rule changed
                before.leave(key, lambda other, source=parcel.source: rounds.put(replace(other, source=source)))  # type: ignore[misc]
        rounds.put(parcel)

    def _trouble(self, source: Source) -> str:
        return self._rounds_of(source).trouble(source.key)

    def _counters(self) -> dict[str, int]:
        found = Counter(self.rounds.stats())
        found["files_cut_back"] += self._cut_back
        found.update(self._asides.stats())
        for rounds in list(self._others.values()):
            found.update({key: n for key, n in rounds.stats().items() if not key.startswith("files_")})
        return dict(found)

    def _output(self, name: str) -> Output:
        kind, _, text = name.partition(":")
        config = self.config
        if kind == "journal":
            return JournalOutput(text)
        if kind == "syslog":
            return SyslogOutput(text)
        if kind == "stdout":
            return StdoutOutput()
        options = FileOptions(int(config.file_mode, 8), int(config.dir_mode, 8), config.open_files_max)
        template = Template(text, config.time_zone)
        store = PosixStore()
        output = FileOutput(store, self.ledger, template, options, self._pool.map, time.time, self._asides)
        if config.compress_closed == "zstd":
            self._compressor = self._compressor or Compressor(store, self.ledger, self._pool.submit)
            output.compress(self._compressor)
        return output
