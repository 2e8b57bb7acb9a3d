"""The program of the gate: what an interface may still send after the deadline.

    now < deadline ?            -> pass on                      (an open gate costs a clock and a comparison)
    ARP                         -> sender address               at 14 + 14
    IPv4                        -> source                       at 14 + 12
    IPv6                        -> source                       at 14 + 8
    and ICMPv6 type 136 (NA)    -> target as well               at 14 + 40 + 8
    in the set of floating addresses ? -> drop ; else pass on

So a closed gate silences exactly what would keep the world believing that the address is here: answers to ARP and
neighbour solicitations, gratuitous ones, data, resets. The machine's own addresses are not touched. "Pass on" is
TC_ACT_UNSPEC: other filters of the interface see the packet as if there were no gate.

IPv4 addresses are in the set as IPv4-mapped IPv6 addresses, so that there is one set.
"""

from __future__ import annotations

from typing import Literal

from vip.kernel.bpf import R0, R1, R2, R3, R4, R6, R8, R10, Assembler

Clock = Literal["boot", "monotonic"]

_PASS_ON = -1  # TC_ACT_UNSPEC
_DROP = 2  # TC_ACT_SHOT

_MAP_LOOKUP = 1
_KTIME_GET_NS = 5
_SKB_LOAD_BYTES = 26
_KTIME_GET_BOOT_NS = 125  # kernel 5.8

_SKB_PROTOCOL = 16  # offset of __sk_buff.protocol
_ETHERNET_BYTES = 14
_KEY = -16  # where the key is put together, below the frame pointer
_SMALL = -24  # where single bytes are read to

MAPPED = bytes(10) + b"\xff\xff"


def key(address: bytes) -> bytes:
    """An address of 4 or 16 bytes as a key of the set."""
    return MAPPED + address if len(address) == 4 else address


def build(deadline_fd: int, floating_fd: int, clock: Clock) -> bytes:
    """The instructions, for a map whose first value is the deadline (ns of `clock`) and a set of floating addresses."""
    code = Assembler()
    code.copy(R6, R1)
    code.map_value(R1, deadline_fd)
    code.load(8, R8, R1, 0)
    code.call(_KTIME_GET_BOOT_NS if clock == "boot" else _KTIME_GET_NS)
    code.jump_less(R0, R8, "pass")
    code.load(4, R2, R6, _SKB_PROTOCOL)
    for protocol, label in ((0x0800, "ipv4"), (0x0806, "arp"), (0x86DD, "ipv6")):
        code.jump_equal(R2, _network_order(protocol), label)
    code.leave(_PASS_ON)

    for label, offset in (("arp", 14), ("ipv4", 12)):
        code.label(label)
        code.store(8, R10, _KEY, 0)
        code.store(4, R10, _KEY + 8, _mapped_word())
        _drop_if_floating(code, floating_fd, offset, 4, "pass")
        code.leave(_PASS_ON)

    code.label("ipv6")
    _drop_if_floating(code, floating_fd, 8, 16, "pass")
    _unless_byte(code, 6, 58, "pass")  # next header: ICMPv6
    _unless_byte(code, 40, 136, "pass")  # neighbour advertisement
    _drop_if_floating(code, floating_fd, 48, 16, "pass")

    code.label("pass")
    code.leave(_PASS_ON)
    code.label("drop")
    code.leave(_DROP)
    return code.program()


def _drop_if_floating(code: Assembler, floating_fd: int, offset: int, length: int, too_short: str) -> None:
    """Read an address of `length` bytes into the end of the key and jump to "drop" when it is in the set."""
    _read(code, offset, _KEY + 16 - length, length, too_short)
    code.map_itself(R1, floating_fd)
    code.copy(R2, R10)
    code.plus(R2, _KEY)
    code.call(_MAP_LOOKUP)
    code.jump_unequal(R0, 0, "drop")


def _unless_byte(code: Assembler, offset: int, value: int, label: str) -> None:
    _read(code, offset, _SMALL, 1, label)
    code.load(1, R2, R10, _SMALL)
    code.jump_unequal(R2, value, label)


def _read(code: Assembler, offset: int, to: int, length: int, too_short: str) -> None:
    code.copy(R1, R6)
    code.move(R2, _ETHERNET_BYTES + offset)
    code.copy(R3, R10)
    code.plus(R3, to)
    code.move(R4, length)
    code.call(_SKB_LOAD_BYTES)
    code.jump_unequal(R0, 0, too_short)


def _network_order(protocol: int) -> int:
    """As the program sees a field in network byte order on this machine."""
    return int.from_bytes(protocol.to_bytes(2, "big"), _byte_order())


def _mapped_word() -> int:
    word = int.from_bytes(MAPPED[8:], _byte_order())
    return word - (1 << 32) if word >= 1 << 31 else word


def _byte_order() -> Literal["little", "big"]:
    import sys

    return sys.byteorder
