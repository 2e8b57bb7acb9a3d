"""The life of the process of `vip run`: signals, the log, who tells about it, and what happens when a thread fails."""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from jlogd.daemon.addresses import parse_http_address
from jlogd.daemon.http import HttpServer
from jlogd.daemon.notify import Notifier
from jlogd.version import VERSION
from vip.config import load
from vip.daemon import Daemon
from vip.metrics import registry_of
from vip.report import problems, stat, why_not

_log = logging.getLogger("vip")

INDEX = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>vip</title><h1>vip</h1><ul>
<li><a href="/stat">/stat</a>: nodes, addresses, problems and the last changes of owner, as JSON
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: is anything wrong
<li><a href="/readyz">/readyz</a>: may this node have addresses up
</ul></html>
"""


def thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A daemon without one of its threads is none: it ends at once, and its guard does what is to be done."""
    name = failed.thread.name if failed.thread is not None else "a thread"
    _log.critical("%s failed; this is a mistake of vip, please report it", name, exc_info=failed.exc_value)
    os._exit(3)


def server_of(daemon: Daemon) -> HttpServer | None:
    """What tells about a daemon, where its configuration wants that. Raises `JlogError`."""
    if not daemon.settings.http:
        return None
    return HttpServer(
        parse_http_address(daemon.settings.http),
        metrics=registry_of(daemon),
        health=lambda: problems(daemon),
        ready=lambda: why_not(daemon),
        stat=lambda: stat(daemon),
        index=INDEX,
        setting="vip.http",
    )


def run(path: Path) -> int:
    """Run a daemon until it is told to end; the exit code. Raises `JlogError` when it cannot run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    gc.disable()  # all that is made now stays; `Daemon` collects what does not, once it is there
    settings = load(path)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    threading.excepthook = thread_failed
    daemon = Daemon(settings, server_of)

    def note(number: int, _frame: FrameType | None) -> None:
        signals.put(number)
        daemon.wake()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    _log.info("vip %s runs node %s of cluster %s", VERSION, settings.node, settings.cluster)
    return daemon.run(signals, path, Notifier())
