"""What the locks of a mount do, between processes of this host.

jlogd takes POSIX record locks, so what these do decides; flock and OFD locks are tried as well, because a mount where
they differ is one to look at twice, and because other programs use them. The table of what each flavour promises:

                              POSIX                    flock, OFD
    owner                     process                  open file
    second open, same process gets it too              is refused
    close of another open     drops the lock           changes nothing
    child after fork          does not hold it         shares it

Every lock is on a file of its own in the scratch directory.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

from jlogd.spoolcheck.findings import CONTENDED, Finding, error_text, failed, passed, unknown
from jlogd.spoolcheck.helpers import CallFailed, Crew, Helper, LocalHelper

FLAVOURS = ("posix", "flock", "ofd")
_NAMES = {"posix": "POSIX locks", "flock": "flock locks", "ofd": "OFD locks"}
# A killed process's locks are gone when it is; a server may need a round trip.
RELEASE_SECONDS_MAX = 5.0
# A wake-up takes a fraction of a millisecond here; file systems that poll take a second or more.
WAKE_SECONDS_MAX = 1.0
_WAIT_SECONDS = 10.0
# So long the waiter is given to get into its wait.
_SETTLE_SECONDS = 0.1
_ELSEWHERE = "put the spool on a mount with working POSIX locks, such as ext4 or XFS on a LUN"


def classify(number: int) -> str:
    """What an error of a lock call means: `contended`, `interrupted` (ask again) or `unusable`."""
    if number in CONTENDED:
        return "contended"
    return "interrupted" if number == errno.EINTR else "unusable"


def try_lock(helper: Helper, file: int, flavour: str = "posix", kind: str = "exclusive", length: int = 0) -> bool:
    """Ask for a lock without waiting; False when somebody else has it. Raises CallFailed for every other error."""
    answer = helper.ask("lock", file=file, flavour=flavour, kind=kind, length=length)
    if "errno" not in answer:
        return True
    if classify(int(answer["errno"])) == "contended":
        return False
    raise CallFailed(f"lock ({flavour})", int(answer["errno"]))


def quick(crew: Crew) -> Iterator[Finding]:
    """Availability and the matrix; a fraction of a second on a healthy mount."""
    with crew.pair() as (one, other):
        usable = []
        for flavour in FLAVOURS:
            finding = _available(one, flavour)
            yield finding
            if finding.status == "PASS":
                usable.append(flavour)
        for flavour in usable:
            yield from _matrix(one, other, flavour)
        if {"posix", "flock"} <= set(usable):
            yield _interplay(one, other)
        if "posix" in usable:
            yield _ranges(one, other)
            yield _killed(one, other)


def waits(crew: Crew) -> Iterator[Finding]:
    """Waiting for a lock: the waiter wakes, and one that is killed leaves nothing behind."""
    with crew.pair() as (one, other):
        if not _usable(one):
            return
        yield _wakes(one, other)
        yield _killed_waiter(one, other)


def _usable(helper: Helper) -> bool:
    file = helper.open("waits", create=True)
    return "errno" not in helper.ask("lock", file=file, flavour="posix", kind="exclusive")


def _available(helper: Helper, flavour: str) -> Finding:
    check, name = f"lock.{flavour}.works", _NAMES[flavour]
    file = helper.open(f"works-{flavour}", create=True)
    answer = helper.ask("lock", file=file, flavour=flavour, kind="exclusive")
    helper.ask("close", file=file)
    if "errno" not in answer:
        return passed(check, f"{name} are granted")
    number = int(answer["errno"])
    if classify(number) == "contended":
        reason = f"{name}: a lock on a new file is said to be held by somebody ({error_text(number)})"
    else:
        reason = f"{name} do not work here: {error_text(number)}, which is not the same as held by another"
    if flavour == "posix":
        return failed(check, reason, _ELSEWHERE, errno=number)
    return unknown(check, reason, "jlogd does not use them; look why the mount refuses them", errno=number)


def _matrix(one: Helper, other: Helper, flavour: str) -> Iterator[Finding]:
    for part, name in ((_excludes, "excludes"), (_second_open, "second-open"), (_close_trap, "close"), (_fork, "fork")):
        try:
            yield part(one, other, flavour)
        except CallFailed as error:
            yield _verdict(flavour, f"lock.{flavour}.{name}", False, "", str(error))


def _verdict(flavour: str, check: str, good: bool, reason: str, bad: str, remedy: str = _ELSEWHERE) -> Finding:
    """PASS, or what it means that it is not so: for the flavour that jlogd uses FAIL, for others UNKNOWN."""
    if good:
        return passed(check, reason)
    if flavour == "posix":
        return failed(check, bad, remedy)
    return unknown(check, bad, "jlogd does not use them; do not rely on them here")


def _excludes(one: Helper, other: Helper, flavour: str) -> Finding:
    """Exclusive against exclusive and shared, shared with shared, and free again after a release."""
    name = f"excludes-{flavour}"
    file, theirs = one.open(name, create=True), other.open(name)
    wrong = []
    try_lock(one, file, flavour)
    if try_lock(other, theirs, flavour):
        wrong.append("two processes got it at once")
    if try_lock(other, theirs, flavour, "shared"):
        wrong.append("one got it shared while another had it exclusively")
    other.ask("lock", file=theirs, flavour=flavour, kind="none")
    try_lock(one, file, flavour, "shared")
    if not try_lock(other, theirs, flavour, "shared"):
        wrong.append("two could not share it")
    if try_lock(other, theirs, flavour):
        wrong.append("one got it exclusively while another shared it")
    other.ask("lock", file=theirs, flavour=flavour, kind="none")
    one.ask("lock", file=file, flavour=flavour, kind="none")
    if not try_lock(other, theirs, flavour):
        wrong.append("it was not free after its release")
    _close(one, file)
    _close(other, theirs)
    return _verdict(
        flavour,
        f"lock.{flavour}.excludes",
        not wrong,
        f"{_NAMES[flavour]} exclude other processes and can be shared",
        f"{_NAMES[flavour]} do not exclude: {'; '.join(wrong)}",
    )


def _second_open(one: Helper, _other: Helper, flavour: str) -> Finding:
    """A second open of the file in the process that has the lock."""
    name, check = f"second-{flavour}", f"lock.{flavour}.second-open"
    file, again = one.open(name, create=True), one.open(name)
    try_lock(one, file, flavour)
    got = try_lock(one, again, flavour)
    _close(one, again)
    _close(one, file)
    if got == (flavour == "posix"):
        how = "gets it too, so threads are told apart by jlogd itself" if got else "is refused"
        return passed(check, f"{_NAMES[flavour]}: a second open in the same process {how}")
    how = "gets it too" if got else "is refused: they belong to the open file here"
    return unknown(check, f"{_NAMES[flavour]}: a second open in the same process {how}", "no harm to jlogd")


def _close_trap(one: Helper, other: Helper, flavour: str) -> Finding:
    """The holder opens the file once more and closes that."""
    name, check = f"trap-{flavour}", f"lock.{flavour}.close"
    file, theirs = one.open(name, create=True), other.open(name)
    try_lock(one, file, flavour)
    _close(one, one.open(name))
    lost = try_lock(other, theirs, flavour)
    _close(one, file)
    _close(other, theirs)
    if flavour == "posix":
        how = "drops the lock, as POSIX has it; jlogd opens each lock file once" if lost else "leaves the lock alone"
        return passed(check, f"POSIX locks: closing another descriptor of the file {how}")
    bad = f"{_NAMES[flavour]}: closing another descriptor of the file drops the lock"
    return _verdict(
        flavour, check, not lost, f"{_NAMES[flavour]}: closing another descriptor leaves the lock alone", bad
    )


def _fork(one: Helper, other: Helper, flavour: str) -> Finding:
    """A child asks for the lock, closes what it inherited, and ends; the parent must have it still."""
    name, check = f"fork-{flavour}", f"lock.{flavour}.fork"
    file, theirs = one.open(name, create=True), other.open(name)
    try_lock(one, file, flavour)
    number = int(one.must("fork", file=file, flavour=flavour)["errno_in_child"])
    lost = try_lock(other, theirs, flavour)
    _close(one, file)
    _close(other, theirs)
    if lost:
        bad = f"{_NAMES[flavour]}: a child that ends takes its parent's lock away"
        return _verdict(flavour, check, False, "", bad)
    shares = number == 0
    if shares == (flavour != "posix"):
        how = "shares the lock" if shares else "does not have it"
        return passed(check, f"{_NAMES[flavour]}: a child {how}, and its end leaves the parent's alone")
    bad = f"{_NAMES[flavour]}: a child {'shares the lock' if shares else 'is refused'}, which is not what they promise"
    return _verdict(flavour, check, False, "", bad)


def _interplay(one: Helper, other: Helper) -> Finding:
    file, theirs = one.open("interplay", create=True), other.open("interplay")
    try_lock(one, file, "posix")
    independent = try_lock(other, theirs, "flock")
    _close(one, file)
    _close(other, theirs)
    if independent:
        return passed("lock.interplay", "POSIX locks and flock do not see each other, as on a local file system")
    return passed("lock.interplay", "flock is made of POSIX locks here, as on NFS: they see each other")


def _ranges(one: Helper, other: Helper) -> Finding:
    """Locks on single bytes, and who is said to hold them."""
    file, theirs = one.open("ranges", create=True), other.open("ranges")
    one.must("lock", file=file, flavour="posix", kind="exclusive", start=0, length=1)
    beside = other.ask("lock", file=theirs, flavour="posix", kind="exclusive", start=1, length=1)
    same = other.ask("lock", file=theirs, flavour="posix", kind="exclusive", start=0, length=1)
    holder = other.must("holder", file=theirs, start=0, length=1)
    _close(one, file)
    _close(other, theirs)
    if "errno" in beside or "errno" not in same:
        return unknown(
            "lock.posix.ranges", "locks on single bytes are not told apart", "no harm: jlogd locks whole files"
        )
    if not holder["held"]:
        return unknown("lock.posix.ranges", "F_GETLK does not show who holds a lock", "no harm: jlogd does not ask")
    return passed("lock.posix.ranges", "bytes are locked one by one, and F_GETLK shows the holder")


def _killed(one: LocalHelper, other: LocalHelper) -> Finding:
    """SIGKILL of the holder."""
    file, theirs = one.open("killed", create=True), other.open("killed")
    try_lock(one, file)
    one.kill()
    took = seconds_until_free(other, theirs)
    return released_finding("lock.posix.killed", "a process killed with -9", took)


def seconds_until_free(helper: Helper, file: int) -> float | None:
    """How long until a lock can be had; None when it is not free in time."""
    start = time.monotonic()
    while not try_lock(helper, file):
        if time.monotonic() - start > RELEASE_SECONDS_MAX:
            return None
        time.sleep(0.01)
    return time.monotonic() - start


def released_finding(check: str, who: str, seconds: float | None) -> Finding:
    """What it means that a dead holder's lock came free so late, or not."""
    if seconds is None:
        return failed(
            check,
            f"the lock of {who} is held for more than {RELEASE_SECONDS_MAX:.0f} s after",
            "a log could not be opened again after a crash; see whether the lock service is running",
        )
    return passed(check, f"the lock of {who} is free after {seconds * 1000:.0f} ms", seconds=seconds)


