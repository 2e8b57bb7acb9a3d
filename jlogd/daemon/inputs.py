"""The sources of a daemon while it runs: each with its writer, under the name the configuration gives it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jlogd.daemon.config import Config, source_names
from jlogd.daemon.logs import SpoolLogs
from jlogd.daemon.metrics import SourceStat
from jlogd.errors import JlogError
from jlogd.journal.producers import producer_id
from jlogd.sources.base import Source
from jlogd.sources.config import FileSource, StdinSource, SyslogSource
from jlogd.sources.files import FileFollower
from jlogd.sources.stdin import StdinReader
from jlogd.sources.syslog import SyslogReceiver
from jlogd.writer.writer import Writer

_log = logging.getLogger("jlogd.sources")

SourceConfig = SyslogSource | FileSource | StdinSource
# Where in the spool sources keep what they must remember; no log can have this name.
STATE_DIRECTORY = ".sources"
# To take in what has arrived when a source is stopped. What a full log does not take by then is lost, or, from a file,
# read again.
STOP_SECONDS = 5.0
STOP_THREADS_MAX = 32


@dataclass(frozen=True, slots=True)
class _Running:
    config: SourceConfig
    source: Source
    writer: Writer
    compression: str


class Inputs:
    """Starts and stops sources. Methods belong to the daemon's main thread; `stats` and `problems` to any."""

    def __init__(self, logs: SpoolLogs) -> None:
        self._logs = logs
        self._running: dict[str, _Running] = {}
        self._not_started: dict[str, str] = {}  # sources that could not be started, and why

    def start_all(self, config: Config) -> None:
        """Start every source of the configuration, but those of logs that are not served. Raises what prevents one."""
        for name, source in _named(config).items():
            if source.log in self._logs.unserved:
                self._try_start(name, source)
            else:
                self._start(name, source)

    def replace(self, config: Config) -> None:
        """Go over to another configuration: stop what it does not have, start what is new, leave alone what is not.

        A source that cannot be started is told, and is a problem from then on; one that it replaces goes on as it was.
        """
        wanted = _named(config)
        self._not_started.clear()
        for name in [name for name, running in self._running.items() if name not in wanted]:
            self._stop(name)
        for name, source in wanted.items():
            running = self._running.get(name)
            if running is None:
                self._try_start(name, source)
            elif running.config != source or running.compression != self._compression(source):
                self._stop(name)
                if not self._try_start(name, source):
                    self._try_start(name, running.config)

    def _try_start(self, name: str, source: SourceConfig) -> bool:
        try:
            self._start(name, source)
        except (JlogError, OSError) as error:
            self._not_started.setdefault(name, str(error))
            _log.error("source %s cannot be started as configured: %s", name, error)
            return False
        return True

    def _compression(self, source: SourceConfig) -> str:
        return self._logs.get(source.log).journal.settings.compression

    def stop_all(self) -> bool:
        """Stop all sources, all at a time; whether everything they took in is durable."""
        with ThreadPoolExecutor(max_workers=max(1, min(len(self._running), STOP_THREADS_MAX))) as threads:
            return all(list(threads.map(self._stop, list(self._running))))

    def stats(self) -> list[SourceStat]:
        """The sources as they are now."""
        running = list(self._running.items())
        missing = [SourceStat(name, {}, up=False) for name in list(self._not_started) if name not in self._running]
        return [SourceStat(name, found.source.stats(), found.source.running) for name, found in running] + missing

    def problems(self) -> list[str]:
        """What is wrong with any source, in words."""
        found = [f"the source {name} does not run as configured: {why}" for name, why in self._not_started.items()]
        for name, running in list(self._running.items()):
            if running.source.failed is not None:
                found.append(f"the source {name} stopped: {running.source.failed}")
            elif running.writer.full is not None:
                found.append(f"the source {name} waits: {running.writer.full}")
        return found

    def _start(self, name: str, config: SourceConfig) -> None:
        source = self._make(name, config)
        writer = self._logs.writer(config.log)
        try:
            source.start(writer)
        except BaseException:
            writer.close()
            raise
        self._running[name] = _Running(config, source, writer, self._compression(config))
        _log.info("source %s feeds log %s", name, config.log)

    def _make(self, name: str, config: SourceConfig) -> Source:
        if isinstance(config, SyslogSource):
            return SyslogReceiver(config, name)
        if isinstance(config, StdinSource):
            return StdinReader(config, name)
        journal = self._logs.get(config.log).journal
        directory = self._logs.spool / STATE_DIRECTORY
        directory.mkdir(mode=0o750, exist_ok=True)
        return FileFollower(config, directory, lambda who: journal.producer_position(producer_id(who)), name)

    def _stop(self, name: str) -> bool:
        """Stop one source; whether everything it took in is durable."""
        running = self._running.pop(name)
        durable = True
        stopped = running.source.stop(STOP_SECONDS)
        try:
            running.writer.close(STOP_SECONDS if stopped else 0.0)
        except (JlogError, TimeoutError) as error:
            _log.error("source %s: what it took in last is not durable: %s", name, error)
            durable = False
        if not stopped and not running.source.join(STOP_SECONDS):  # a full log held it up; the closed writer frees it
            _log.warning("source %s did not end", name)
        return durable


def _named(config: Config) -> dict[str, SourceConfig]:
    return dict(zip(source_names(config), (source for _, _, source in config.all_sources()), strict=True))
