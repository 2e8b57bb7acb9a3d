"""What the tests of the configuration share: a whole one, and the mistakes of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jlogd.daemon.config_file import parse
from jlogd.errors import ConfigError

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
DOCS = ROOT / "docs" / "configuration.md"

FULL = """\
[node]
name = "east1"
subcluster = "east"
spool = "/var/lib/jlogd/%{subcluster}/%{node}"

[listen]
zmq = ["tcp://127.0.0.1:5140", "ipc:///run/jlogd/jlogd.sock"]
http = "[::1]:5180"

[log.mainlog]
subscribers = ["master", "backup.2"]
segment_size = "16MiB"
durability = "interval=500ms"
compression = "zstd"
max_lag_bytes = "10GiB"
max_lag_age = "7d"
on_full = "drop-oldest"

[log."bounce.log"]

[[source.syslog]]
log = "mainlog"
listen = ["udp://127.0.0.1:5514", "tcp://127.0.0.1:5514"]
format = "json"
idle_timeout = "5m"
message_bytes_max = "8KiB"

[[source.file]]
log = "bounce.log"
paths = ["/var/log/*.log"]

[[source.stdin]]
log = "mainlog"
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "jlogd.toml")
    return str(caught.value).split("\n")