def _wakes(one: Helper, other: Helper) -> Finding:
    """A waiter wakes when the holder lets go."""
    file, theirs = one.open("wakes", create=True), other.open("wakes")
    try_lock(one, file)
    other.start("lock", file=theirs, flavour="posix", kind="exclusive", wait=True, limit=_WAIT_SECONDS)
    if other.done(_SETTLE_SECONDS):
        answer = other.finish()
        why = error_text(int(answer["errno"])) if "errno" in answer else "it was granted while another held it"
        return failed("lock.posix.wait", f"waiting for a lock does not wait: {why}", _ELSEWHERE)
    released = time.monotonic()
    one.must("lock", file=file, flavour="posix", kind="none")
    other.done(_WAIT_SECONDS)
    seconds = time.monotonic() - released
    answer = other.finish(_WAIT_SECONDS)
    if answer.get("late"):
        return failed("lock.posix.wait", f"a waiter was not woken in {_WAIT_SECONDS:.0f} s", _ELSEWHERE)
    if "errno" in answer:
        return failed("lock.posix.wait", f"waiting ended with {error_text(int(answer['errno']))}", _ELSEWHERE)
    if seconds > WAKE_SECONDS_MAX:
        return unknown(
            "lock.posix.wait",
            f"a waiter was woken {seconds:.1f} s after the release: the mount polls",
            "commits of several processes to one log will be slow; use one process",
            seconds=seconds,
        )
    return passed("lock.posix.wait", f"a waiter wakes {seconds * 1000:.1f} ms after the release", seconds=seconds)


def _killed_waiter(one: LocalHelper, other: LocalHelper) -> Finding:
    """SIGKILL of a process that waits."""
    file, theirs = one.open("waiter", create=True), other.open("waiter")
    try_lock(one, file)
    other.start("lock", file=theirs, flavour="posix", kind="exclusive", wait=True, limit=_WAIT_SECONDS)
    time.sleep(_SETTLE_SECONDS)
    other.kill()
    one.must("lock", file=file, flavour="posix", kind="none")
    took = seconds_until_free(one, file)
    if took is None:
        return failed("lock.posix.killed-waiter", "a killed waiter still gets the lock, and keeps it", _ELSEWHERE)
    return passed("lock.posix.killed-waiter", "a waiter killed with -9 leaves nothing behind")


def _close(helper: Helper, file: int) -> None:
    helper.ask("close", file=file)
