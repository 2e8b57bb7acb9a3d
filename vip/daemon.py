"""The daemon of `vip run`: decisions (node.py) between the store (lines.py) and the kernel (hands.py).

    store --snapshot, changes--> [queue] --> Node.act --> hands --> kernel
          <--transactions------- clerks <---/    \\------> hooks, history, log
          <--heartbeats--------- heart ---deadline------> kernel's gate

The main thread decides: it takes what happened from one queue, asks the node what to do, and hands that on. It does
nothing itself that could wait. The deadline is handed to the kernel by whoever moved it.

Lock: `_deadline_lock` makes reading the session's deadline and giving it to the kernel one step, so that a heartbeat
which comes back late can never open the gate of a session that was lost meanwhile.
"""

from __future__ import annotations

import gc
import logging
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cluster.types import Snapshot, TxnResult, WatchBatch
from jlogd.daemon.http import HttpServer
from jlogd.daemon.notify import Notifier
from jlogd.errors import JlogError
from jlogd.version import VERSION
from vip.actions import Action, Announce, Beat, Changed, Commit, Look, Remove, RemoveAll, Resync, Say, Take, Taken
from vip.checks import Checks
from vip.clock import boot_ns, ns, wall_seconds
from vip.config import Settings
from vip.errors import NameTaken
from vip.farewell import say
from vip.hands import Hands
from vip.history import History, entries_of, summary
from vip.hooks import Event, Hooks, told_of
from vip.keeper import Keeper
from vip.kernel import open_kernel
from vip.kernel.interface import (
    AddressGone,
    Conflict,
    EventsLost,
    Floating,
    GuardDied,
    Kernel,
    KernelEvent,
    KernelSettings,
    LinkChanged,
    Present,
)
from vip.lines import HANDS_NS_MAX, Clerks, Heart, Stream
from vip.links import Links
from vip.node import Node
from vip.places import Identity, blocks_down, interfaces_of, place, refuse_own
from vip.records import GoneRecord, Keys, SessionRecord
from vip.reload import check_reload, load_again
from vip.session import FAILURE_ENDED, GUARD_ENDED, Session
from vip.stores import farewell_of, opener
from vip.timing import timing_of

_log = logging.getLogger("vip")

# How often the node is asked when nothing happens.
TICK_SECONDS = 0.1
# Links are read again this often, because an event may be lost.
LINKS_NS = 10**9


