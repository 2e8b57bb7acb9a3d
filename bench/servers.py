"""Server processes of the benchmarks: children on loopback ports, ended by their process id and never left behind.

`setpriv --pdeathsig` has the kernel end the child when the benchmark itself is killed.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS_MAX = 15.0
STOP_SECONDS_MAX = 10.0
LOG_TAIL_BYTES = 600


class ServerFailed(Exception):
    """A server did not come up; the message carries the end of its log."""


class Server:
    """One child process and the log it writes."""

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = directory / "server.log"
        prefix = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Process id of the server (`setpriv` replaces itself by it)."""
        return self.process.pid

    def wait_for_port(self, port: int) -> None:
        """Return when the server accepts connections. Raises `ServerFailed`."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        tail = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        self.stop()
        raise ServerFailed(f"{Path(self.process.args[0]).name} did not start: {tail or 'no output'}")  # type: ignore[index,arg-type]

    def stop(self) -> None:
        """End the process and wait for it."""
        atexit.unregister(self.stop)
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
