"""The spool of a daemon, before anything is opened in it: whether its mount is fit for logs.

Locks: none.
"""

from __future__ import annotations

import logging
from pathlib import Path

from jlogd.errors import ConfigError
from jlogd.spoolcheck.check import admit

_log = logging.getLogger("jlogd.spool")


def make_spool(spool: Path) -> None:
    """Make the directory when it is not there. Raises `ConfigError`."""
    try:
        spool.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"node.spool: cannot make {spool}: {error.strerror}; choose another directory") from None


def admit_spool(spool: Path, accept_risk: bool) -> None:
    """See whether logs may be kept there, and tell what is in doubt. Raises `SpoolUnfit`, OSError."""
    for one in admit(spool, accept_risk):
        if one.failed:
            _log.warning("%s: accepted at a risk: %s: %s; %s", spool, one.check, one.reason, one.remedy)
        elif one.status == "UNKNOWN":
            _log.info("%s: not known: %s: %s; %s", spool, one.check, one.reason, one.remedy)
