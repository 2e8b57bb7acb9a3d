"""Announces our addresses: a thread with packet sockets of its own, at most so many packets a second and interface.

Before every portion it looks at the deadline: past it nothing is sent, and what was due is not caught up but begun anew
when the deadline stands in the future again. When it wakes up much later than it wanted to, the process or the machine
was stopped, and others may have spoken meanwhile: all is announced from the beginning. So it is when an interface gets
its carrier back, since the switch behind it may have forgotten us.

Locks: `_lock` around the schedules and around sending what was taken from them, a millisecond at most: what was
withdrawn is not on its way any more when `withdraw` returns, so no late announcement follows an address that was handed
over. `holds` only looks, and takes none.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping

from vip.kernel import packets
from vip.kernel.addresses import SECOND_NS
from vip.kernel.clock import now_ns
from vip.kernel.schedule import Budget, Rhythm, Schedule

# Woken up this much too late counts as a stall: shorter than it takes another node to take over.
STALL_NS = SECOND_NS

# Sleep at most so long, so that stalls are noticed; and at least so long between portions, so that a rate of thousands
# of packets a second costs a hundred wake-ups.
_SLEEP_NS_MAX = SECOND_NS // 2
_SLEEP_NS_MIN = SECOND_NS // 100
_PORTION_MAX = 64


class Announcer:
    """`macs()` gives the MAC of each interface that is up; `deadline()` the deadline in ns."""

    def __init__(
        self, rhythm: Rhythm, rate: int, macs: Callable[[], Mapping[str, bytes]], deadline: Callable[[], int]
    ) -> None:
        self._rhythm = rhythm
        self._rate = rate
        self._macs = macs
        self._deadline = deadline
        self._lock = threading.Lock()
        self._schedules: dict[str, tuple[Schedule, Budget]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="vip-announcer", daemon=True)
        self.sent = 0
        self.failed = 0
        self.stalls = 0

    def start(self) -> None:
        """Raises `OSError` without CAP_NET_RAW."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setblocking(False)  # a full queue must not hold the lock
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._socket is not None:
            self._socket.close()

    def announce(self, interface: str, addresses: Iterable[bytes]) -> None:
        """From now on, and from the beginning for one that is announced already."""
        with self._lock:
            if interface not in self._schedules:
                self._schedules[interface] = Schedule(self._rhythm), Budget(self._rate, now_ns())
            self._schedules[interface][0].start(addresses, now_ns())
        self._wake.set()

    def withdraw(self, addresses: Iterable[bytes]) -> None:
        gone = list(addresses)
        with self._lock:
            for schedule, _ in self._schedules.values():
                schedule.stop(gone)

    def withdraw_all(self) -> None:
        with self._lock:
            self._schedules.clear()

    def restart(self, interface: str = "") -> None:
        """Everything from the beginning, on one interface or on all."""
        with self._lock:
            for name, (schedule, _) in self._schedules.items():
                if interface in ("", name):
                    schedule.restart(now_ns())
        self._wake.set()

    def defend(self, interface: str, address: bytes) -> None:
        """One announcement now, outside of the rhythm."""
        mac = self._macs().get(interface)
        with self._lock:
            if mac is not None and self._holds(interface, address):
                self._send(interface, packets.announcements(address, mac)[:1])

    def holds(self, interface: str, address: bytes) -> bool:
        """Whether this address is announced by us there. Asked for every packet that is heard."""
        return self._holds(interface, address)

    def _holds(self, interface: str, address: bytes) -> bool:
        known = self._schedules.get(interface)
        return known is not None and address in known[0]

    def _run(self) -> None:
        was_open = True
        wait = 0
        while not self._stopping:
            asked = now_ns()
            self._wake.wait(wait / 1e9)
            self._wake.clear()
            now = now_ns()
            is_open = now < self._deadline()
            if is_open and (not was_open or now - asked > wait + STALL_NS):
                self.stalls += 1
                self.restart()
            was_open = is_open or not any(len(schedule) for schedule, _ in list(self._schedules.values()))
            wait = self._round() if is_open else _SLEEP_NS_MAX // 10

    def _round(self) -> int:
        """Send what is due and allowed on each interface; how long to sleep then."""
        wait = _SLEEP_NS_MAX
        macs = self._macs()
        for interface in list(self._schedules):
            if interface in macs:  # a link that is down: what is due waits, and begins anew when it comes back
                wait = min(wait, self._portion(interface, macs[interface]))
        return max(wait, _SLEEP_NS_MIN)

    def _portion(self, interface: str, mac: bytes) -> int:
        while True:
            now = now_ns()
            with self._lock:
                if interface not in self._schedules:
                    return _SLEEP_NS_MAX
                schedule, budget = self._schedules[interface]
                allowed = min(budget.allowed(now) // 2, _PORTION_MAX)  # an address is two packets
                due = schedule.take(allowed, now)
                if not due:
                    next_due = schedule.next_due()
                    idle = _SLEEP_NS_MAX if next_due is None else max(0, next_due - now)
                    return idle if allowed else budget.wait_ns(2)
                todo = [packet for address in due for packet in packets.announcements(address, mac)]
                budget.spend(len(todo))
                self._send(interface, todo)

    def _send(self, interface: str, todo: Iterable[packets.Packet]) -> None:
        assert self._socket is not None
        for packet in todo:
            if now_ns() >= self._deadline():
                return
            try:
                self._socket.sendto(packet.payload, (interface, packet.protocol, 0, 0, packet.to))
                self.sent += 1
            except OSError:  # the gate dropped it, the link went, the queue is full: the next repetition may do better
                self.failed += 1
