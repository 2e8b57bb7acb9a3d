"""The packets that say or ask who has an address: built and read as bytes, without the Ethernet header.

ARP   hardware 1 | protocol 0x0800 | 6 | 4 | operation | sender MAC, address | target MAC, address      28 bytes
      probe         request,  sender 0.0.0.0, target = the address             (RFC 5227, 2.1.1)
      announcement  request,  sender = target = the address, target MAC zero   (RFC 5227, 2.3)
      and the same as a reply: some hosts only learn from the one, some only from the other
ND    IPv6 header | ICMPv6 type | ... | target address [ | option: MAC ]
      solicitation  135 from :: to the solicited-node group, as duplicate address detection asks (RFC 4862, 5.4.2)
      advertisement 136 from the address to all nodes, override, not solicited (RFC 4861, 7.2.6)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD

BROADCAST = b"\xff" * 6
ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_NO_MAC = bytes(6)
_NO_IPV4 = bytes(4)
_NO_IPV6 = bytes(16)

_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OVERRIDE = 0x20000000
# Neighbour discovery is only believed with this hop limit: it was not routed.
_HOP_LIMIT = 255


class Packet(NamedTuple):
    """What is sent: the Ethernet type, the destination, and the bytes behind the Ethernet header."""

    protocol: int
    to: bytes
    payload: bytes


class Heard(NamedTuple):
    """Somebody at `mac` holds `address`; or, with `asking`, is probing for it as we may be."""

    address: bytes
    mac: bytes
    asking: bool = False


def announcements(address: bytes, mac: bytes) -> list[Packet]:
    """What tells the network that `address` is at `mac` now."""
    if len(address) == 16:
        return [Packet(ETH_P_IPV6, ALL_NODES_MAC, _advertisement(address, mac))]
    request = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, address, _NO_MAC, address)
    reply = _ARP.pack(1, 0x0800, 6, 4, _REPLY, mac, address, BROADCAST, address)
    return [Packet(ETH_P_ARP, BROADCAST, request), Packet(ETH_P_ARP, BROADCAST, reply)]


def probe(address: bytes, mac: bytes) -> Packet:
    """What asks whether somebody has `address`, and tells nobody that we want it."""
    if len(address) == 16:
        group = _SOLICITED_NODE + address[13:]
        body = struct.pack("!BBHI16s", _SOLICITATION, 0, 0, 0, address)
        return Packet(ETH_P_IPV6, b"\x33\x33" + group[12:], _ipv6(_NO_IPV6, group, body))
    return Packet(ETH_P_ARP, BROADCAST, _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, _NO_IPV4, _NO_MAC, address))


def heard(protocol: int, payload: bytes, sender: bytes) -> Heard | None:
    """Who says or asks what in a packet that came from the MAC `sender`; None when it is about nothing of this kind."""
    if protocol == ETH_P_ARP:
        return _heard_arp(payload)
    return _heard_neighbour(payload, sender) if protocol == ETH_P_IPV6 else None


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def _heard_arp(payload: bytes) -> Heard | None:
    if len(payload) < _ARP.size:
        return None
    hardware, protocol, _, _, operation, mac, address, _, target = _ARP.unpack_from(payload)
    if hardware != 1 or protocol != 0x0800 or mac in (_NO_MAC, BROADCAST):
        return None
    if address != _NO_IPV4:
        return Heard(address, mac)
    return Heard(target, mac, asking=True) if operation == _REQUEST else None


def _heard_neighbour(payload: bytes, sender: bytes) -> Heard | None:
    if len(payload) < 64 or payload[6] != _ICMPV6 or payload[7] != _HOP_LIMIT:
        return None
    target = payload[48:64]
    if payload[40] == _ADVERTISEMENT:
        has_option = len(payload) >= 72 and payload[64] == 2
        return Heard(target, payload[66:72] if has_option else sender)
    if payload[40] == _SOLICITATION and payload[8:24] == _NO_IPV6:
        return Heard(target, sender, asking=True)
    return None


def _advertisement(address: bytes, mac: bytes) -> bytes:
    body = struct.pack("!BBHI16sBB6s", _ADVERTISEMENT, 0, 0, _OVERRIDE, address, 2, 1, mac)
    return _ipv6(address, _ALL_NODES, body)


def _ipv6(source: bytes, destination: bytes, body: bytes) -> bytes:
    """An IPv6 packet of ICMPv6 with its checksum in bytes 2 and 3."""
    pseudo = source + destination + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + _checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOP_LIMIT) + source + destination + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
