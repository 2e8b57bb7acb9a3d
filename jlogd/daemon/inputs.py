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

    def start_all(self, config: Config) -> None:
        """Start every source of the configuration that does not run yet. Raises what prevents one."""
        for name, (_, _, source) in zip(source_names(config), config.all_sources(), strict=True):
            if name not in self._running:
                self._start(name, source)

    def stop_outdated(self, config: Config) -> None:
        """Stop every source that the configuration does not have, or has otherwise, or whose log changes its codec."""
        wanted = dict(zip(source_names(config), (source for _, _, source in config.all_sources()), strict=True))
        for name, running in list(self._running.items()):
            log = config.log.get(running.config.log)
            if wanted.get(name) != running.config or (log is not None and log.compression != running.compression):
                self._stop(name)

    def stop_all(self) -> bool:
        """Stop all sources, all at a time; whether everything they took in is durable."""
        with ThreadPoolExecutor(max_workers=max(1, min(len(self._running), STOP_THREADS_MAX))) as threads:
            return all(list(threads.map(self._stop, list(self._running))))

    def stats(self) -> list[SourceStat]:
        """The sources as they are now."""
        return [
            SourceStat(name, running.source.stats(), running.source.running)
            for name, running in list(self._running.items())
        ]

    def problems(self) -> list[str]:
        """What is wrong with any source, in words."""
        found = []
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
        compression = self._logs.get(config.log).journal.settings.compression
        self._running[name] = _Running(config, source, writer, compression)
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
