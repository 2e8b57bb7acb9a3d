"""`LinuxKernel`: the kernel's half as `interface.Kernel` wants it, put together from its parts.

    deadline  -> gate (one store), guard (one store), announcer (reads it)
    add       -> gate's set, then netlink                    remove -> announcer, netlink, then gate's set
    watcher   -> what happened without our asking

One daemon to a network namespace: it holds the abstract socket `jlogd-vip`, and its guard holds it too, so that a next
run begins only after the guard of the last has cleaned up.

Locks: none of its own. `set_deadline` and `set_farewell` from any thread, reading from any thread, the rest from one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vip.kernel import addresses, advice, gate, links
from vip.kernel.address_messages import Spot, remove, remove_ours
from vip.kernel.addresses import SECOND_NS, Addresses, raw
from vip.kernel.announcer import Announcer
from vip.kernel.errors import KernelError, in_words
from vip.kernel.gate import Gate, NoGate
from vip.kernel.guard import Guard
from vip.kernel.interface import (
    AddressGone,
    Capabilities,
    Counters,
    Floating,
    KernelEvent,
    KernelSettings,
    LinkState,
    Present,
)
from vip.kernel.listener import Listener
from vip.kernel.netlink import Netlink
from vip.kernel.packets import mac_text
from vip.kernel.schedule import Rhythm
from vip.kernel.watcher import Watcher

_log = logging.getLogger("vip")

_ALONE = "\0jlogd-vip"
# A guard of the last run that is at work is waited for this long. Seconds.
_ALONE_SECONDS_MAX = 10.0

_IPV4_BITS, _IPV6_BITS = 32, 128


class LinuxKernel:
    """See `interface.Kernel`, which says what each method promises."""

    def __init__(self, settings: KernelSettings) -> None:
        self._settings = settings
        self._interfaces = set(settings.interfaces)
        self._deadline_ns = 0
        self._gate: Gate | None = None
        self._parts: _Parts | None = None
        self._alone: socket.socket | None = None

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self, on_event: Callable[[KernelEvent], None]) -> Capabilities:
        try:
            self._alone = _alone()
            _clean_slate()
            indexes = self._indexes(self._interfaces)
            remarks = self._start_gate(indexes) + advice.remarks(links.read(), self._interfaces)
            self._parts = _Parts(self._settings, self._gate, self._alone.fileno(), lambda: self._deadline_ns, on_event)
        except BaseException:
            self.stop()
            raise
        if self._gate is not None:
            return Capabilities("bpf", gate.LATENESS_NS, tuple(remarks))
        return Capabilities("lifetime", addresses.LATENESS_NS, tuple(remarks))

    def stop(self) -> None:
        self._deadline_ns = 0
        parts, the_gate, alone = self._parts, self._gate, self._alone
        self._parts = self._gate = self._alone = None
        with contextlib.ExitStack() as ending:  # in the reverse order, whatever fails on the way
            if alone is not None:
                ending.callback(alone.close)
            if the_gate is not None:
                ending.callback(the_gate.close)
            if parts is not None:
                ending.callback(parts.stop)

    def set_interfaces(self, interfaces: Collection[str]) -> None:
        wanted = set(interfaces)
        indexes = self._indexes(wanted)
        if self._gate is not None:
            for name in wanted - set(self._gate.interfaces):
                self._gate.attach(name, indexes[name])
            for name in set(self._gate.interfaces) - wanted:
                self._gate.detach(name)
        self._interfaces = wanted
        self._running().interfaces = wanted

    # ---- the deadline --------------------------------------------------------------------------------------------

    def set_deadline(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        if self._gate is not None:
            self._gate.set_deadline(deadline_ns)
        if self._parts is not None:
            self._parts.guard.set_deadline(deadline_ns)

    def refresh(self, deadline_ns: int) -> None:
        parts = self._running()
        parts.addresses.refresh(deadline_ns)
        if broken := parts.broken():
            raise KernelError(broken)

    def set_farewell(self, farewell: bytes) -> None:
        self._running().guard.set_farewell(farewell)

    # ---- addresses -----------------------------------------------------------------------------------------------

    def present(self) -> list[Present]:
        return addresses.present()

    def foreign(self) -> dict[str, str]:
        return addresses.foreign()

    def add(self, wanted: Sequence[Floating], deadline_ns: int) -> dict[Floating, str]:
        parts = self._running()
        if broken := parts.broken():
            return dict.fromkeys(wanted, broken)
        spots, failed = self._spots(wanted)
        if spots:
            failed |= parts.addresses.add(spots, deadline_ns)
        return failed

    def remove(self, unwanted: Sequence[Floating]) -> dict[Floating, str]:
        parts = self._running()
        parts.announcer.withdraw(raw(floating.address) for floating in unwanted)
        return parts.addresses.remove(self._whereabouts(parts, unwanted))

    def remove_all(self) -> list[Floating]:
        parts = self._running()
        parts.announcer.withdraw_all()
        return parts.addresses.remove_ours()

    # ---- the network ---------------------------------------------------------------------------------------------

    def probe(self, wanted: Sequence[Floating], window_ns: int) -> dict[str, str]:
        by_interface: dict[str, list[bytes]] = {}
        for floating in wanted:
            by_interface.setdefault(floating.interface, []).append(raw(floating.address))
        found = self._running().listener.probe(by_interface, window_ns)
        return {addresses.text(address): mac_text(mac) for address, mac in found.items()}

    def announce(self, wanted: Sequence[Floating]) -> None:
        by_interface: dict[str, list[bytes]] = {}
        there = set(self._running().addresses.known.values())
        for floating in wanted:
            if floating not in there:  # what is not there is never announced, whoever asks for it
                continue
            by_interface.setdefault(floating.interface, []).append(raw(floating.address))
        for interface, some in by_interface.items():
            self._running().announcer.announce(interface, some)

    def links(self) -> dict[str, LinkState]:
        return links.read()

    def counters(self) -> Counters:
        return Counters(self._running().counts())

    # ---- helpers -------------------------------------------------------------------------------------------------

    def _running(self) -> _Parts:
        if self._parts is None:
            raise KernelError("the kernel's half is not started, or was stopped")
        return self._parts

    def _indexes(self, interfaces: Collection[str]) -> dict[str, int]:
        there = {name: index for index, name in socket.if_nameindex()}
        missing = sorted(set(interfaces) - set(there))
        if missing:
            raise KernelError(f"no interface {missing[0]} on this machine; there are {', '.join(sorted(there))}")
        return {name: there[name] for name in interfaces}

    def _start_gate(self, indexes: Mapping[str, int]) -> list[str]:
        """Install the gate, closed, where it can be had; remarks when it cannot."""
        if self._settings.gate == "lifetime":
            for index in indexes.values():
                gate.remove_leftover(index)
            return []
        try:
            self._gate = Gate()
            for name, index in indexes.items():
                self._gate.attach(name, index)
        except NoGate as error:
            if self._gate is not None:
                self._gate.close()
                self._gate = None
            if self._settings.gate == "bpf":
                raise
            return [f"{error}; only the lifetimes of the addresses end them, up to 1.3 s late"]
        return [] if self._gate.clock == "boot" else ["the gate's clock stands still while the machine sleeps"]

    def _spots(self, wanted: Sequence[Floating]) -> tuple[dict[Spot, Floating], dict[Floating, str]]:
        """Where each is to be put, in the kernel's terms; and those that cannot be, with the reason."""
        indexes = {name: index for index, name in socket.if_nameindex()}
        spots: dict[Spot, Floating] = {}
        failed: dict[Floating, str] = {}
        for floating in wanted:
            why = self._unfit(floating, indexes)
            if why:
                failed[floating] = why
            else:
                spots[Spot(raw(floating.address), indexes[floating.interface], floating.prefix_length)] = floating
        return spots, failed

    def _whereabouts(self, parts: _Parts, unwanted: Sequence[Floating]) -> dict[Spot, Floating]:
        """Where these are; left out is what is nowhere, since it went with its interface.

        Where it was put counts, by the number of the interface: its name may be another one by now, or another's, and
        whoever is told that an address is gone hands it to another node.
        """
        indexes = {name: index for index, name in socket.if_nameindex()}
        put: dict[bytes, Spot] | None = None
        spots = {}
        for floating in unwanted:
            address, index = raw(floating.address), indexes.get(floating.interface)
            spot = Spot(address, index, floating.prefix_length) if index is not None else None
            if spot not in parts.addresses.known:
                if put is None:
                    put = {known.address: known for known in list(parts.addresses.known)}
                spot = put.get(address, spot)
            if spot is not None:
                spots[spot] = floating
        return spots

    def _unfit(self, floating: Floating, indexes: Mapping[str, int]) -> str:
        if floating.interface not in self._interfaces:
            return f"{floating.interface} is not among the interfaces of the configuration"
        index = indexes.get(floating.interface)
        if index is None:
            return f"no interface {floating.interface} on this machine"
        if not 0 < floating.prefix_length <= (_IPV6_BITS if ":" in floating.address else _IPV4_BITS):
            return f"a prefix length of {floating.prefix_length} is not possible"
        if self._gate is not None and self._gate.interfaces.get(floating.interface) != index:
            try:  # the interface went and came back as a new one
                self._gate.attach(floating.interface, index)
            except NoGate as error:
                return str(error)
        return ""


