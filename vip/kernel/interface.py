"""What the deciding half needs from the kernel's half, and nothing more.

    decisions (vip/*.py)  --calls-->  Kernel  --netlink, packets, BPF-->  the kernel
                          <--events--

One `Kernel` works in the network namespace of its process. The deciding half never opens a netlink socket and the
kernel's half never decides who owns what; it only guarantees that nothing of ours is announced past the deadline.

Time: every `_ns` is CLOCK_BOOTTIME in nanoseconds, absolute where it is called a deadline. Wall clocks are not used.

Threads: the deciding half calls `set_deadline` from its heartbeat thread and all other methods that change
something (`add`, `remove`, `remove_all`, `refresh`, `probe`) from one single thread, its "hands"; reading methods may
be called from any thread. `on_event` of `start` is called from a thread of the kernel's half and only puts the event
into a queue. No method may wait longer than its docstring says.

Addresses are canonical text (`str(ipaddress.ip_address(...))`): "10.1.1.10", "2001:db8::10".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

# The tag (IFA_PROTO) of every address that we add, by which a later run knows its own. Above 0x80: not the kernel's.
ADDRESS_TAG = 0x9C

# What silences an address when nobody calls us any more: the BPF egress gate compares an absolute deadline; without
# it only the lifetimes of the addresses do, which end up to a second and a bit late.
GateKind = Literal["bpf", "lifetime"]


class Floating(NamedTuple):
    """An address and where it is put on this node."""

    address: str
    interface: str
    prefix_length: int


@dataclass(frozen=True, slots=True)
class Present:
    """An address that carries our tag and is on an interface now."""

    floating: Floating
    # Seconds the kernel will still keep it; None when it has no end, which is always a fault of ours.
    valid_seconds: int | None
    # Duplicate address detection of the kernel refused it (only when somebody switched it on by force).
    dad_failed: bool = False


@dataclass(frozen=True, slots=True)
class LinkState:
    """One interface as it is now. `up` is administratively up *and* carrier (IFF_UP and IFF_LOWER_UP)."""

    name: str
    index: int
    up: bool
    mac: str
    # How often the carrier changed since the interface exists; 0 when the kernel does not tell.
    carrier_changes: int = 0


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface came, went, got or lost its carrier. `link.up` is False for one that went."""

    link: LinkState


@dataclass(frozen=True, slots=True)
class AddressGone:
    """An address of ours went without our asking: by hand, by another program, or by its lifetime."""

    floating: Floating


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another host announced or answered for an address that we hold; `defended` when we announced it again at once.

    At most one defence per address in ten seconds (RFC 5227, 2.4).
    """

    address: str
    interface: str
    mac: str
    defended: bool


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The event socket overflowed (ENOBUFS): whatever was known may be old; everything is to be read again."""


@dataclass(frozen=True, slots=True)
class GuardDied:
    """The guard process ended although nobody asked; a new one was (`restarted`) or could not be started."""

    restarted: bool
    why: str


