"""Our addresses on the interfaces: added, refreshed and removed in bulk, each with a finite lifetime.

Lifetimes are relative and in whole seconds, the deadline is absolute. So the lifetime is computed right before each
datagram, rounded down. A datagram that turns out to have been sent late (the process was stopped in between, or had no
processor) is corrected by another one at once, or by removing the addresses when the time is up. Behind the BPF gate
none of this is needed for safety: there the lifetime is a backstop that is long and refreshed rarely.

`known` is what we believe to be there. The watcher takes an address out of it when the kernel says that it went; what
was taken out before the kernel says so, we removed ourselves.

No locks: one thread changes; single operations on `known` are atomic.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence

from vip.kernel import address_messages
from vip.kernel.address_messages import Row, Spot
from vip.kernel.clock import now_ns
from vip.kernel.errors import KernelError, in_words
from vip.kernel.gate import Gate
from vip.kernel.interface import Floating, Present
from vip.kernel.netlink import MESSAGES_PER_SEND_MAX, Netlink

SECOND_NS = 1_000_000_000

# From computing a lifetime to the kernel having taken it: packing and sending 256 messages takes a few milliseconds.
# What takes longer than this counts as a process that was stopped.
_SEND_NS = 50_000_000

# For every change of an IPv6 address the kernel walks over those of the interface: with 2,000 of them it takes 0.2 to
# 0.8 ms, and 256 messages would be late each time.
_IPV6_MESSAGES_MAX = 16

# Lifetimes that were sent late are computed and sent once more; a machine on which that is late, too, so often, is not
# one to hold addresses on.
_CORRECTIONS_MAX = 5

# Without the gate, every heartbeat would set every lifetime anew; one that gains less than this waits for the next,
# as long as this much is left. Nanoseconds.
_GAIN_NS_MIN = SECOND_NS * 9 // 10
_LEFT_NS_MIN = 2 * SECOND_NS

# Where the machine's own addresses are may change by hand; adding reads them again when it last did so this long ago.
_FOREIGN_NS = 5 * SECOND_NS

# Lateness of lifetimes: the kernel looks for ended ones no sooner than a second after it last did, plus a quarter of a
# second to gather wake-ups (net/ipv4/devinet.c, check_lifetime). An end that falls just behind a look waits that long.
LATENESS_NS = 1_300_000_000


def raw(address: str) -> bytes:
    """The 4 or 16 bytes of an address."""
    return ipaddress.ip_address(address).packed


def text(address: bytes) -> str:
    """The canonical text of an address."""
    return socket.inet_ntop(socket.AF_INET, address) if len(address) == 4 else str(ipaddress.ip_address(address))


class Addresses:
    """`gate` or None; `backstop` is the lifetime behind a gate, in seconds."""

    def __init__(self, gate: Gate | None, backstop: int, gone: Callable[[Floating], None]) -> None:
        self.known: dict[Spot, Floating] = {}
        self.refreshes = 0
        self.failures = 0
        self._gate = gate
        self._backstop = backstop
        self._gone = gone
        self._netlink = Netlink()
        self._refreshed_ns = 0
        self._ends_ns = 0
        self._foreign: dict[bytes, int] = {}
        self._foreign_ns = 0

    def close(self) -> None:
        self._netlink.close()

    # ---- changing ----------------------------------------------------------------------------------------------------

    def add(self, spots: dict[Spot, Floating], deadline_ns: int) -> dict[Floating, str]:
        """Add; the failures in words. `spots` are on interfaces that the gate is on. Raises `KernelError`."""
        failed: dict[Floating, str] = {}
        todo = []
        for spot, floating in spots.items():
            where = self._machines_own().get(spot.address)
            if where is None:
                todo.append(spot)
            else:
                failed[floating] = f"this machine's own address, on {_name(where)}; it is not touched"
        for part in _parts(todo):
            failed |= {spots[spot]: why for spot, why in self._add(part, spots, deadline_ns).items()}
        self.failures += len(failed)
        return failed

    def refresh(self, deadline_ns: int) -> None:
        """Set lifetimes anew where it is time to. Raises `KernelError`."""
        now = now_ns()
        if not self.known:
            self._refreshed_ns = now
            return
        if self._gate is not None:
            # Half of the lifetime is left when it is set anew.
            if now - self._refreshed_ns < self._backstop * SECOND_NS // 2:
                return
        else:
            gain = now + self._lifetime(deadline_ns, now) * SECOND_NS - self._ends_ns
            if gain < _GAIN_NS_MIN and self._ends_ns - now > _LEFT_NS_MIN:
                return
        self._refreshed_ns, self._ends_ns = now, 0
        for part in _parts(list(self.known)):
            self._refresh(part, deadline_ns)
        self.refreshes += 1

    def remove(self, spots: dict[Spot, Floating]) -> dict[Floating, str]:
        """Remove; returns when the kernel acknowledged; the failures in words. Raises `KernelError`."""
        for spot in spots:
            self.known.pop(spot, None)
        order = list(spots)
        with _in_words("remove addresses"):
            refused = address_messages.remove_all(self._netlink, order)
        failed = {order[failure.place]: in_words(failure.number, failure.said) for failure in refused}
        self.known.update({spot: spots[spot] for spot in failed})
        self._out_of_gate(spot for spot in order if spot not in failed)
        self.failures += len(failed)
        return {spots[spot]: why for spot, why in failed.items()}

    def remove_ours(self) -> list[Floating]:
        """Remove everything with our mark, until the kernel shows none; what was there. Raises `KernelError`."""
        was = dict(self.known)
        self.known.clear()
        removed: dict[Spot, Floating] = {}
        for _ in range(_REMOVE_TRIES):
            with _in_words("remove addresses"):
                spots, failures = address_messages.remove_ours(self._netlink)
            removed |= {spot: was.get(spot) or _floating(spot) for spot in spots}
            if not spots:
                self._out_of_gate({*was, *removed})
                return list(removed.values())
        left = ", ".join(f"{text(spots[f.place].address)} ({in_words(f.number, f.said)})" for f in failures[:3])
        raise KernelError(f"addresses of ours cannot be removed: {left or 'they come back, from somebody else'}")

    # ---- looking -----------------------------------------------------------------------------------------------------

    def _machines_own(self) -> dict[bytes, int]:
        now = now_ns()
        if now - self._foreign_ns > _FOREIGN_NS:
            with _in_words("read the addresses"):
                rows = address_messages.listed(self._netlink)
            self._foreign = {row.spot.address: row.spot.device for row in rows if not row.ours}
            self._foreign_ns = now
        return self._foreign

    # ---- parts of at most one datagram -------------------------------------------------------------------------------

    def _add(self, part: list[Spot], names: dict[Spot, Floating], deadline_ns: int) -> dict[Spot, str]:
        if self._gate is not None:
            try:
                self._gate.add(spot.address for spot in part)
            except OSError as error:
                return dict.fromkeys(part, f"no room in the gate's set: {error.strerror}")
        now = now_ns()
        valid = self._lifetime(deadline_ns, now)
        if now >= deadline_ns or valid < 1:
            self._out_of_gate(part)
            return dict.fromkeys(part, "the deadline has passed, or is too near for a lifetime of a second")
        self.known.update({spot: names[spot] for spot in part})
        with _in_words("add addresses"):
            refused = self._netlink.bulk([address_messages.add(spot, valid) for spot in part])
        failed = {part[failure.place]: in_words(failure.number, failure.said) for failure in refused}
        there = [part[failure.place] for failure in refused if failure.number == errno.EEXIST]
        if there:
            failed |= self._already_there(there, valid, failed)
        for spot in failed:
            self.known.pop(spot, None)
        self._out_of_gate(failed)
        done = {spot: names[spot] for spot in part if spot not in failed}
        if not self._in_time(list(done), now, valid, deadline_ns):
            self.remove(done)
            failed |= dict.fromkeys(done, "the deadline passed while it was added; it was removed again")
        return failed

    def _already_there(self, spots: list[Spot], valid: int, failed: dict[Spot, str]) -> dict[Spot, str]:
        """Those with our mark count as added and get their lifetime; `failed` without them."""
        with _in_words("read the addresses"):
            ours = {row.spot for row in address_messages.listed(self._netlink) if row.ours}
        mine = [spot for spot in spots if spot in ours]
        with _in_words("refresh addresses"):
            refused = self._netlink.bulk([address_messages.refresh(spot, valid) for spot in mine])
        for spot in mine:
            failed.pop(spot)
        failed |= {mine[failure.place]: in_words(failure.number, failure.said) for failure in refused}
        return failed

    def _refresh(self, part: list[Spot], deadline_ns: int) -> None:
        now = now_ns()
        valid = self._lifetime(deadline_ns, now)
        if valid < 1:
            return  # what is there ends by itself, in time
        with _in_words("refresh addresses"):
            refused = self._netlink.bulk([address_messages.refresh(spot, valid) for spot in part])
        if refused:
            self._refused([part[failure.place] for failure in refused], in_words(refused[0].number, refused[0].said))
        if not self._in_time(part, now, valid, deadline_ns):
            for floating in self.remove_ours():
                self._gone(floating)

    def _refused(self, spots: list[Spot], why: str) -> None:
        """These could not be refreshed: they are gone, and the event that said so was lost or is on its way.

        Raises `KernelError` when one is there all the same.
        """
        with _in_words("read the addresses"):
            there = {row.spot for row in address_messages.listed(self._netlink)}
        for spot in spots:
            floating = None if spot in there else self.known.pop(spot, None)
            if floating is not None:
                self._gone(floating)
        if kept := [text(spot.address) for spot in spots if spot in there]:
            raise KernelError(f"the lifetime of {kept[0]} and {len(kept) - 1} others cannot be set: {why}")

    def _lifetime(self, deadline_ns: int, now: int) -> int:
        """Seconds to give an address now."""
        if self._gate is not None:
            return self._backstop
        return (deadline_ns - now - _SEND_NS) // SECOND_NS

    def _in_time(self, part: list[Spot], computed_ns: int, valid: int, deadline_ns: int) -> bool:
        """Correct lifetimes that were sent too late, as long as there is time for that; False when there is none."""
        for _ in range(_CORRECTIONS_MAX):
            if not self._is_late(computed_ns, valid, deadline_ns):
                ends = computed_ns + valid * SECOND_NS
                self._ends_ns = min(self._ends_ns or ends, ends)
                return True
            computed_ns = now_ns()
            valid = self._lifetime(deadline_ns, computed_ns)
            if computed_ns >= deadline_ns or valid < 1:
                return False
            with _in_words("refresh addresses"):
                self._netlink.bulk([address_messages.refresh(spot, valid) for spot in part])
        return False

    def _is_late(self, computed_ns: int, valid: int, deadline_ns: int) -> bool:
        """Whether a lifetime computed then may now reach past the deadline, by more than its ordinary lateness."""
        now = now_ns()
        if self._gate is not None:
            return now >= deadline_ns
        return now - computed_ns > _SEND_NS and now + valid * SECOND_NS > deadline_ns

    def _out_of_gate(self, spots: Iterable[Spot]) -> None:
        if self._gate is not None:
            self._gate.remove(spot.address for spot in spots)


_REMOVE_TRIES = 10


def present() -> list[Present]:
    """Every address with our mark, read from the kernel now. Raises `KernelError`."""
    names = dict(socket.if_nameindex())
    found = []
    for spot, flags, ours, valid in _listed():
        if ours:
            floating = Floating(text(spot.address), names.get(spot.device) or _name(spot.device), spot.prefix_length)
            found.append(Present(floating, valid, bool(flags & address_messages.IFA_F_DADFAILED)))
    return found


def foreign() -> dict[str, str]:
    """Every address without our mark: address -> interface. Raises `KernelError`."""
    return {text(row.spot.address): _name(row.spot.device) for row in _listed() if not row.ours}


def _listed() -> list[Row]:
    with _in_words("read the addresses"):
        netlink = Netlink()  # an own socket: reading may be done by any thread
        try:
            return address_messages.listed(netlink)
        finally:
            netlink.close()


def _floating(spot: Spot) -> Floating:
    return Floating(text(spot.address), _name(spot.device), spot.prefix_length)


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}, which is gone"


def _parts(spots: Sequence[Spot]) -> Iterator[list[Spot]]:
    """At most what is done in a few milliseconds."""
    for size, most in ((4, MESSAGES_PER_SEND_MAX), (16, _IPV6_MESSAGES_MAX)):
        same = [spot for spot in spots if len(spot.address) == size]
        yield from (same[at : at + most] for at in range(0, len(same), most))


@contextlib.contextmanager
def _in_words(doing: str) -> Iterator[None]:
    """Turns an `OSError` into a `KernelError` that says what was being done."""
    try:
        yield
    except OSError as error:
        raise KernelError(f"cannot {doing}: {in_words(error.errno or errno.EIO)}") from None
