"""The spool of a daemon, before anything is opened in it: whose it is, and whether its mount is fit for logs.

Locks: `.daemon.lock` of the spool, exclusively, from `open_spool` until it is released; see `jlogd/journal/spool.py`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from jlogd.access import DENIED, denied
from jlogd.daemon.config import Node
from jlogd.errors import ConfigError
from jlogd.journal.spool import HeldSpool, check_identity, hold_spool
from jlogd.spoolcheck.check import admit

_log = logging.getLogger("jlogd.spool")


def prepare_spool(node: Node, spool: Path, accept_risk: bool) -> None:
    """Make the directory when it is not there, and see whether logs may be kept in it; tell what is in doubt.

    Nothing is written to the spool of somebody else. Raises as `open_spool`, `SpoolUnfit`.
    """
    check_identity(spool, node.name, demanded=node.spool_identity, take_over=node.take_over)
    _make(spool)
    for one in admit(spool, accept_risk):
        if one.failed:
            _log.warning("%s: accepted at a risk: %s: %s; %s", spool, one.check, one.reason, one.remedy)
        elif one.status == "UNKNOWN":
            _log.info("%s: not known: %s: %s; %s", spool, one.check, one.reason, one.remedy)


def open_spool(node: Node, spool: Path) -> HeldSpool:
    """Become the daemon of the spool, making it when it is not there and none is demanded.

    Raises `SpoolMissing`, `OwnedElsewhere`, `SpoolInUse`, `ConfigError`, `LockUnavailable`, `FormatError`.
    """
    check_identity(spool, node.name, demanded=node.spool_identity, take_over=node.take_over)
    _make(spool)
    try:
        held = hold_spool(spool, node.name, demanded=node.spool_identity, take_over=node.take_over, tell=_log.warning)
    except OSError as error:
        raise ConfigError(
            f"node.spool: cannot use {spool}: {os.strerror(error.errno or 0).lower()}; it must be a directory with "
            "some room that the user whom the daemon runs as may write"
        ) from None
    _log.info("spool %s is %s, that of %s", spool, held.identity.uuid, held.identity.told)
    return held


def _make(spool: Path) -> None:
    try:
        spool.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        why += f" to {denied(spool)}" if error.errno in DENIED else ""
        raise ConfigError(
            f"node.spool: cannot make {spool}: {why}; choose another directory, or make it for the daemon's user"
        ) from None
