"""A second host: `--serve` lends a helper there to a check that runs here.

The protocol is that of `agent.py`, a JSON object a line over TCP, with two requests of its own:

    {"do": "hello", "protocol": 1}     first; the answer is that of `about` there, with the serving jlogd's version,
                                       the type of the file system and the identities of its disks
    {"do": "restart"}                  kill -9 the helper there, and with it its locks; the answer comes from a new one

The server relays the rest to one helper for each connection, one connection at a time, and kills it when the
connection ends. What a peer can ask for is what `agent.py` does: files of plain names in a scratch directory of the
directory that is served, bounded in number, size and time. There are no keys yet, so anyone who reaches the port may
ask; addresses beyond this host are refused unless that is declared to be wanted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import select
import socket
import time
from collections.abc import Callable

from jlogd.errors import UsageError
from jlogd.spoolcheck.agent import SECONDS_MAX, Answer
from jlogd.spoolcheck.helpers import CALL_SECONDS, Helper, Lines, NoAnswer, end_agent, start_agent
from jlogd.spoolcheck.mountinfo import gather

PROTOCOL = 1
CONNECT_SECONDS = 5.0
# A check asks something every few seconds, but for the ring; a peer that is silent for longer has gone.
IDLE_SECONDS_MAX = SECONDS_MAX + 60
REQUEST_BYTES_MAX = 2 << 20
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})", re.ASCII)

Address = tuple[str, int]


def parse_address(text: str, insecure: bool) -> Address:
    """`HOST:PORT` or `[IPv6]:PORT`. Raises UsageError, for addresses beyond this host too unless `insecure`."""
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise UsageError(f"{text!r} is not an address: write HOST:PORT or [IPv6]:PORT")
    host = found[1] or found[2].replace("localhost", "127.0.0.1")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not insecure:
        raise UsageError(
            f"{text} is not a loopback address: the peers of a check cannot tell who they talk to; use an ssh tunnel "
            "(ssh -L 5190:127.0.0.1:5190 HOST), or --insecure on a network where everyone may touch the directory"
        )
    return host, int(found[3])


class RemoteHelper(Helper):
    """A helper behind a peer."""

    def __init__(self, address: Address) -> None:
        """Raises NoAnswer."""
        shown = f"{address[0]}:{address[1]}"
        try:
            self._socket = socket.create_connection(address, CONNECT_SECONDS)
        except OSError as error:
            raise NoAnswer(f"there is no peer at {shown}: {error.strerror or error}") from None
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(Lines(self._socket.fileno(), self._socket.fileno()), f"the peer {shown}")
        try:
            start = time.time()
            self.about: Answer = self.must("hello", protocol=PROTOCOL, within=CONNECT_SECONDS)
            # The peer read its clock somewhere between; half of the round trip is the best guess.
            self.skew = float(self.about["time"]) - (start + time.time()) / 2
        except (NoAnswer, KeyError, ValueError, TypeError) as error:
            self.close()
            raise NoAnswer(f"{shown} does not answer as a peer does; does it serve another check? ({error})") from None

    def restart(self) -> None:
        """Kill -9 the helper there; a new one takes its place. Raises CallFailed, NoAnswer."""
        self.must("restart")

    def close(self) -> None:
        self._socket.close()


class Server:
    """Serves a directory to checks on other hosts, one after another."""

    def __init__(self, directory: str, address: Address, version: str) -> None:
        """Raises OSError."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=1)
        self._directory = directory
        self._version = version
        self.address: Address = self._listener.getsockname()[:2]

    def serve(self, tell: Callable[[str], None]) -> None:
        """Serve until interrupted; `tell` is given a line for each peer that comes and goes."""
        while True:
            connection, peer = self._listener.accept()
            with contextlib.closing(connection):
                tell(f"a check at {peer[0]}:{peer[1]} begins")
                session = _Session(connection, self._directory, self._version)
                try:
                    ended = session.run()
                finally:
                    session.close()
                tell(f"it ends: {ended}")

    def close(self) -> None:
        self._listener.close()


class _Session:
    """One connection, and the helper that is its."""

    def __init__(self, connection: socket.socket, directory: str, version: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(CALL_SECONDS)  # a peer that does not read its answers is let go
        self._connection = connection
        self._requests = Lines(connection.fileno(), connection.fileno())
        self._directory = directory
        self._version = version
        self._scratch = ""
        self._start()

    def _start(self) -> None:
        self._agent = start_agent(self._directory)
        assert self._agent.stdin is not None and self._agent.stdout is not None
        self._answers = Lines(self._agent.stdout.fileno(), self._agent.stdin.fileno())

    def run(self) -> str:
        """Relay until one side ends; why it did."""
        try:
            request = self._read()
            if request.get("do") != "hello" or request.get("protocol") != PROTOCOL:
                self._connection.sendall(_line({"refused": f"this peer speaks protocol {PROTOCOL}"}))
                return "it is not a check of this version"
            about = json.loads(self._relay({"do": "about"}))
            self._connection.sendall(_line({**about, **_storage(about), "version": self._version}))
            while True:
                request = self._read()
                if request.get("do") == "restart":
                    self.close()
                    self._start()
                    request = {"do": "begin", "name": self._scratch, "make": False}
                elif request.get("do") == "begin":
                    self._scratch = str(request.get("name"))
                self._connection.sendall(self._relay(request) + b"\n")
        except EOFError as error:
            return str(error) or "done"
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__

    def _read(self) -> dict[str, object]:
        """The peer's next request. Raises EOFError, OSError, ValueError."""
        line = self._requests.receive(IDLE_SECONDS_MAX)
        if len(line) > REQUEST_BYTES_MAX:
            raise ValueError("a request is too long")
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ValueError("a request is not an object")
        return request

    def _relay(self, request: dict[str, object]) -> bytes:
        """The helper's answer to it. Raises EOFError when either side ends."""
        self._answers.send(json.dumps(request).encode())
        while (answer := self._answers.take()) is None:
            ready = select.select([self._answers.read_fd, self._requests.read_fd], [], [])[0]
            # A peer says nothing before it has its answer; whatever can be read now is its end.
            if self._requests.read_fd in ready:
                raise EOFError("the peer went away in the middle of a call")
            if not self._answers.fill():
                raise EOFError("the helper ended")
        return answer

    def close(self) -> None:
        """End the helper, and its locks with it."""
        end_agent(self._agent)


def _storage(about: Answer) -> Answer:
    """What is below the directory, so that two hosts with one disk find out."""
    facts = gather(int(about["mount_id"]), str(about["path"]), int(about["magic"]))
    if facts is None:
        return {"type": "", "disks": []}
    return {"type": facts.mount.type, "disks": list(facts.device.wwids) if facts.device else []}


def _line(answer: Answer) -> bytes:
    return json.dumps(answer).encode() + b"\n"
