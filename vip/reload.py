"""What a reload may change, and what it may not: that others rely on it, or that it says where we are.

Pure functions.
"""

from __future__ import annotations

from pathlib import Path

from jlogd.errors import ConfigError
from vip.config import Settings

# Settings that a reload cannot change: what others rely on, and where we are.
FIXED = (
    "node",
    "cluster",
    "store",
    "etcd",
    "etcd_user",
    "etcd_password_file",
    "etcd_ca",
    "etcd_cert",
    "etcd_key",
    "etcd_keep",
    "solo_file",
    "timing",
    "heartbeat",
    "window",
    "gate",
    "http",
    "log",
    "probe",
    "announce_rate_max",
    "announce_refresh",
)


def check_reload(old: Settings, new: Settings, path: Path) -> None:
    """Raises ConfigError when something changed that needs a restart; then nothing of the new file is applied."""
    kept = [name for name in FIXED if getattr(new, name) != getattr(old, name)]
    if kept:
        names = ", ".join(f"vip.{name}" for name in kept)
        raise ConfigError(f"{path}: {names} changed, which needs a restart")
