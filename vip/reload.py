"""What a reload may change, and what it may not: that others rely on it, or that it says where we are.

Pure functions, but for the one that reads.
"""

from __future__ import annotations

from pathlib import Path

from jlogd.errors import ConfigError
from vip.config import Settings, load

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


def load_again(path: Path) -> Settings:
    """The configuration as it is now. Raises ConfigError; from a pipe it would wait for a writer, and decide nothing
    meanwhile."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no regular file, and cannot be read a second time; run the daemon on a file")
    return load(path)


def check_reload(old: Settings, new: Settings, path: Path) -> None:
    """Raises ConfigError when something changed that needs a restart; then nothing of the new file is applied."""
    kept = [name for name in FIXED if getattr(new, name) != getattr(old, name)]
    if kept:
        names = ", ".join(f"vip.{name}" for name in kept)
        raise ConfigError(f"{path}: {names} changed, which needs a restart")
