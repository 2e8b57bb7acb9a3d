"""jlogd over ZeroMQ: the daemon on a loopback TCP port, every batch acknowledged when it is durable.

The producer and subscriber are those of the library; only the address differs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from bench.rivals.base import Shape
from bench.rivals.jlogd_local import LOG, SUBSCRIBER, JlogdLocal
from bench.servers import Server, free_port


class JlogdDaemon(JlogdLocal):
    """A log behind a daemon."""

    key, label = "jlogd-zmq", "jlogd over ZeroMQ"

    def __init__(self, subscribers: int = 1, syslog: bool = False) -> None:
        super().__init__()
        self.names = [SUBSCRIBER, *(f"{SUBSCRIBER}{at}" for at in range(2, subscribers + 1))]
        self.syslog_port = free_port() if syslog else 0

    def missing(self) -> str:
        for module in ("jlogd.cli.jlogd", "jlogd.wire.client"):
            try:
                if importlib.util.find_spec(module) is None:
                    return f"{module} is not there yet"
            except ModuleNotFoundError:
                return f"{module} is not there yet"
        return super().missing()

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        port = free_port()
        names = ", ".join(f'"{name}"' for name in self.names)
        text = (
            f'[node]\nname = "bench"\nsubcluster = "bench"\nspool = "{directory}/spool"\n\n'
            f'[listen]\nzmq = ["tcp://127.0.0.1:{port}"]\nhttp = "127.0.0.1:{free_port()}"\n\n'
            f"[log.{LOG}]\nsubscribers = [{names}]\n"
        )
        if self.syslog_port:
            text += f'\n[[source.syslog]]\nlog = "{LOG}"\nlisten = ["tcp://127.0.0.1:{self.syslog_port}"]\n'
        config = directory / "jlogd.toml"
        config.write_text(text)
        command = [sys.executable, "-m", "jlogd.cli.jlogd", "run", "--config", str(config)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.server = Server(command, directory, environment)
        for awaited in filter(None, (port, self.syslog_port)):
            self.server.wait_for_port(awaited)
        self.address = f"tcp://127.0.0.1:{port}/{LOG}"