class _Parts:
    """What exists between start and stop. Raises `KernelError`."""

    def __init__(
        self,
        settings: KernelSettings,
        the_gate: Gate | None,
        held: int,
        deadline: Callable[[], int],
        on_event: Callable[[KernelEvent], None],
    ) -> None:
        self.interfaces = set(settings.interfaces)
        rhythm = Rhythm(
            settings.announce_times,
            int(settings.announce_gap_seconds * SECOND_NS),
            int(settings.announce_refresh_seconds * SECOND_NS),
        )
        self._report = on_event
        self.addresses = Addresses(the_gate, settings.backstop_lifetime_seconds, self._gone)
        self.guard = Guard(the_gate.fd if the_gate is not None else -1, held)
        self.announcer = Announcer(rhythm, settings.announce_rate_max, self._macs, deadline)
        self.listener = Listener(self.announcer, self._macs, on_event)
        self.watcher: Watcher | None = None
        try:
            self.guard.start()  # before there are threads
            with _raw_sockets():
                self.listener.start()
                self.announcer.start()
            self.watcher = Watcher(self.addresses, self.announcer, self.listener, self.guard, self._gone, on_event)
            self.watcher.start()
        except BaseException:
            self.stop()
            raise

    def _gone(self, floating: Floating) -> None:
        """An address went without our asking: it is not announced any more, whatever becomes of the deadline."""
        self.announcer.withdraw([raw(floating.address)])
        self._report(AddressGone(floating))

    def stop(self) -> None:
        """End the threads, remove what is left, then let the guard go."""
        self.announcer.stop()
        if self.watcher is not None:
            self.watcher.stop()
        try:
            self.addresses.remove_ours()
        finally:
            self.guard.close()
            self.listener.close()
            self.addresses.close()

    def broken(self) -> str:
        """Which thread ended although nobody asked; nothing when all run. It is a fault of ours, and was logged."""
        alive = self.announcer.alive and self.watcher is not None and self.watcher.alive
        return (
            "" if alive else "a thread that announces or listens has failed (its traceback is in the log); restart vip"
        )

    def counts(self) -> dict[str, int]:
        watcher = self.watcher
        return {
            "announcements_sent": self.announcer.sent,
            "announcements_failed": self.announcer.failed,
            "announce_stalls": self.announcer.stalls,
            "probes_sent": self.listener.probes,
            "conflicts": self.listener.conflicts,
            "refreshes": self.addresses.refreshes,
            "address_failures": self.addresses.failures,
            "guard_restarts": watcher.guard_restarts if watcher is not None else 0,
            "events_lost": watcher.events_lost if watcher is not None else 0,
        }

    def _macs(self) -> dict[str, bytes]:
        """MAC of each of our interfaces that is up."""
        known = self.watcher.links if self.watcher is not None else {}
        up = (state for state in known.values() if state.up and state.name in self.interfaces)
        return {state.name: bytes.fromhex(state.mac.replace(":", "")) for state in up if state.mac}


