"""Benchmarks of `vip`: the kernel's half beside `ip -batch`, and failover beside keepalived and ucarp.

All of it happens in network namespaces, with the bridge, the client and the oracles that the tests use.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The networks and oracles of the tests, so that what is measured is what is tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
