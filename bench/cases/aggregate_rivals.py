"""rsyslog and syslog-ng as relays: a central server, nodes that send to it, fed over TCP. See aggregate.py."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.crew import State
from bench.servers import Server, free_port

_NODE = """\
global(workDirectory="{directory}" processInternalMessages="off" maxMessageSize="64k")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="out") {{
  action(type="omfwd" target="127.0.0.1" port="{central}" protocol="tcp" template="raw" action.resumeRetryCount="-1"
         queue.type="{queue}" queue.filename="queue" queue.syncQueueFiles="on" queue.saveOnShutdown="on"
         queue.maxDiskSpace="8g" queue.checkpointInterval="1000")
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="out")
"""
_CENTRAL = """\
global(workDirectory="{directory}" processInternalMessages="off" maxMessageSize="64k")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="in") {{
  action(type="omfile" file="{file}" template="raw" sync="on" flushOnTXEnd="on" asyncWriting="off")
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="in")
"""
_NG_NODE = """\
@version: {version}
source in {{ network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse)); }};
destination out {{ network("127.0.0.1" port({central}) transport("tcp") template("$MSG\\n")
  disk-buffer(reliable(yes) disk-buf-size(4294967296) dir("{directory}"))); }};
log {{ source(in); destination(out); flags(flow-control); }};
"""
_NG_CENTRAL = """\
@version: {version}
source in {{ network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse)); }};
destination out {{ file("{file}" template("$MSG\\n") fsync(yes)); }};
log {{ source(in); destination(out); flags(flow-control); }};
"""


@dataclass(frozen=True)
class Rival:
    """A program, how it is started, and its configuration at a node and in the middle."""

    key: str
    label: str
    durability: str
    program: str
    missing: str
    arguments: tuple[str, ...]
    forms: tuple[str, str]
    values: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, directory: Path, nodes: int) -> Iterator[tuple[Path, list[int]]]:
        """The file that is written, and the ports of the nodes."""
        servers: list[Server] = []
        file, central = directory / "all", free_port()

        def start(name: str, form: str, port: int) -> None:
            place = directory / name
            place.mkdir()
            config = place / "conf"
            config.write_text(form.format(directory=place, file=file, port=port, central=central, **self.values))
            servers.append(Server([self.program, *self.arguments, *self._own(place), "-f", str(config)], place))
            servers[-1].wait_for_port(port)

        try:
            start("central", self.forms[1], central)
            ports = [free_port() for _ in range(nodes)]
            for at, port in enumerate(ports):
                start(f"node{at}", self.forms[0], port)
            yield file, ports
        finally:
            for server in reversed(servers):
                server.stop()

    def _own(self, place: Path) -> list[str]:
        """What would be shared otherwise."""
        if self.key.startswith("rsyslog"):
            return ["-i", str(place / "pid")]
        return [f"--{what}={place}/{what}" for what in ("persist-file", "pidfile", "control")]

    @staticmethod
    def send(state: State, port: int, data: bytes, times: int) -> None:
        """Lines over TCP; the end of the server ends it."""
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                for _ in range(times):
                    connection.sendall(data)
        except OSError:
            return


def rivals() -> list[Rival]:
    """All of them, installed or not."""
    rsyslog, missing = _program("rsyslogd"), "rsyslogd is not installed"
    forms = (_NODE, _CENTRAL)
    assisted, on_disk = {"queue": "LinkedList"}, {"queue": "Disk"}
    return [
        Rival(
            "rsyslog", "rsyslog, disk-assisted queue", "queue synced when on disk, file synced", rsyslog, missing,
            ("-n",), forms, assisted,
        ),
        Rival(
            "rsyslog-disk", "rsyslog, queue on disk", "queue synced, file synced", rsyslog, missing, ("-n",), forms,
            on_disk,
        ),
        Rival(
            "syslog-ng", "syslog-ng", "disk-buffer reliable, file fsync", _program("syslog-ng"),
            "syslog-ng is not installed (it excludes rsyslog on Debian)", ("-F", "--no-caps"), (_NG_NODE, _NG_CENTRAL),
            {"version": "3.38"},
        ),
    ]  # fmt: skip


def _program(name: str) -> str:
    places = (Path(place) / name for place in ("/usr/sbin", "/usr/local/sbin"))
    return shutil.which(name) or next((str(path) for path in places if path.exists()), "")
