"""jlogd: a durable log with named subscribers.

import jlogd

with jlogd.open("var/spool/mainlog") as log:            # or "tcp://127.0.0.1:5140/mainlog"
    with log.writer() as writer:
        writer.append(b"a record")
        writer.flush()                                   # returns when it is durable
    for batch in log.subscriber("master", follow=True):
        for record in batch:
            ...
        batch.checkpoint()
"""

from jlogd.auditing import Audit, audit
from jlogd.entry import create, open
from jlogd.errors import (
    BadKey,
    Closed,
    ConfigError,
    DiskFailed,
    Fenced,
    FormatError,
    JlogError,
    LockUnavailable,
    LogExists,
    LogFailed,
    LogFull,
    LogNotFound,
    NotAuthenticated,
    NotGranted,
    NotServed,
    OwnedElsewhere,
    ProducerGap,
    ProtocolError,
    RemoteError,
    SpoolFull,
    SubscriberBusy,
    SubscriberExists,
    SubscriberUnknown,
    TooLarge,
    UsageError,
)
from jlogd.journal.batch import Batch, Gap
from jlogd.journal.types import Caps, LogStat, Receipt, Settings, SubscriberStat
from jlogd.log import Log
from jlogd.subscriber.subscriber import Subscriber
from jlogd.version import VERSION
from jlogd.writer.writer import Writer

__version__ = VERSION

__all__ = [
    "Audit",
    "BadKey",
    "Batch",
    "Caps",
    "Closed",
    "ConfigError",
    "DiskFailed",
    "Fenced",
    "FormatError",
    "Gap",
    "JlogError",
    "LockUnavailable",
    "Log",
    "LogExists",
    "LogFailed",
    "LogFull",
    "LogNotFound",
    "LogStat",
    "NotAuthenticated",
    "NotGranted",
    "NotServed",
    "OwnedElsewhere",
    "ProducerGap",
    "ProtocolError",
    "Receipt",
    "RemoteError",
    "Settings",
    "SpoolFull",
    "Subscriber",
    "SubscriberBusy",
    "SubscriberExists",
    "SubscriberStat",
    "SubscriberUnknown",
    "TooLarge",
    "UsageError",
    "Writer",
    "audit",
    "create",
    "open",
]
