"""rsyslog and syslog-ng as relays: a central server, nodes that send to it, fed over TCP. See aggregate.py."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.crew import State
from bench.servers import Server, ServerFailed, free_port

# Where packaging/bench-syslog-ng unpacks it.
NG_UNPACKED = Path(__file__).parents[2] / "var/bench/syslog-ng"
VERSION_SECONDS_MAX = 60.0
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
    command: Sequence[str]  # empty when it is not there
    missing: str
    arguments: tuple[str, ...]
    forms: tuple[str, str]
    values: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, directory: Path, nodes: int) -> Iterator[tuple[Path, list[int]]]:
        """The file that is written, and the ports of the nodes."""
        servers: list[Server] = []
        file, central = directory / "all", free_port()
        values = self.values if self.key != "syslog-ng" else {"version": self._version()}

        def start(name: str, form: str, port: int) -> None:
            place = directory / name
            place.mkdir()
            config = place / "conf"
            config.write_text(form.format(directory=place, file=file, port=port, central=central, **values))
            servers.append(Server([*self.command, *self.arguments, *self._own(place), "-f", str(config)], place))
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

    def _version(self) -> str:
        """That of the configuration."""
        told = subprocess.run(
            [*self.command, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS_MAX, check=False
        )
        version = re.search(r"^Config version: (\S+)", told.stdout, re.MULTILINE)
        if version is None:
            raise ServerFailed(f"syslog-ng does not start: {told.stderr.strip()[-200:]}")
        return version[1]

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
    without_ng = "syslog-ng is not installed (it excludes rsyslog on Debian), nor unpacked by packaging/bench-syslog-ng"
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
            "syslog-ng", "syslog-ng", "disk-buffer reliable, file fsync", _ng_command(), without_ng,
            ("-F", "--no-caps"), (_NG_NODE, _NG_CENTRAL),
        ),
    ]  # fmt: skip


def _program(name: str) -> list[str]:
    places = (Path(place) / name for place in ("/usr/sbin", "/usr/local/sbin"))
    found = shutil.which(name) or next((str(path) for path in places if path.exists()), "")
    return [found] if found else []


def _ng_command() -> list[str]:
    """How syslog-ng is started: as it is installed, or with what it was unpacked with; empty when it is not there."""
    program, unpacked = _program("syslog-ng"), NG_UNPACKED / "usr/sbin/syslog-ng"
    if program or not unpacked.exists():
        return program
    libraries = dict.fromkeys(str(path.parent) for path in NG_UNPACKED.rglob("*.so.*"))
    modules = [str(path) for path in NG_UNPACKED.glob("usr/lib/syslog-ng/[0-9]*")]
    paths = f"LD_LIBRARY_PATH={os.pathsep.join(libraries)}"
    return ["env", paths, str(unpacked), f"--module-path={os.pathsep.join(modules)}"]
