"""The command `vip`. Its libraries are an extra of the distribution; without them it says so in one line."""

from __future__ import annotations

from jlogd.cli.extras import demand

demand("floating addresses", "vip", ("pyroute2", "urllib3"))
