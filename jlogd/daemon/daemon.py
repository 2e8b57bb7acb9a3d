"""The daemon: the parts put together, and the life of the process.

    sources (inputs.py) --writers--> committers --> journals (logs.py) <--cursors-- server (server.py) <--> clients
                                                        |
                                                 http (metrics, health)

Start: ports are bound, logs opened, requests answered, sources started; so whoever is answered is served. Stop:
sources, then the server, then the logs; so nothing that was taken in is left behind.

The main thread waits for signals: SIGTERM and SIGINT end the daemon, SIGHUP reads the configuration again.
"""

from __future__ import annotations

import logging
import queue
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from jlogd.daemon.config import Config, open_to_anyone
from jlogd.daemon.config_file import load
from jlogd.daemon.defaults import DEFAULT_ORIGIN, default_config, paste_lines
from jlogd.daemon.http import HttpServer
from jlogd.daemon.inputs import Inputs
from jlogd.daemon.logs import SpoolLogs
from jlogd.daemon.malloc import keep_freed_memory
from jlogd.daemon.managing import Managing
from jlogd.daemon.metrics import JlogdCollector, make_registry
from jlogd.daemon.notify import Notifier
from jlogd.daemon.ports import demand_free_ports
from jlogd.daemon.reload import Change, in_effect, reload_plan
from jlogd.daemon.server import Server
from jlogd.daemon.spool import open_spool, prepare_spool
from jlogd.errors import ConfigError, Fenced, JlogError
from jlogd.journal.types import Settings
from jlogd.manager.texts import Texts
from jlogd.version import VERSION

_log = logging.getLogger("jlogd")

# How often the main thread looks for problems and says that it is alive, when nobody asks for a shorter interval.
TICK_SECONDS = 5.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Daemon:
    """All parts of a running daemon. `start` it and `stop` it from one thread."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` and other `JlogError`s that prevent a start; nothing runs yet."""
        self.config = config
        self._ready = False
        self._collector = JlogdCollector(
            logs=lambda: self.logs.stats(),
            sources=lambda: self.inputs.stats(),
            wire=lambda: self.server.stats(),
            wire_now=lambda: self.server.current(),
            turned_away=lambda: self.server.tally.counts(),
            version=VERSION,
            node=config.node.name,
            subcluster=config.node.subcluster,
        )
        self.spool = open_spool(config.node, config.spool)
        self.logs = SpoolLogs(config.spool, lambda name: self._collector.sync_times(name).observe)
        self.inputs = Inputs(self.logs)
        self.http: HttpServer | None = None
        try:
            node = config.node
            self.texts = Texts(
                config.text_ledger, node.name, node.subcluster, lambda name: self.logs.get(name).journal
            )  # fmt: skip
            self.managing = Managing(config)
            self.server = Server(
                self.logs,
                config.listen.zmq,
                version=VERSION,
                node=config.node.name,
                auth=config.auth,
                socket_mode=config.listen.socket_mode,
            )
            if config.http is not None:
                self.http = HttpServer(
                    config.http,
                    metrics=make_registry(self._collector, *self.managing.collectors),
                    health=self.problems,
                    ready=lambda: [] if self._ready else ["the daemon is starting or stopping"],
                    stat=self.logs.stats,
                    manager=self.managing.status,
                )
        except BaseException:
            self._close()
            raise

    def start(self) -> None:
        """Open the logs, listen, take records. Raises what prevents it, having stopped again."""
        try:
            self.logs.open_all(_wanted(self.config))
            self.server.start()
            if self.http is not None:
                self.http.start()
            self.texts.replace(self.config.texts)
            self.inputs.start_all(self.config)
            self.managing.start()
        except BaseException:
            self.stop()
            raise
        self._ready = True

    def stop(self) -> bool:
        """Make durable what was taken in, and let go of everything; whether all of it is durable."""
        self._ready = False
        self.managing.stop()
        durable = self.inputs.stop_all()
        self.texts.stop()
        self._close()
        return durable

    def problems(self) -> list[str]:
        """What is wrong, in words; nothing when all is well."""
        found = [f"log {name} is not served: {why}" for name, why in self.logs.unserved.items()]
        for stat in self.logs.stats():
            found += [f"log {stat.name} accepts nothing: {stat.failed}"] if stat.failed else []
            found += [f"log {stat.name} refuses appends: {stat.full}"] if stat.full else []
        return (
            found + self.server.problems() + self.inputs.problems() + self.texts.problems() + self.managing.problems()
        )

    def lost(self) -> str:
        """Why the spool or a log of it is not this host's any more; empty while all are."""
        return self.spool.lost() or self.logs.lost()

    def reload(self, config: Config) -> tuple[list[Change], list[Change]]:
        """Apply what can be applied while running; the changes that were, and those that were not, with the reason.

        Raises `JlogError` or OSError when a change that could be applied failed; those before it stay applied.
        """
        applied, left = reload_plan(self.config, config)
        config = in_effect(self.config, config)
        self.logs.open_all(_wanted(config))
        self.server.reload(config.auth)
        self.texts.replace(config.texts)
        self.inputs.replace(config)
        self.managing.reload(config)
        self.config = config
        return applied, left

    def announce(self, path: Path | None) -> str:
        """Say what runs where; the same in a few words."""
        where = path if path is not None else DEFAULT_ORIGIN
        _log.info("jlogd %s runs node %s on %s", VERSION, self.config.node.name, where)
        _log.info("spool %s, listening on %s", self.config.spool, ", ".join(self.server.addresses) or "no address")
        if self.server.public_key:
            _log.info("its public key is %s; clients: %d", self.server.public_key, len(self.config.auth.client))
        if self.config.auth.insecure:
            _log.warning(
                "insecure = true: addresses beyond this host are open to whoever reaches them, who may also read and "
                "change what travels; give the daemon a key (jlogd keys new NODE)"
            )
        for what in open_to_anyone(self.config):
            _log.warning("%s is open to whoever reaches it", what)
        if path is None or sys.stdout.isatty():
            print("\nPaste these in another terminal:\n", flush=True)
            for line in paste_lines(self.config):
                print(f"  {line}", flush=True)
            print("\nCtrl-C stops the daemon.\n", flush=True)
        return f"{len(self.logs.names())} logs in {self.config.spool}"

    def _close(self) -> None:
        if hasattr(self, "server"):
            self.server.close()
        self.logs.close()
        if self.http is not None:
            self.http.close()
        self.spool.release()


