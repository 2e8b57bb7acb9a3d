"""The thread that hears what happens without our asking: addresses and links of the kernel, the guard, the network.

    events of the kernel  ->  `gone` (AddressGone), LinkChanged, EventsLost
    the guard's socket    ->  GuardDied, and a new guard
    packets               ->  Listener

Nothing here waits for anybody: what is heard is handed to `report`, which only puts it into a queue.

Locks: none; `links` is replaced as a whole.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Mapping

from vip.kernel import links
from vip.kernel.addresses import SECOND_NS, Addresses
from vip.kernel.announcer import Announcer
from vip.kernel.clock import now_ns
from vip.kernel.errors import KernelError
from vip.kernel.guard import Guard
from vip.kernel.interface import EventsLost, Floating, GuardDied, KernelEvent, LinkChanged, LinkState
from vip.kernel.links import Events, LinkEvent
from vip.kernel.listener import Listener

# Events may be lost without a word; links are read again at least this often. It is also how often a guard that could
# not be started is tried again.
_LOOK_NS = 5 * SECOND_NS
# Changes of links come in bursts; they are read once, this long after the first.
_GATHER_NS = SECOND_NS // 50


class Watcher:
    """Ends by `stop`. `guard_restarts` and `events_lost` are counts for metrics."""

    def __init__(
        self,
        addresses: Addresses,
        announcer: Announcer,
        listener: Listener,
        guard: Guard,
        gone: Callable[[Floating], None],
        report: Callable[[KernelEvent], None],
    ) -> None:
        self._addresses = addresses
        self._announcer = announcer
        self._listener = listener
        self._guard = guard
        self._gone = gone
        self._report = report
        self._events = Events()
        self._wake, self._waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._look_ns = 0
        self._guard_ns = 0
        self._thread = threading.Thread(target=self._run, name="vip-watcher", daemon=True)
        self._stopping = False
        self.links: Mapping[str, LinkState] = links.read()
        self.guard_restarts = 0
        self.events_lost = 0

    def start(self) -> None:
        self._look_ns = now_ns() + _LOOK_NS
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping = True
        os.write(self._waking, b"x")
        if self._thread.is_alive():
            self._thread.join()
        self._events.close()
        os.close(self._wake)
        os.close(self._waking)

    def _run(self) -> None:
        while not self._stopping:
            poll = select.poll()
            handlers: dict[int, Callable[[], object]] = {self._events.socket.fileno(): self._hear_kernel}
            for heard in self._listener.sockets:
                handlers[heard.fileno()] = _reader(self._listener, heard)
            if self._guard.fileno() >= 0:
                handlers[self._guard.fileno()] = self._look_after_guard
            for descriptor in (*handlers, self._wake):
                poll.register(descriptor, select.POLLIN)
            wait = max(0, min(self._look_ns, self._guard_ns or self._look_ns) - now_ns())
            for descriptor, _ in poll.poll(wait / 1e6):
                if descriptor in handlers:
                    handlers[descriptor]()
            self._on_time()

    def _on_time(self) -> None:
        now = now_ns()
        if now >= self._look_ns:
            self._look_ns = now + _LOOK_NS
            self._look_at_links()
        if self._guard_ns and now >= self._guard_ns:
            self._look_after_guard()

    def _hear_kernel(self) -> None:
        try:
            for event in self._events.read():
                if isinstance(event, LinkEvent):
                    self._look_ns = min(self._look_ns, now_ns() + _GATHER_NS)
                    continue
                floating = self._addresses.known.pop(event.spot, None)
                if floating is not None:
                    self._gone(floating)
        except OSError:  # ENOBUFS: some were lost
            self.events_lost += 1
            self._look_ns = 0
            self._report(EventsLost())

    def _look_at_links(self) -> None:
        try:
            now = links.read()
        except KernelError:  # tried again at the next look
            return
        before, self.links = self.links, now
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if new is None and old is not None:
                new = LinkState(name, old.index, False, old.mac, old.carrier_changes)
            if new is not None and new != old:
                self._report(LinkChanged(new))
                if new.up:  # the switch may have forgotten us, or the MAC is another one
                    self._announcer.restart(name)

    def _look_after_guard(self) -> None:
        why = self._guard.died()
        if why is None:
            return
        try:
            self._guard.start()
            self._guard_ns = 0
            self.guard_restarts += 1
            self._report(GuardDied(True, why))
        except KernelError as error:
            if not self._guard_ns:
                self._report(GuardDied(False, f"{why}; {error}"))
            self._guard_ns = now_ns() + _LOOK_NS


def _reader(listener: Listener, heard: socket.socket) -> Callable[[], object]:
    return lambda: listener.read(heard)
