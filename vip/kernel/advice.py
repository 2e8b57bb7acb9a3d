"""What of the machine's settings works against us: said at the start, in words, and changed by nobody but the operator.

    arp_ignore 0   an interface answers ARP for the addresses of all others. Two interfaces in one network then both
                   answer for a floating address, the second one past the gate, which is only on those of the topology

An effective value is the larger of `all` and the interface's own (Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from vip.kernel.interface import LinkState

_SETTINGS = Path("/proc/sys/net/ipv4/conf")
# More names than this are no help in a sentence.
_NAMES_MAX = 3


def remarks(links: Mapping[str, LinkState], ours: Collection[str], settings: Path = _SETTINGS) -> list[str]:
    """Sentences for the operator about the interfaces `links`, of which `ours` carry floating addresses."""
    others = [name for name, link in sorted(links.items()) if name not in ours and link.up and _is_ethernet(link)]
    flux = [name for name in others if max(_setting(settings, "all"), _setting(settings, name)) == 0]
    if not flux:
        return []
    named = ", ".join(flux[:_NAMES_MAX]) + (", ..." if len(flux) > _NAMES_MAX else "")
    return [
        f"{named} would answer ARP for floating addresses, too, if in the same network, and no gate is there: "
        f"set net.ipv4.conf.all.arp_ignore to 1"
    ]


def _is_ethernet(link: LinkState) -> bool:
    return bool(link.mac.strip("0:"))


def _setting(settings: Path, interface: str) -> int:
    try:
        return int((settings / interface / "arp_ignore").read_text())
    except (OSError, ValueError):  # it went meanwhile, or there is no IPv4: nothing answers
        return 1
