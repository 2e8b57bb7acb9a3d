"""Whose a spool is: its identity, the one daemon that runs on it, and taking it over from a host that is down.

<spool>/.spool.json     {"format": 1, "uuid", "created", "node", "host", "name", "since", "crc"}
<spool>/.daemon.lock    exclusive: the daemon of the spool; what it holds says who that is

`uuid` and `created` stay for ever, so that a configuration can demand this spool and not whatever lies in its place.
`node` is the name of the node that the spool belongs to, `host` the identity of the host that runs it, called `name` by
people, `since` then. Times are ns since 1970 UTC. `crc` is the CRC-32C of the same object with `"crc":0` and without
spaces.

The file is replaced whole, by whoever holds `.daemon.lock`; readers need no lock. It makes mistakes known early and in
words. What makes them harmless is the epoch of each log, see `head.py`: this file fences nobody.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable
from pathlib import Path

import msgspec
from crc32c import crc32c

from jlogd.errors import FormatError, OwnedElsewhere, SpoolInUse, SpoolMissing, UsageError
from jlogd.journal.disk import Disk, Lock, PosixDisk, read_all, replace_file
from jlogd.journal.head import Owner, utc
from jlogd.journal.journal import Journal
from jlogd.journal.layout import Layout
from jlogd.journal.locks import LockBusy, holder_note
from jlogd.journal.types import NAME, check_name
from jlogd.journal.view import View

FILE = ".spool.json"
DAEMON_LOCK = ".daemon.lock"
FORMAT = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `.spool.json`; see the module's text."""

    format: int = FORMAT
    uuid: str
    created: int
    node: str
    host: str
    name: str
    since: int
    crc: int = 0

    @property
    def told(self) -> str:
        """The owner, for people."""
        return f"node {self.node} on host {self.host} ({self.name}, since {utc(self.since)})"


