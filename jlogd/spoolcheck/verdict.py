"""The verdict that a spool carries: `<spool>/.spool-check.json`.

{"format": 1, "host", "kernel", "mount", "version", "time", "peer", "findings": [...], "risks": [...], "crc"}

`mount` is a digest of type, source and options of the mount, `time` is ns since 1970 UTC, `peer` the node that took
part, or "". `findings` are those of the last full check; what failed in it stands until a full check passes, for as
long as host, kernel and mount are the same. `risks` is every failure that was ever accepted, by whom and when: nothing
removes an entry. `crc` is the CRC-32C of the same object with `"crc":0`, without spaces.

The file is replaced whole, so readers need no lock; its writers hold `.spool-check.lock` exclusively.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from crc32c import crc32c

from jlogd import errors
from jlogd.journal.disk import Disk, PosixDisk, read_all, replace_file
from jlogd.spoolcheck.findings import Finding, failures

FILE = ".spool-check.json"
LOCK_FILE = ".spool-check.lock"
FORMAT = 1
# A risk is recorded once for each host and set of failed checks, so more than this is a program gone wild.
RISKS_MAX = 1000


class Risk(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that somebody accepted. `time` is ns since 1970 UTC."""

    time: int
    host: str
    node: str
    checks: list[str]
    reasons: list[str]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of the file; see the module's text."""

    format: int = FORMAT
    host: str = ""
    kernel: str = ""
    mount: str = ""
    version: str = ""
    time: int = 0
    peer: str = ""
    findings: list[Finding] = []
    risks: list[Risk] = []
    crc: int = 0

    def stands_for(self, host: str, kernel: str, mount: str) -> bool:
        """Whether what the full check found is still about this host, kernel and mount."""
        return self.time > 0 and (self.host, self.kernel, self.mount) == (host, kernel, mount)


def read(spool: Path, disk: Disk | None = None) -> Verdict:
    """The verdict of a spool; an empty one when there is none. Raises FormatError when it is damaged, OSError."""
    path = spool / FILE
    try:
        data = read_all(disk or PosixDisk(), path)
    except FileNotFoundError:
        return Verdict()
    try:
        verdict = msgspec.json.decode(data, type=Verdict)
    except ValueError as error:
        raise errors.FormatError(f"the verdict of check-spool cannot be read ({error})", str(path)) from error
    if _crc(verdict) != verdict.crc or verdict.format != FORMAT:
        raise errors.FormatError("the verdict of check-spool fails its checksum, or is of another format", str(path))
    return verdict


def risks(spool: Path) -> list[Risk]:
    """The failures that were ever accepted for a spool, oldest first. Raises FormatError, OSError."""
    return read(spool).risks


def told_risks(spool: Path) -> list[str]:
    """The same as lines for people: who looks at a log is to see them, and is not to fail because of them."""
    try:
        return [_told(risk) for risk in risks(spool)]
    except FileNotFoundError:
        return []
    except (errors.FormatError, OSError) as error:
        return [f"which risks were accepted for its spool cannot be told: {error}"]


def _told(risk: Risk) -> str:
    when = time.strftime("%Y-%m-%d", time.gmtime(risk.time / 1e9))
    what = "; ".join(f"{check}: {reason}" for check, reason in zip(risk.checks, risk.reasons, strict=False))
    return f"its spool is at a risk that was accepted on {when} on {risk.node or risk.host}: {what}"


def record_check(
    spool: Path, findings: Sequence[Finding], *, host: str, kernel: str, mount: str, version: str, peer: str = ""
) -> None:
    """Keep what a full check found. Raises LockUnavailable, OSError."""

    def change(old: Verdict) -> Verdict:
        return msgspec.structs.replace(
            old,
            host=host,
            kernel=kernel,
            mount=mount,
            version=version,
            time=time.time_ns(),
            peer=peer,
            findings=list(findings),
        )

    _change(spool, change)


def record_risk(spool: Path, findings: Sequence[Finding], *, host: str, node: str) -> None:
    """Keep for ever that these failures were accepted. Raises OSError: a risk that cannot be recorded is not taken."""
    failed = {one.check: one.reason for one in failures(findings)}
    checks = sorted(failed)
    reasons = [failed[check] for check in checks]
    risk = Risk(time=time.time_ns(), host=host, node=node, checks=checks, reasons=reasons)

    def change(old: Verdict) -> Verdict:
        known = any((one.host, one.checks) == (risk.host, risk.checks) for one in old.risks)
        if known or len(old.risks) >= RISKS_MAX:
            return old
        return msgspec.structs.replace(old, risks=[*old.risks, risk])

    _change(spool, change)


def _change(spool: Path, change: Callable[[Verdict], Verdict]) -> None:
    disk = PosixDisk()
    try:
        lock = disk.lock(spool / LOCK_FILE)
    except errors.LockUnavailable:
        lock = None  # the risk of a mount without locks is recorded all the same
    try:
        try:
            old = read(spool, disk)
        except errors.FormatError:
            # What it said of risks may be needed: it is put aside, never overwritten.
            disk.rename(spool / FILE, spool / f"{FILE}.damaged-{time.time_ns()}")
            old = Verdict()
        new = change(old)
        if new is not old:
            replace_file(disk, spool / FILE, encode(new))
    finally:
        if lock is not None:
            lock.release()


def encode(verdict: Verdict) -> bytes:
    """The bytes of the file."""
    # As it will be read: numbers given as 5 where a float is meant are the same to JSON, but not to a checksum.
    verdict = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
    sealed = msgspec.structs.replace(verdict, crc=_crc(verdict))
    return msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"


def _crc(verdict: Verdict) -> int:
    return int(crc32c(msgspec.json.encode(msgspec.structs.replace(verdict, crc=0))))