class Daemon:
    """All parts of a running daemon, used by the thread that made it."""

    def __init__(self, settings: Settings, tells: Callable[[Daemon], HttpServer | None] | None = None) -> None:
        """`tells`: what makes the server that tells about the daemon, once all its parts are there."""
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.kernel: Kernel = open_kernel(_kernel_settings(settings))
        self._inbox: queue.SimpleQueue[Callable[[int], None]] = queue.SimpleQueue()
        self._deadline_lock = threading.Lock()
        self._seen = boot_ns()
        self._links_read = 0
        self._links = Links()
        self._epoch = 0
        self._owners: dict[str, int] = {}
        self.conflicts: dict[str, str] = {}  # address -> MAC of the last host that announced it too
        self.guard_failure = ""
        self._farewell_of: tuple[int, str] = (0, "")
        capabilities = self.kernel.start(lambda event: self._post(lambda now: self._kernel_event(now, event)))
        try:
            refuse_own(settings, self.kernel.foreign())
            for remark in capabilities.remarks:
                _log.warning("%s", remark)
            timing = timing_of(
                settings.timing, capabilities.lateness_ns, float(settings.heartbeat), float(settings.window)
            )
            identity = Identity(settings.node, place(), VERSION, capabilities.gate)
            self.node = Node(settings, identity, timing, alone=settings.store == "solo")
            open_store = opener(settings)
            self.heart = Heart(open_store(), timing, self._current, self._awake, self._deadline_moved)
            prefix = Keys(settings.cluster).prefix
            self.stream = Stream(open_store(), prefix, timing, self._synced, self._changed, self._broken)
            self.clerks = Clerks(open_store)
            self.hands = Hands(self.kernel, ns(float(settings.probe)), self._deadline, self)
            self.hooks = Hooks(settings.hooks)
            self.history = History(settings.log)
            self.checks = Checks(lambda: self._post(lambda now: self._tell_health()))
            self.keeper = Keeper(open_store(), settings.node, float(settings.etcd_keep), lambda: self.node.view)
            self.http = tells(self) if tells is not None else None
        except BaseException:
            self.kernel.stop()
            raise

    # ---- life -------------------------------------------------------------------------------------------------------

    def run(self, signals: queue.SimpleQueue[int], path: Path | None, notifier: Notifier) -> int:
        """Until a signal ends it, or it must not run; the exit code."""
        self._start()
        notifier.ready(f"node {self.settings.node}")
        try:
            while self.node.phase != "ended":
                self.turn()
                notifier.watchdog()
                if self.node.refused:
                    raise NameTaken(self.node.refused)
                while not signals.empty():
                    self._signal(signals.get(), path, notifier)
        finally:
            notifier.stopping()
            self.close()
        _log.info("stopped; every address was removed")
        return 0

    def turn(self) -> None:
        """Take in what happened, decide, hand on."""
        try:
            told: Callable[[int], None] | None = self._inbox.get(timeout=TICK_SECONDS)
        except queue.Empty:
            told = None
        # Whatever is waiting is taken in before anything is decided.
        while told is not None:
            told(boot_ns())
            told = None if self._inbox.empty() else self._inbox.get()
        now = self._seen = boot_ns()
        if now - self._links_read > LINKS_NS:
            self._links_read = now
            self._tell_health()
        for action in self.node.act(now, wall_seconds()):
            self._carry_out(action)
        self._set_deadline()
        self._prepare_farewell()

    def wake(self) -> None:
        """Do not wait for the next tick."""
        self._post(lambda now: None)

    def stop(self) -> None:
        """Begin to hand everything over."""
        self.node.stop(boot_ns())

    def close(self) -> None:
        """Whatever happened: no address stays, no thread goes on."""
        farewell = self._farewell(FAILURE_ENDED)  # none, if the session was ended as it should be
        self.node.session.lose("the daemon ends")
        self.kernel.set_deadline(0)
        for part in (self.heart, self.stream, self.clerks, self.checks, self.hands, self.keeper):
            part.close()
        self.hooks.close()
        self.history.close()
        if self.http is not None:
            self.http.close()
        self._end_with(farewell)

    def _end_with(self, farewell: bytes) -> None:
        """The last words are said once the kernel says that everything is removed; otherwise the others wait."""
        try:
            if farewell and self.hands.ended:
                self.kernel.remove_all()
                say(farewell)
        except (JlogError, OSError) as error:
            _log.error("addresses cannot be removed: %s", error)
        finally:
            self.kernel.stop()

    def _start(self) -> None:
        self.checks.configure(self.settings.check)
        for part in (self.heart, self.stream, self.clerks, self.hands, self.hooks, self.history, self.keeper):
            part.start()
        if self.http is not None:
            self.http.start()
        self._tell_health()
        gc.collect()
        gc.freeze()  # what is there now stays for ever: collections need not walk it
        gc.enable()

    def _signal(self, number: int, path: Path | None, notifier: Notifier) -> None:
        if number == signal.SIGHUP:
            notifier.reloading()
            self._reload(path)
            notifier.ready()
        elif self.node.phase != "stop":
            _log.info("%s: handing everything over", signal.Signals(number).name)
            self.stop()

    def _reload(self, path: Path | None) -> None:
        """Read the configuration again; a wrong one changes nothing."""
        if path is None:
            return
        try:
            new = load_again(path)
            refuse_own(new, self.kernel.foreign())
            check_reload(self.settings, new, path)
            self.kernel.set_interfaces({*interfaces_of(self.settings), *interfaces_of(new)})
        except JlogError as error:
            _log.error("SIGHUP: nothing changed: %s", error)
            return
        self.settings = new
        self.node.configure(new)
        self.checks.configure(new.check)
        self.hooks.settings = new.hooks
        _log.info(
            "SIGHUP: generation %d with %d addresses is in force here",
            new.generation,
            len(self.node.holdings.floatings),
        )

    # ---- carrying out -----------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Take() | Remove() | RemoveAll() | Look() | Announce():
                if isinstance(action, RemoveAll):
                    self._set_deadline()  # the gate closes before anything slower is begun
                self.hands.put(action)
            case Commit():
                self._commit(action)
            case Beat():
                self.heart.beat_now()
            case Resync():
                self.stream.resync()
            case Changed():
                self._note(action)
            case Say(sentence, level):
                _log.log({"info": logging.INFO, "warning": logging.WARNING}.get(level, logging.ERROR), "%s", sentence)

    def _commit(self, commit: Commit) -> None:
        def answered(sent: int, result: TxnResult | None) -> None:
            self._post(lambda now: self.node.committed(now, commit, sent, result))

        if commit.kind == "open":
            self.counts["sessions"] += 1
        self.clerks.commit(commit.txn, answered)

    def _note(self, changed: Changed) -> None:
        """Changes of owner: remembered, written down, and counted, unless they were so before this node looked."""
        for entry, write in entries_of(changed, self.node.plan, wall_seconds(), self.settings.node):
            self.history.note(entry, write)
        if not changed.known:
            self.counts["changes"] += len(changed.changes)
            for sentence in summary(changed.changes):
                _log.info("%s", sentence)

    def _set_deadline(self) -> None:
        with self._deadline_lock:
            self.kernel.set_deadline(self.node.session.deadline)

    def _prepare_farewell(self) -> None:
        """What the guard says for us if we die: it belongs to one session."""
        session = self.node.session
        revision, token = 0 if session.lost else session.revision, self.heart.token
        if (revision, token) == self._farewell_of:
            return
        self._farewell_of = revision, token
        self.kernel.set_farewell(self._farewell(GUARD_ENDED))

    def _farewell(self, why: str) -> bytes:
        """What ends the session that is open, for the reason given; nothing when none is."""
        session = self.node.session
        if session.lost or not session.revision:
            return b""
        gone = self.node.view.gones.get(self.settings.node, GoneRecord())
        return farewell_of(self.settings, session.farewell(gone, why), self.heart.token)

    # ---- told, from other threads -----------------------------------------------------------------------------------

    def _post(self, told: Callable[[int], None]) -> None:
        self._inbox.put(told)

    def _synced(self, epoch: int, snapshot: Snapshot) -> None:
        def told(now: int) -> None:
            self._epoch = epoch
            self.node.sync(now, snapshot)

        self._post(told)

    def _changed(self, epoch: int, batch: WatchBatch) -> None:
        def told(now: int) -> None:
            if epoch == self._epoch and self.node.view.synced is not None:
                self.node.apply(now, batch)

        self._post(told)

    def _broken(self, epoch: int, why: str) -> None:
        def told(now: int) -> None:
            if epoch == self._epoch:
                self.node.hole(why)

        self._post(told)

    def taken(self, taken: Taken) -> None:
        def told(now: int) -> None:
            done = [f for f in taken.addresses if f.address not in taken.failed and f.address not in taken.foreign]
            self.counts["taken"] += len(done)
            self.node.taken(now, taken)
            self._run_hook("take", done)

        self._post(told)

    def removed(self, addresses: tuple[Floating, ...], failed: dict[str, str]) -> None:
        def told(now: int) -> None:
            done = [floating for floating in addresses if floating.address not in failed]
            self.counts["removed"] += len(done)
            self.node.removed(now, addresses, failed)
            self._run_hook("release", done)

        self._post(told)

    def removed_all(self, failed: str) -> None:
        def told(now: int) -> None:
            there = list(self.node.holdings.present.values())
            self.node.removed_all(now, failed)
            if not failed:
                self.counts["removed"] += len(there)
                self._run_hook("release", there)

        self._post(told)

    def looked(self, present: list[Present]) -> None:
        self._post(lambda now: self.node.looked(now, present))

    def failed(self, why: str) -> None:
        self._post(lambda now: _log.error("%s", why))

    def _run_hook(self, event: Event, floatings: list[Floating]) -> None:
        if self.hooks.wanted(event):
            self.hooks.tell(event, told_of(floatings, self.node.plan))

    def _kernel_event(self, now: int, event: KernelEvent) -> None:
        match event:
            case LinkChanged():
                self._tell_health()
            case AddressGone(floating):
                self.node.gone(now, floating.address)
            case Conflict(address, interface, mac, defended):
                self.conflicts[address] = mac
                _log.error("%s: %s on %s announces it too%s", address, mac, interface, "; defended" if defended else "")
            case EventsLost():
                self._links_read = 0
            case GuardDied(restarted, why):
                self.guard_failure = "" if restarted else f"there is no guard: {why}"
                _log.error("the guard died: %s; %s", why, "a new one runs" if restarted else "there is none now")

    def _tell_health(self) -> None:
        """Links and checks, as they are now."""
        try:
            up = self._links.stable(boot_ns(), {name for name, link in self.kernel.links().items() if link.up})
        except (JlogError, OSError) as error:
            _log.error("links cannot be read: %s", error)
            return
        self.node.health(blocks_down(self.settings, up), self.checks.failing())

    # ---- asked, from other threads ----------------------------------------------------------------------------------

    def _current(self) -> tuple[Session, SessionRecord]:
        return self.node.session, self.node.record

    def _deadline(self) -> int:
        return self.node.session.deadline

    def _deadline_moved(self) -> None:
        self._set_deadline()
        self.hands.refresh()
        if self.node.session.lost:
            self.wake()

    def _awake(self) -> bool:
        """Whether this daemon still decides and acts; if not, it must not go on holding."""
        now, busy = boot_ns(), self.hands.busy_since
        return now - self._seen < self.node.timing.window and not (busy and now - busy > HANDS_NS_MAX)

    def failing(self) -> dict[str, str]:
        """Checks that fail, with the reason."""
        return self.checks.failing()


def _kernel_settings(settings: Settings) -> KernelSettings:
    return KernelSettings(
        gate=settings.gate,
        interfaces=interfaces_of(settings),
        announce_refresh_seconds=float(settings.announce_refresh),
        announce_rate_max=settings.announce_rate_max,
    )
