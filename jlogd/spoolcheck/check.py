"""The checks put together: the cheap ones for every start, all of them for `jlogctl check-spool`.

A check answers one question: may a log live in this directory? Nothing of a log is touched. It works in a scratch
directory of its own, which it removes, and leaves its verdict in the directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from jlogd.access import DENIED, denied
from jlogd.errors import FormatError, LogNotFound, SpoolUnfit
from jlogd.spoolcheck import file_checks, lock_checks, mount_rules, peer_checks, verdict
from jlogd.spoolcheck.agent import Answer
from jlogd.spoolcheck.findings import Finding, call_failed, failed, failures, unknown
from jlogd.spoolcheck.helpers import CallFailed, Crew, NoAnswer, guarded
from jlogd.spoolcheck.mountinfo import Facts, Mount, gather
from jlogd.spoolcheck.peer import Address, RemoteHelper
from jlogd.version import VERSION

_WRITABLE = "mount.writable"
_HANGS = "see whether the storage is there; nothing on this mount can be relied on until it answers"


class Checked:
    """What a run knows besides its findings: filled while they are made."""

    def __init__(self) -> None:
        self.host = self.node = self.kernel = self.mount = self.peer = ""


def quick_check(path: Path) -> list[Finding]:
    """The cheap checks of a spool: its mount, and what its locks do. A fraction of a second; tens where it hangs.

    Raises LogNotFound when there is no such directory.
    """
    return list(_run(path, Checked(), full=False))


def full_check(
    path: Path,
    known: Checked,
    *,
    peer: Address | None = None,
    ring_seconds: float = peer_checks.RING_SECONDS,
    on_progress: peer_checks.Progress | None = None,
) -> Iterator[Finding]:
    """Every check, one finding after another, with a peer those of two hosts too.

    The verdict is not kept: see `keep`. Raises LogNotFound when there is no such directory, NoAnswer when there is no
    peer.
    """
    remote = RemoteHelper(peer) if peer is not None else None
    try:
        yield from _run(path, known, full=True, remote=remote, ring_seconds=ring_seconds, on_progress=on_progress)
    finally:
        if remote is not None:
            remote.close()


def keep(path: Path, known: Checked, findings: list[Finding]) -> None:
    """Leave the verdict of a full check in the spool. Raises OSError, LockUnavailable."""
    verdict.record_check(
        path,
        findings,
        host=known.host,
        kernel=known.kernel,
        mount=known.mount,
        version=VERSION,
        peer=known.peer,
    )


def admit(path: Path, accept_risk: bool = False) -> list[Finding]:
    """Whether a daemon may keep logs in `path`: the quick findings, and what failed in the last full check here.

    Raises SpoolUnfit when something failed and the risk is not accepted; when it is, that is recorded in the spool for
    ever. Raises LogNotFound when there is no such directory.
    """
    known = Checked()
    findings = list(_run(path, known, full=False))
    findings += _remembered(path, known, findings)
    refused = failures(findings)
    if not refused:
        return findings
    for one in refused:
        if one.check == _WRITABLE:  # no daemon could run, and a risk could not even be recorded
            raise SpoolUnfit(f"{path} cannot be written: {one.reason}; {one.remedy}, or name another spool")
    if not accept_risk:
        told = "; ".join(f"{one.check}: {one.reason}" for one in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise SpoolUnfit(
            f"{path} is not fit for logs: {told}{more}. See jlogctl check-spool {path}; {refused[0].remedy}, "
            "or start with --accept-risk, which the spool will tell for ever",
        )
    verdict.record_risk(path, refused, host=known.host, node=known.node)
    return findings


def _remembered(path: Path, known: Checked, now: list[Finding]) -> list[Finding]:
    """What failed in the last full check of this host and mount, and is not among what was looked at now."""
    try:
        last = verdict.read(path)
    except FormatError as error:
        return [unknown("verdict", str(error), f"run jlogctl check-spool {path}; the damaged file is put aside")]
    except OSError:
        return []
    if not last.stands_for(known.host, known.kernel, known.mount):
        return []
    looked_at = {one.check for one in now}
    return [one for one in failures(last.findings) if one.check not in looked_at]


def _run(
    path: Path,
    known: Checked,
    *,
    full: bool,
    remote: RemoteHelper | None = None,
    ring_seconds: float = peer_checks.RING_SECONDS,
    on_progress: peer_checks.Progress | None = None,
) -> Iterator[Finding]:
    with Crew(path) as crew:
        try:
            about = crew.first.must("about")
        except CallFailed as error:
            raise LogNotFound(f"{path} cannot be used: {os.strerror(error.number).lower()}; make or mount it") from None
        except NoAnswer as error:
            yield failed("mount.answers", str(error), _HANGS)
            return
        facts = gather(int(about["mount_id"]), str(about["path"]), int(about["magic"]))
        facts = facts or Facts(mount=Mount(type="unknown"), magic=int(about["magic"]))
        _note(known, about, facts, remote)
        yield from mount_rules.judge(facts)
        try:
            crew.begin()
        except CallFailed as error:
            what = f"no directory can be made in it: {error}"
            what += f"; denied to {denied(path)}" if error.number in DENIED else ""
            yield call_failed(_WRITABLE, what, error.number, "give it to the daemon's user")
            return
        except NoAnswer as error:
            yield failed("mount.answers", str(error), _HANGS)
            return
        yield from guarded("lock", lock_checks.quick(crew))
        if full:
            yield from _rest(crew, facts)
        if remote is not None:
            checks = peer_checks.checks(crew, remote, facts, ring_seconds, on_progress)
            yield from guarded("peer", _understood(checks))


def _understood(part: Iterator[Finding]) -> Iterator[Finding]:
    """The findings of a part that believes what a peer says, and one more when that makes no sense."""
    try:
        yield from part
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the peer answered what this version does not understand ({type(error).__name__}: {error})"
        yield failed("peer", reason, "run the same version of jlogd on both hosts")


def _rest(crew: Crew, facts: Facts) -> Iterator[Finding]:
    """What only one host is needed for, and takes a few seconds."""
    yield from guarded("lock.posix.wait", lock_checks.waits(crew))
    yield from guarded("file", file_checks.files(crew))
    yield from guarded("sync", file_checks.syncs(crew, facts))


def _note(known: Checked, about: Answer, facts: Facts, remote: RemoteHelper | None) -> None:
    known.host, known.node, known.kernel = str(about["host"]), str(about["node"]), str(about["kernel"])
    known.mount = facts.mount.digest
    known.peer = str(remote.about.get("node", "")) if remote is not None else ""