def _alone() -> socket.socket:
    """Holds the namespace for this process and its guard. Raises `KernelError`."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    until, told = time.monotonic() + _ALONE_SECONDS_MAX, False
    while True:
        try:
            holder.bind(_ALONE)
            return holder
        except OSError as error:
            if not told and error.errno == errno.EADDRINUSE:
                told = True
                _log.info("another vip daemon, or the guard of the last one, is still here: waiting for its end")
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                holder.close()
                raise KernelError(
                    "another vip daemon, or the guard of the last one, is at work in this network namespace "
                    "(it holds the abstract socket @jlogd-vip; `ss -xlp` shows its process); end it first"
                ) from None
        time.sleep(0.05)


def _clean_slate() -> None:
    """Remove what a former run left, before its filter is replaced by ours. Raises `KernelError`."""
    netlink = Netlink()
    try:
        # Nobody has this address; without the privilege the kernel does not even look.
        for failure in netlink.bulk([remove(Spot(bytes(4), 1, _IPV4_BITS))]):
            if failure.number == errno.EPERM:
                raise KernelError(f"addresses cannot be changed: {in_words(errno.EPERM)}")
        _, failures = remove_ours(netlink)
    except OSError as error:
        raise KernelError(f"cannot read the addresses: {in_words(error.errno or errno.EIO)}") from None
    finally:
        netlink.close()
    if failures:
        said = in_words(failures[0].number, failures[0].said)
        raise KernelError(f"{len(failures)} addresses of a former run cannot be removed: {said}")


@contextlib.contextmanager
def _raw_sockets() -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise KernelError(
            "packets cannot be sent: CAP_NET_RAW is missing (run as root, or with "
            "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)"
        ) from None
