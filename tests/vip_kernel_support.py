"""What the tests of the kernel's half share: a kernel in a namespace, and a process that holds addresses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vip_net import TESTS, Net, inside, now_ns

from vip.kernel import open_kernel
from vip.kernel.interface import Floating, KernelEvent, KernelSettings
from vip.kernel.linux import LinuxKernel

ROOT = TESTS.parent
# What is not there in this time never comes. Machines are slow and shared.
SECONDS_MAX = 60.0
SECOND = 1_000_000_000
LONG = 3600 * SECOND


def until(true: Callable[[], Any], what: str) -> Any:
    """What `true` returns once that is true."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:g} s: {what}"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def running(net: Net, node: str, **settings: Any) -> Iterator[tuple[LinuxKernel, list[KernelEvent]]]:
    """A started kernel on a node, its deadline an hour away, and its events; this thread is in the namespace."""
    events: list[KernelEvent] = []
    with inside(net.namespace(node)):
        kernel = open_kernel(KernelSettings(**{"interfaces": ("lan",), **settings}))
        assert isinstance(kernel, LinuxKernel)
        kernel.start(events.append)
        try:
            kernel.set_deadline(now_ns() + LONG)
            yield kernel, events
        finally:
            kernel.stop()


def floating(address: str, interface: str = "lan") -> Floating:
    return Floating(address, interface, 128 if ":" in address else 32)


def shown(net: Net, node: str, interface: str = "lan") -> list[str]:
    """The addresses of an interface as `ip` shows them, in its order; link-local ones left out."""
    words = net.run(node, "ip", "-o", "addr", "show", "dev", interface).splitlines()
    found = [line.split()[3].split("/")[0] for line in words]
    return [address for address in found if not address.startswith("fe80:")]


class Holder:
    """A `vip_holder.py` on a node; a context manager that kills what is left of it."""

    def __init__(
        self,
        net: Net,
        node: str,
        addresses: Sequence[Floating],
        window: float = 3.0,
        wrap: Sequence[str] = (),
        **wish: Any,
    ) -> None:
        wish |= {"addresses": [list(one) for one in addresses], "window": window}
        wish.setdefault("interfaces", ["lan"])
        command = [*wrap, sys.executable, str(TESTS / "vip_holder.py"), json.dumps(wish)]
        self.said: list[dict[str, Any]] = []
        self.process = net.popen(
            node,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.errors = ""
        self._listener = threading.Thread(target=self._read_errors, daemon=True)
        self._listener.start()
        self.start = until(lambda: self._first("ready") or self.process.poll() is not None, "the holder is ready")
        if self.start is True:
            self._listener.join(SECONDS_MAX)
            raise AssertionError(f"the holder did not start: {self.errors}")

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.pid, self.guard):
            for number in (signal.SIGCONT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.wait(SECONDS_MAX)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def guard(self) -> int:
        found: int = self.start["guard"]
        return found

    def deadline(self) -> int:
        """The last deadline it set, or is about to set."""
        return max(line["deadline"] for line in list(self.said) if "deadline" in line)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.said) if line.get("event") == name]

    def quiet(self) -> None:
        """No more deadlines from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"quiet\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """A clean end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(SECONDS_MAX) == 0, self.errors

    def _first(self, key: str) -> dict[str, Any] | None:
        return next((line for line in list(self.said) if key in line), None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line.decode()


def kill_hard(*pids: int) -> None:
    """All at once: stopped first, so that none sees another die."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