KernelEvent = LinkChanged | AddressGone | Conflict | EventsLost | GuardDied


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """How the kernel's half works; a snapshot of the configuration."""

    # "auto" takes the BPF gate where it can be had; "bpf" refuses to start without; "lifetime" never tries.
    gate: Literal["auto", "bpf", "lifetime"] = "auto"
    # Interfaces that floating addresses may be put on; the gate is installed, closed, on each before the first add.
    interfaces: tuple[str, ...] = ()
    # Announcements: how many times, how far apart, and the slow repetition for ever after.
    announce_times: int = 5
    announce_gap_seconds: float = 1.1
    announce_refresh_seconds: float = 45.0
    # Packets a second and interface, so that ten thousand announcements do not drown a network.
    announce_rate_max: int = 2000
    # Behind the BPF gate lifetimes are a second line; they may be long and are refreshed rarely: every half of this, so
    # that ten thousand addresses take less than a hundredth of a core. Seconds.
    backstop_lifetime_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this kernel and these privileges allow, found out once by `Kernel.start`; shown by `vip show`."""

    gate: GateKind
    # Worst lateness of the enforcement after the deadline (J), as this gate guarantees it. Nanoseconds.
    lateness_ns: int
    # In words, for every thing that was tried and is not to be had: "no BPF gate: operation not permitted, ..."
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counters:
    """Monotonic counts since start, for metrics; names become vip_kernel_<name>_total."""

    values: Mapping[str, int] = field(default_factory=dict)


class Kernel(Protocol):
    """Addresses of this network namespace, under one deadline."""

    # ---- life ----------------------------------------------------------------------------------------------------

    def start(self, on_event: Callable[[KernelEvent], None]) -> Capabilities:
        """Open sockets, install the gate (closed: deadline 0) on every interface, start the guard, then the threads.

        The guard is started before any thread exists in this process. Raises `KernelError` (a `JlogError`, message
        with what to do) when a privilege or an interface is missing. May take a second.
        """

    def stop(self) -> None:
        """End threads, guard and gate. Addresses must have been removed before; any left are removed. Idempotent."""

    def set_interfaces(self, interfaces: Collection[str]) -> None:
        """After a reload: install the gate on new interfaces, take it off those no longer named (none of our
        addresses may be on them). Raises `KernelError` for an interface that does not exist."""

    # ---- the deadline --------------------------------------------------------------------------------------------

    def set_deadline(self, deadline_ns: int) -> None:
        """Nothing of ours may be announced, answered or sent at or after `deadline_ns`; 0 closes everything at once.

        O(1), no system call that can wait, callable at any time from any thread: a store into the memory shared with
        the guard and into the map of the gate. It may go back (to 0, when the session is lost). The guard removes all
        addresses once CLOCK_BOOTTIME passes it. The announcer looks at it before every packet. A new deadline never
        brings an address back: only `add` does.
        """

    def refresh(self, deadline_ns: int) -> None:
        """Lifetimes of all present addresses of ours set anew, in bulk, so that none outlives `deadline_ns`
        (rounded down to seconds) - or, behind the BPF gate, `backstop_lifetime_seconds`, whatever calls for fewer
        system calls: with that gate most calls do nothing.

        Called after every committed heartbeat. Must compute from the clock immediately before sending; when it finds
        itself late after sending (the process was paused in between) it removes all addresses and says AddressGone.
        An address that is no longer there stays gone (no RTM_NEWADDR that could create it: use NLM_F_REPLACE without
        NLM_F_CREATE, and take what the kernel does where it creates regardless as a fault to prevent).
        """

    def set_farewell(self, farewell: bytes) -> None:
        """What the guard hands to `vip.farewell.say(farewell)` after the daemon died (end of its pipe) and after the
        kernel acknowledged the removal of every address; b"" for nothing. At most 64 KiB; O(1), any thread.

        `vip.farewell` is imported by the guard at its start; `say` returns within two seconds and never raises. It is
        not called when the guard removed the addresses because of the deadline.
        """

    # ---- addresses -----------------------------------------------------------------------------------------------

    def present(self) -> list[Present]:
        """All addresses with our tag on any interface, read from the kernel now. 10,000 in well under 100 ms."""

    def foreign(self) -> dict[str, str]:
        """Addresses on this machine that are not ours (without our tag): address -> interface. Its own addresses; a
        floating address among them is refused by the deciding half."""

    def add(self, addresses: Sequence[Floating], deadline_ns: int) -> dict[Floating, str]:
        """Add in bulk, with our tag, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, finite lifetime as in `refresh`; into the
        gate's set first. Returns when the kernel acknowledged; the failures with their reason in words.

        One that is there with our tag counts as added; one there without is a failure. Refuses all, in words, at or
        after `deadline_ns`. The caller hands in at most 500 at once.
        """

    def remove(self, addresses: Sequence[Floating]) -> dict[Floating, str]:
        """Remove in bulk; returns when the kernel acknowledged every one; the failures with their reason. One that is
        not there is no failure. Out of the gate's set afterwards. Withdraws announcements of them first."""

    def remove_all(self) -> list[Floating]:
        """Remove every address with our tag, read back, repeat until none is left; what was removed.

        Kernels older than the tag (before 5.18) know ours by a second mark. Raises `KernelError` when some could not be
        removed.
        """

    # ---- the network ---------------------------------------------------------------------------------------------

    def probe(self, addresses: Sequence[Floating], window_ns: int) -> dict[str, str]:
        """Ask the network who has these (ARP probes per RFC 5227, neighbour solicitations as for duplicate address
        detection), three times within the window; returns at its end: address -> MAC of each foreign one that
        answered. Our own MACs do not count. Interfaces that are down answer nothing."""

    def announce(self, addresses: Sequence[Floating]) -> None:
        """Announce from now on: at once, `announce_times` in all, `announce_gap_seconds` apart, then every
        `announce_refresh_seconds`. Gratuitous ARP as request and as reply; unsolicited neighbour advertisement,
        override, to all nodes. Returns at once; first announcements go before repetitions, these before refreshes.
        Addresses announced already start again from the beginning (after a stall)."""

    def links(self) -> dict[str, LinkState]:
        """All interfaces of this namespace by name, read from the kernel now."""

    def counters(self) -> Counters:
        """For metrics: announcements sent, probes, conflicts, refreshes, netlink errors, guard restarts, ..."""


class OpenKernel(Protocol):
    """`vip.kernel.open_kernel(settings)`: a Kernel that does nothing until `start`."""

    def __call__(self, settings: KernelSettings) -> Kernel: ...
