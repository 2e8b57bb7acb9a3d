"""The address of the HTTP listener: `127.0.0.1:5180` or `[::1]:5180`.

Those of ZeroMQ are checked in jlogd/wire/address.py and those of syslog in jlogd/sources/config.py. The host is
numeric, because a name may mean another address tomorrow, and loopback unless the configuration says otherwise in so
many words, because whoever reaches the port sees every log's name and numbers. Port 0 asks the system for a free one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

HTTP_ACCEPTED = '"127.0.0.1:PORT" or "[::1]:PORT", or "" for none'
_HTTP_OPEN = "; another address of this host with http_open = true, which shows whoever reaches it every log's numbers"
_HOST_PORT = re.compile(r"(?:http://)?(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})", re.ASCII)


class HttpAddress(NamedTuple):
    """A numeric host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_http_address(text: str, anywhere: bool = False) -> HttpAddress:
    """Raises ValueError with what is accepted: without `anywhere`, addresses of the loopback only."""
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(HTTP_ACCEPTED)
    host = found[1] or found[2].replace("localhost", "127.0.0.1")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ValueError(f"{HTTP_ACCEPTED}; a numeric address, not a name") from None
    if not loopback and not anywhere:
        raise ValueError(f"{HTTP_ACCEPTED}{_HTTP_OPEN}")
    return HttpAddress(host, int(found[3]))
