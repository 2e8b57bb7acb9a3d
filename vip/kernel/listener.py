"""Hears who else has our addresses, and asks the network before an address is taken.

Two packet sockets for all interfaces, with filters in the kernel that let through only what comes in and is ARP, or an
ICMPv6 solicitation or advertisement. Only what concerns an address that we are asking for, or that we hold, counts:

    asking for it    somebody says that he has it, or probes for it at the same time: foreign
    holding it       somebody says that he has it: a conflict; defended by one announcement, at most once in ten seconds
                     (RFC 5227, 2.4 c), and reported

Locks: `_reading` around taking packets in, which the watcher's thread does, and who asks does at the end of his window;
within it `_lock` around what is being asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

from vip.kernel import packets
from vip.kernel.addresses import SECOND_NS, text
from vip.kernel.announcer import Announcer
from vip.kernel.clock import now_ns
from vip.kernel.interface import Conflict
from vip.kernel.netlink import set_receive_buffer

# A probe is sent this often (RFC 5227, PROBE_NUM).
PROBES = 3

# RFC 5227: DEFEND_INTERVAL.
_DEFEND_NS = 10 * SECOND_NS
# A conflict that goes on is reported this often for an address.
_REPORT_NS = SECOND_NS
# Conflicts remembered; beyond it the oldest are forgotten, and would be defended again.
_REMEMBERED_MAX = 20_000

# Ten thousand answers may come at once.
_RECEIVE_BYTES = 8 << 20
# Packets read in one go, so that other work of the thread gets its turn.
_READ_MAX = 1000
# Probes go out in portions, with the window's time spread between them.
_PORTION = 32

_SO_ATTACH_FILTER = 26
_PACKET_OUTGOING = 4
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE

# Classic BPF: (code, jump if true, jump if false, constant); 65535 lets the packet through, 0 does not.
_LOAD_WORD, _LOAD_BYTE, _EQUAL, _RETURN = 0x20, 0x30, 0x15, 0x06
_NOT_OUTGOING = [
    (_LOAD_WORD, 0, 0, _PACKET_TYPE),
    (_EQUAL, 0, 1, _PACKET_OUTGOING),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 65535),
]
_NEIGHBOUR_DISCOVERY = [
    (_LOAD_WORD, 0, 0, _PACKET_TYPE),
    (_EQUAL, 5, 0, _PACKET_OUTGOING),
    (_LOAD_BYTE, 0, 0, 6),
    (_EQUAL, 0, 3, 58),
    (_LOAD_BYTE, 0, 0, 40),
    (_EQUAL, 2, 0, 135),
    (_EQUAL, 1, 0, 136),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 65535),
]


class Listener:
    """`macs()` gives our MACs by interface that is up; `report` is told of conflicts."""

    def __init__(
        self, announcer: Announcer, macs: Callable[[], Mapping[str, bytes]], report: Callable[[Conflict], None]
    ) -> None:
        self._announcer = announcer
        self._macs = macs
        self._report = report
        self._lock = Lock()
        self._reading = Lock()
        self._asked: dict[tuple[str, bytes], bytes | None] = {}
        self._defended: dict[bytes, int] = {}
        self._reported: dict[bytes, int] = {}
        self.sockets: list[socket.socket] = []
        self.probes = 0
        self.conflicts = 0

    def start(self) -> None:
        """Raises `OSError` without CAP_NET_RAW."""
        for protocol, program in ((packets.ETH_P_ARP, _NOT_OUTGOING), (packets.ETH_P_IPV6, _NEIGHBOUR_DISCOVERY)):
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            heard = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
            self.sockets.append(heard)
            attach_filter(heard, program)
            set_receive_buffer(heard, _RECEIVE_BYTES)

    def close(self) -> None:
        for heard in self.sockets:
            heard.close()

    def read(self, heard: socket.socket) -> bool:
        """Take in what came; returns when there is no more, or (True) after a good portion of it."""
        with self._reading, contextlib.suppress(BlockingIOError):
            for _ in range(_READ_MAX):
                payload, (interface, protocol, _, _, sender) = heard.recvfrom(128)
                found = packets.heard(protocol, payload, sender)
                if found is not None:
                    self._consider(interface, found)
            return True
        return False

    def probe(self, wanted: Mapping[str, Iterable[bytes]], window_ns: int) -> dict[bytes, bytes]:
        """Ask three times within the window for addresses by interface; returns at its end: address -> foreign MAC."""
        macs = self._macs()
        keys = [(interface, address) for interface, some in wanted.items() if interface in macs for address in some]
        with self._lock:
            self._asked = dict.fromkeys(keys)
        begin = now_ns()
        questions = [(key[0], packets.probe(key[1], macs[key[0]])) for key in keys]
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as asking:
            for turn in range(PROBES):
                self._ask(asking, questions, begin + turn * window_ns // PROBES, window_ns // PROBES)
        _sleep_until(begin + window_ns)
        for heard in self.sockets:
            # What came within the window counts, even where the watcher had no processor yet to read it.
            while self.read(heard):
                pass
        with self._lock:
            found = {address: mac for (_, address), mac in self._asked.items() if mac is not None}
            self._asked = {}
        return found

    def _ask(
        self, asking: socket.socket, questions: list[tuple[str, packets.Packet]], begin: int, span_ns: int
    ) -> None:
        """One question for each, spread over the first half of the span: the answers need the rest."""
        for at in range(0, len(questions), _PORTION):
            _sleep_until(begin + span_ns // 2 * at // max(1, len(questions)))
            for interface, packet in questions[at : at + _PORTION]:
                with contextlib.suppress(OSError):  # a link that went down in between answers nothing
                    asking.sendto(packet.payload, (interface, packet.protocol, 0, 0, packet.to))
                    self.probes += 1

    def _consider(self, interface: str, found: packets.Heard) -> None:
        key = (interface, found.address)
        if key not in self._asked and (found.asking or not self._announcer.holds(interface, found.address)):
            return  # by far the most that is heard, where many addresses move: it is about nobody here
        if found.mac in self._macs().values():
            return
        with self._lock:
            asked = key in self._asked
            if asked:
                self._asked[key] = found.mac
        if not asked and not found.asking and self._announcer.holds(interface, found.address):
            self._conflict(interface, found)

    def _conflict(self, interface: str, found: packets.Heard) -> None:
        now = now_ns()
        self.conflicts += 1
        defended = now - self._defended.get(found.address, -_DEFEND_NS) >= _DEFEND_NS
        if defended:
            _remember(self._defended, found.address, now)
            self._announcer.defend(interface, found.address)
        if defended or now - self._reported.get(found.address, -_REPORT_NS) >= _REPORT_NS:
            _remember(self._reported, found.address, now)
            self._report(Conflict(text(found.address), interface, packets.mac_text(found.mac), defended))


def attach_filter(where: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Let the kernel throw away what the program does not let through. Needs no privilege. Raises `OSError`."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    where.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def _remember(times: dict[bytes, int], address: bytes, now: int) -> None:
    times.pop(address, None)
    times[address] = now
    if len(times) > _REMEMBERED_MAX:
        times.pop(next(iter(times)))


def _sleep_until(when_ns: int) -> None:
    left = when_ns - now_ns()
    if left > 0:
        time.sleep(left / 1e9)