def _wanted(config: Config) -> dict[str, tuple[Settings, Sequence[str]]]:
    return {name: (log.settings, log.subscribers) for name, log in config.log.items()}


def admitted(config: Config, accept_risk: bool = False) -> Daemon:
    """A daemon whose spool was looked at first; `accept_risk`: even if its mount is not fit for logs."""
    if not config.spool.exists():
        demand_free_ports(config)
    prepare_spool(config.node, config.spool, accept_risk)
    return Daemon(config)


class Running(Protocol):
    """What runs until a signal ends it: a daemon, or a manager alone."""

    def start(self) -> None: ...

    def stop(self) -> bool: ...

    def problems(self) -> list[str]: ...

    def lost(self) -> str: ...

    def reload(self, config: Config) -> tuple[list[Change], list[Change]]: ...

    def announce(self, path: Path | None) -> str:
        """Say what runs where; the same in a few words."""


def run(path: Path | None, make: Callable[[Config], Running] = admitted) -> int:
    """Run a daemon until it is told to end; the exit code. Raises `JlogError` when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    keep_freed_memory()
    config = load(path) if path is not None else default_config()
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _frame: FrameType | None) -> None:
        signals.put(number)

    for number in (*_ENDING, signal.SIGHUP):
        signal.signal(number, note)
    notifier = Notifier()
    daemon = make(config)
    daemon.start()
    notifier.ready(daemon.announce(path))
    try:
        _wait(daemon, path, signals, notifier)
    finally:
        notifier.stopping()
        durable = daemon.stop()
    _log.info("stopped; %s", "everything taken in is durable" if durable else "not all that was taken in is durable")
    return 0


def _wait(daemon: Running, path: Path | None, signals: queue.SimpleQueue[int], notifier: Notifier) -> None:
    """Serve until a signal ends it. Raises `Fenced` when another host took the spool or a log over."""
    known: list[str] = []
    while True:
        try:
            number = signals.get(timeout=min(notifier.watchdog_interval or TICK_SECONDS, TICK_SECONDS))
        except queue.Empty:
            number = 0
        if not number:
            notifier.watchdog()
            known = _tell_problems(daemon.problems(), known)
            _check_owned(daemon)
            continue
        if number in _ENDING:
            _log.info("%s: stopping", signal.Signals(number).name)
            return
        notifier.reloading()
        _reload(daemon, path)
        notifier.ready()


def _check_owned(daemon: Running) -> None:
    """A daemon whose spool another host took over has nothing more to do there: its commits fail, its reads are old."""
    if lost := daemon.lost():
        raise Fenced(f"{lost}; nothing is acknowledged here any more, and this daemon ends")


def _tell_problems(problems: list[str], known: list[str]) -> list[str]:
    """Tell each problem when it comes and when it goes."""
    for problem in problems:
        if problem not in known:
            _log.warning("%s", problem)
    for problem in known:
        if problem not in problems:
            _log.info("over: %s", problem)
    return problems


def _reload(daemon: Running, path: Path | None) -> None:
    """Read the configuration again; a wrong one changes nothing."""
    if path is None:
        _log.warning("SIGHUP: nothing to read again, the daemon runs on the %s", DEFAULT_ORIGIN)
        return
    try:
        applied, left = daemon.reload(_load_again(path))
    except (JlogError, OSError) as error:
        _log.error("SIGHUP: %s; nothing more was changed", error)
        return
    for change in applied:
        _log.info("SIGHUP: applied %s", change)
    for change in left:
        _log.warning("SIGHUP: not applied %s", change)
    if not applied and not left:
        _log.info("SIGHUP: %s has not changed", path)


def _load_again(path: Path) -> Config:
    """The file as it is now. Raises ConfigError; from a pipe it would wait for a writer, with signals and all."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no regular file, and cannot be read a second time; run the daemon on a file")
    return load(path)