def read_identity(spool: Path, disk: Disk | None = None) -> Identity | None:
    """Whose spool it is; None when no daemon has run on it yet. Raises `FormatError`, OSError."""
    path = spool / FILE
    try:
        data = read_all(disk or PosixDisk(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = msgspec.json.decode(data, type=Identity)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the identity of the spool cannot be read ({error})", str(path)) from error
    if _crc(found) != found.crc or found.format != FORMAT:
        raise FormatError("the identity of the spool fails its checksum, or is of another format", str(path))
    return found


def logs_of(spool: Path, disk: Disk) -> list[Path]:
    """The logs in a spool, by name."""
    found = (spool / name for name in disk.listdir(spool) if NAME.fullmatch(name))
    return sorted(path for path in found if disk.exists(Layout(path).meta))


class HeldSpool:
    """A spool whose one daemon this process is, until `release`."""

    def __init__(self, spool: Path, identity: Identity, lock: Lock, disk: Disk) -> None:
        """Use `hold_spool`."""
        self.spool = spool
        self.identity = identity
        self._lock = lock
        self._disk = disk

    def lost(self) -> str:
        """Why the spool is not this host's any more; empty while it is, or when that cannot be told."""
        try:
            now = read_identity(self.spool, self._disk)
        except (FormatError, OSError):
            return ""
        mine = self.identity
        if now is None or (now.uuid, now.node, now.host) == (mine.uuid, mine.node, mine.host):
            return ""
        return f"the spool {self.spool} was taken over: it is that of {now.told}"

    def release(self) -> None:
        """Let another daemon have it."""
        self._lock.release()


def hold_spool(
    spool: Path,
    node: str,
    *,
    demanded: str = "",
    take_over: bool = False,
    disk: Disk | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> HeldSpool:
    """Become the daemon of a spool, as `node`; the directory must be there.

    `demanded` is the uuid that the spool must have, or "". `take_over`: take it from another host that is down; `tell`
    is given a line for each log. Raises `SpoolMissing`, `OwnedElsewhere`, `SpoolInUse`, `FormatError`,
    `LockUnavailable`, OSError.
    """
    disk = disk or PosixDisk()
    check_identity(spool, node, demanded=demanded, take_over=take_over, disk=disk)
    lock = _lock(spool, f"node {node}", disk)
    try:
        known = check_identity(spool, node, demanded=demanded, take_over=take_over, disk=disk)  # it may have changed
        foreign = _foreign(spool, disk)
        if foreign and known is None and not take_over:
            path, owner = foreign[0]
            raise OwnedElsewhere(
                f"{path} is owned by {owner.told}; stop jlogd there, or once that host is down: "
                f"jlogctl takeover {spool}"
            )
        if take_over:
            _take_over_all(foreign, disk, tell)
        if known is None or known.host != disk.host():
            known = _write(spool, known, node, disk)
        return HeldSpool(spool, known, lock, disk)
    except BaseException:
        lock.release()
        raise


def check_identity(
    spool: Path, node: str, *, demanded: str = "", take_over: bool = False, disk: Disk | None = None
) -> Identity | None:
    """Whether `node` on this host may have the spool; changes nothing. Raises as `hold_spool`."""
    disk = disk or PosixDisk()
    if not disk.exists(spool):
        _check_demanded(spool, None, demanded)
        return None
    found = read_identity(spool, disk)
    _check_demanded(spool, found, demanded)
    if found is None:
        return None
    if found.node != node:
        raise OwnedElsewhere(
            f"the spool {spool} is that of {found.told}, and this is node {node}: two nodes cannot share one. Give "
            'each its own, such as spool = "/san/%{node}"; if the node was only given another name: '
            f"jlogctl takeover {spool} --node {node}"
        )
    if found.host != disk.host() and not take_over:
        raise OwnedElsewhere(
            f"the spool {spool} is that of {found.told}, and this is host {disk.host()} ({disk.host_name()}). Stop "
            f"jlogd there, or once that host is down: jlogctl takeover {spool}"
        )
    return found


def take_over_spool(
    spool: Path, *, node: str = "", disk: Disk | None = None, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Make this host the owner of a spool and of all logs in it; with `node`, that node's.

    Refuses before anything is changed while a daemon runs on it or processes of an owner hold a log: `SpoolInUse`,
    `OwnedElsewhere`. `tell` is given a line for each thing that was done. Raises `UsageError`, `FormatError`, OSError.
    """
    disk = disk or PosixDisk()
    if node:
        check_name("node", node)
    lock = _lock(spool, "a takeover", disk)
    try:
        known = read_identity(spool, disk)
        _take_over_all(_foreign(spool, disk), disk, tell)
        if known is not None and (known.host != disk.host() or node not in ("", known.node)):
            now = _write(spool, known, node or known.node, disk)
            tell(f"{spool}: was that of {known.told}, is that of {now.told}")
        elif known is None and node:
            raise UsageError(f"no daemon has run on {spool} yet: it belongs to no node; leave --node out")
    finally:
        lock.release()


def take_over_log(path: Path, disk: Disk | None = None) -> str:
    """Make this host the owner of one log; what was done, or "" when it is the owner. Raises as `Journal.take_over`."""
    disk = disk or PosixDisk()
    return "" if View(path, disk).owner().host == disk.host() else _take_over(path, disk)


def _check_demanded(spool: Path, found: Identity | None, demanded: str) -> None:
    if not demanded or (found is not None and found.uuid == demanded):
        return
    if found is None:
        raise SpoolMissing(
            f"the spool {demanded} that the configuration demands is not at {spool}: nothing there says so. Is its "
            f"mount missing? Mount it, or take spool_identity out of the configuration to begin a new spool there"
        )
    raise SpoolMissing(
        f"the spool {demanded} that the configuration demands is not at {spool}: that is {found.uuid}, of "
        f"{found.told}. Mount the right one, or demand this one"
    )


def _lock(spool: Path, who: str, disk: Disk) -> Lock:
    try:
        note = f"{who}, host {disk.host()} ({disk.host_name()}), {holder_note()}"
        return disk.lock(spool / DAEMON_LOCK, wait=False, note=note)
    except LockBusy as busy:
        raise SpoolInUse(
            f"the spool {spool} is in use by {busy.note or 'another daemon'}; a spool has one daemon: stop that one "
            "first, or use another spool"
        ) from None


def _foreign(spool: Path, disk: Disk) -> list[tuple[Path, Owner]]:
    """Logs of other hosts, and those; one whose owner cannot be read is left for `jlogctl repair`."""
    found = []
    for path in logs_of(spool, disk):
        try:
            owner = View(path, disk).owner()
        except FormatError:
            continue
        if owner.host != disk.host():
            found.append((path, owner))
    return found


def _take_over_all(foreign: list[tuple[Path, Owner]], disk: Disk, tell: Callable[[str], None]) -> None:
    """Take over all of these logs, or refuse before the first one."""
    for path, owner in foreign:
        _refuse_held(path, owner, disk)
    for path, _ in foreign:
        tell(_take_over(path, disk))


def _refuse_held(path: Path, owner: Owner, disk: Disk) -> None:
    try:
        disk.lock(Layout(path).owner_lock, wait=False).release()
    except LockBusy:
        raise OwnedElsewhere(
            f"{path} is in use: it is owned by {owner.told}, and processes of the owner hold it; stop jlogd there "
            "before taking over"
        ) from None


def _take_over(path: Path, disk: Disk) -> str:
    before = View(path, disk).owner()
    with Journal.take_over(path, disk) as journal:
        now = journal.view.owner()
        return f"{path.name}: was owned by {before.told}, is owned by this host since epoch {now.epoch}"


def _write(spool: Path, known: Identity | None, node: str, disk: Disk) -> Identity:
    now = time.time_ns()
    mine = known is not None and known.host == disk.host()
    identity = Identity(
        uuid=known.uuid if known else str(uuids.uuid4()),
        created=known.created if known else now,
        node=node,
        host=disk.host(),
        name=disk.host_name(),
        since=known.since if known and mine else now,
    )
    identity = msgspec.structs.replace(identity, crc=_crc(identity))
    replace_file(disk, spool / FILE, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
    return identity


def _crc(identity: Identity) -> int:
    return int(crc32c(msgspec.json.encode(msgspec.structs.replace(identity, crc=0))))
