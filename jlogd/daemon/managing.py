"""The manager of a daemon, if its configuration has one; and a manager alone, as `jlogd manager` runs it.

The parts of a manager are put together in jlogd/manager/manager.py; here it is given its place in a process: started
and stopped with it, reloaded, asked for health and metrics.
"""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from prometheus_client.registry import Collector

from jlogd.daemon.config import Config
from jlogd.daemon.http import HttpServer
from jlogd.daemon.manager_metrics import ManagerCollector
from jlogd.daemon.metrics import make_registry
from jlogd.daemon.reload import Change, in_effect, reload_plan
from jlogd.errors import ConfigError
from jlogd.manager.manager import Manager
from jlogd.manager.status import ManagerStatus
from jlogd.version import VERSION

_log = logging.getLogger("jlogd")

# Descriptors for a node (its socket, ZeroMQ's own), and for everything else.
DESCRIPTORS_A_NODE = 6
DESCRIPTORS_BESIDES = 500


class Managing:
    """Has a manager while the configuration has nodes to pull from. Methods belong to the daemon's main thread;
    `problems` and `status` to any."""

    def __init__(self, config: Config) -> None:
        """Raises `JlogError` when there is to be a manager, and it cannot be."""
        self._manager = _make(config)
        self._running = False

    @property
    def collectors(self) -> list[Collector]:
        """What tells Prometheus of it."""
        return [ManagerCollector(self.status)]

    def start(self) -> None:
        """Begin to pull."""
        if self._manager is not None:
            self._manager.start()
        self._running = True

    def stop(self) -> None:
        """Write what was read, and let go."""
        if self._manager is not None:
            self._manager.stop()
        self._manager = None

    def reload(self, config: Config) -> None:
        """Go over to other nodes and rules; the first node makes a manager, the last one that goes ends it."""
        if not config.manager.node:
            self.stop()
        elif self._manager is not None:
            self._manager.reload(config.manager)
        else:
            self._manager = _make(config)
            self.start()

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        manager = self._manager
        return manager.problems() if manager is not None else []

    def status(self) -> ManagerStatus | None:
        """How the manager is, if there is one."""
        manager = self._manager
        return manager.status() if manager is not None else None


class ManagerDaemon:
    """A manager alone, with its HTTP listener. `start` it and `stop` it from one thread."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` and other `JlogError`s that prevent a start; nothing runs yet."""
        if not config.manager.node:
            raise ConfigError("the configuration has no [[manager.node]]: there is nothing to pull from")
        self.config = config
        self._ready = False
        self.managing = Managing(config)
        self.http: HttpServer | None = None
        if config.http is not None:
            try:
                self.http = HttpServer(
                    config.http,
                    metrics=make_registry(*self.managing.collectors),
                    health=self.problems,
                    ready=lambda: [] if self._ready else ["the manager is starting or stopping"],
                    stat=list,
                    manager=self.managing.status,
                )
            except BaseException:
                self.managing.stop()
                raise

    def start(self) -> None:
        """Pull, and answer."""
        if self.http is not None:
            self.http.start()
        self.managing.start()
        self._ready = True

    def stop(self) -> bool:
        """Write what was read, and let go of everything."""
        self._ready = False
        self.managing.stop()
        if self.http is not None:
            self.http.close()
        return True

    def problems(self) -> list[str]:
        """What is wrong, in words; nothing when all is well."""
        return self.managing.problems()

    def lost(self) -> str:
        """Nothing: a manager owns no spool."""
        return ""

    def reload(self, config: Config) -> tuple[list[Change], list[Change]]:
        """Apply what can be applied while running; the changes that were, and those that were not, with the reason."""
        if not config.manager.node:
            raise ConfigError("the configuration has no [[manager.node]] any more: stop the manager instead")
        applied, left = reload_plan(self.config, config)
        config = in_effect(self.config, config)
        self.managing.reload(config)
        self.config = config
        return applied, left

    def announce(self, path: Path | None) -> str:
        """Say what runs where; the same in a few words."""
        config = self.config
        _log.info("jlogd %s runs manager %s on %s", VERSION, config.manager_name, path)
        count = len(config.manager.node)
        return f"{count} node{'' if count == 1 else 's'} into {config.manager.files}"


def _make(config: Config) -> Manager | None:
    if not config.manager.node:
        return None
    _raise_limit(config)
    return Manager(config.manager, config.manager_name, config.manager_ledger)


def _raise_limit(config: Config) -> None:
    """Have room for the descriptors this needs, as far as the system allows it."""
    needed = config.manager.open_files_max + DESCRIPTORS_A_NODE * len(config.manager.node) + DESCRIPTORS_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        if most < needed:
            _log.warning("only %d files may be open, and %d may be needed; raise LimitNOFILE", most, needed)
