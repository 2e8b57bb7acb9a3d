"""What two hosts see of each other in one directory: the ring, and visibility.

The ring, after Samba's ping_pong: with one byte lock more than there are hosts, each host waits for the next lock,
counts up the number that belongs to the one it holds, lets that go, and moves on. Nobody can overtake, so each number
grows by as much as there are hosts from one visit to the next; every count arrives, and the rate drops well below
that of a host alone, because each step waits for the other. Locks that hold on one host only show in all three.

Visibility: what one host did before it let go of a lock, the other sees once it has the lock: lengths and bytes of
files, names that are new, replaced or gone. It is what a takeover relies on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from jlogd.spoolcheck.agent import Answer
from jlogd.spoolcheck.file_checks import SKEW_SECONDS_MAX, exclusive_create, unlinked
from jlogd.spoolcheck.findings import Finding, error_text, failed, passed, unknown
from jlogd.spoolcheck.helpers import CALL_SECONDS, Crew, Helper, attempt, guarded, proven
from jlogd.spoolcheck.lock_checks import WAKE_SECONDS_MAX, released_finding, seconds_until_free, try_lock
from jlogd.spoolcheck.mount_rules import LOCAL, is_local
from jlogd.spoolcheck.mountinfo import Facts
from jlogd.spoolcheck.peer import RemoteHelper

HOSTS = 2
RING_SECONDS = 30.0
RING_SECONDS_MIN = 1.0
VISIBLE_ROUNDS = 100
# After this long a name or a length that is not seen is taken to stay unseen.
APPEAR_SECONDS_MAX = 5.0
# A host alone takes its locks without asking anybody; one that waits for another is several times slower.
_RATE_SHARE_MAX = 0.7
_SOLO_SECONDS = 0.5
# At the ends one host is alone in the ring: it began first, or ended last.
_MARGIN_SECONDS = 2.0
_LOCKS = HOSTS + 1
_SHARED_LOCKS = "mount so that locks go to the server or the cluster, not to this host alone; see docs/san.md"
_FRESH = "mount without caching of attributes and names (NFS: noac, lookupcache=none); see docs/san.md"

Progress = Callable[[float, float], None]


def checks(
    crew: Crew, peer: RemoteHelper, facts: Facts, seconds: float, on_progress: Progress | None
) -> Iterator[Finding]:
    """Everything that needs two hosts. The scratch directory is there already."""
    us = crew.first.must("about")
    yield _who(us, peer)
    disk = judge_disks(us, peer.about, facts)
    if disk is not None:
        yield disk
        if disk.failed:
            return  # every write of the two makes it worse
    yield _clocks(peer)
    same = _same_directory(crew, peer)
    yield same
    if same.failed:
        return
    with crew.pair() as (mine, _):
        yield attempt("peer.lock", lambda: _excludes(mine, peer))
        yield attempt("peer.holder", lambda: _shows_holder(mine, peer))
        yield attempt("peer.wait", lambda: _wakes(mine, peer))
        yield attempt("peer.killed", lambda: _killed(mine, peer))
        yield from guarded("peer.ring", _ring(mine, peer, seconds, on_progress))
        yield attempt("peer.append", lambda: _appended(mine, peer))
        yield attempt("peer.names", lambda: _named(mine, peer))
        yield attempt("peer.unlinked", lambda: unlinked(mine, peer, "peer.unlinked"))
        yield attempt("peer.create", lambda: exclusive_create(mine, peer, "peer.create"))


def _who(us: Answer, peer: RemoteHelper) -> Finding:
    them = peer.about
    if them["boot"] == us["boot"]:
        return unknown(
            "peer.host",
            f"the peer is on this host ({us['node']}): two mounts stand in for two hosts",
            "run --serve on another host to show what two hosts do",
        )
    return passed("peer.host", f"the peer is {them['node']}, kernel {them['kernel']}, jlogd {them.get('version')}")


def judge_disks(us: Answer, them: Answer, facts: Facts) -> Finding | None:
    """A file system of one host that two hosts have mounted: the worst that can be found."""
    if them["boot"] == us["boot"] or not (is_local(facts.mount) and them.get("type") in (*LOCAL, "ext2")):
        return None
    ours = set(facts.device.wwids) if facts.device is not None else set()
    if ours & set(them.get("disks", ())):
        return failed(
            "peer.disk",
            f"one disk is mounted on both hosts ({facts.mount.type} here, {them['type']} there): it is being destroyed",
            "unmount one at once and run fsck; only a clustered file system may be mounted twice",
        )
    return unknown(
        "peer.disk",
        f"both hosts have a file system of one host there ({facts.mount.type}, {them['type']})",
        "if it is one LUN, unmount one at once and run fsck; only a clustered file system may be mounted twice",
    )


def _clocks(peer: RemoteHelper) -> Finding:
    if abs(peer.skew) > SKEW_SECONDS_MAX:
        return unknown(
            "peer.clock",
            f"the peer's clock is {peer.skew:+.1f} s off this host's",
            "run NTP on both",
            seconds=peer.skew,
        )
    return passed("peer.clock", f"the peer's clock agrees with this host's ({peer.skew:+.3f} s)", seconds=peer.skew)


def _same_directory(crew: Crew, peer: Helper) -> Finding:
    """The peer finds the scratch directory, and in it what this host wrote."""
    crew.first.must("put", name="token", text=crew.scratch, sync=True)
    took, answer = _until(lambda: peer.ask("begin", name=crew.scratch, make=False), lambda one: "errno" not in one)
    if "errno" in answer:
        return failed(
            "peer.directory",
            f"the peer does not see what is made here ({error_text(int(answer['errno']))})",
            "name the same directory on both hosts, and check that both mount the same thing",
        )
    _, token = _until(lambda: peer.ask("get", name="token"), lambda one: one.get("text") == crew.scratch)
    if token.get("text") != crew.scratch:
        return failed("peer.directory", "the peer sees the files of this host, but not what is in them", _FRESH)
    if took > WAKE_SECONDS_MAX:
        return failed("peer.directory", f"a new directory is seen by the peer after {took:.1f} s", _FRESH, seconds=took)
    return passed("peer.directory", "the peer is in the same directory")


def _excludes(mine: Helper, peer: Helper) -> Finding:
    file, theirs = mine.open("two-hosts", create=True), peer.open("two-hosts", create=True)
    wrong = []
    for holder, held, asker, asked, who in (
        (mine, file, peer, theirs, "the peer got what this host has"),
        (peer, theirs, mine, file, "this host got what the peer has"),
    ):
        if not try_lock(holder, held):
            wrong.append("a lock that was given up is still refused")
        if try_lock(asker, asked):
            wrong.append(who)
        for helper, number in ((holder, held), (asker, asked)):
            helper.must("lock", file=number, flavour="posix", kind="none")
    if wrong:
        return failed("peer.lock", f"locks do not hold between the two: {'; '.join(wrong)}", _SHARED_LOCKS)
    return passed("peer.lock", "a lock of one is refused to the other, both ways")


def _shows_holder(mine: Helper, peer: Helper) -> Finding:
    file, theirs = mine.open("holder", create=True), peer.open("holder", create=True)
    try_lock(mine, file)
    seen = peer.ask("holder", file=theirs)
    mine.must("lock", file=file, flavour="posix", kind="none")
    if not seen.get("held"):
        return unknown(
            "peer.holder", "F_GETLK of the peer does not show this host's lock", "no harm: jlogd does not ask"
        )
    return passed("peer.holder", "F_GETLK of the peer shows this host's lock")


def _wakes(mine: Helper, peer: Helper) -> Finding:
    file, theirs = mine.open("wake", create=True), peer.open("wake", create=True)
    try_lock(mine, file)
    peer.start("lock", file=theirs, flavour="posix", kind="exclusive", wait=True, limit=CALL_SECONDS / 2)
    if peer.done(0.2):
        answer = peer.finish()
        why = error_text(int(answer["errno"])) if "errno" in answer else "it got the lock that this host has"
        return failed("peer.wait", f"the peer does not wait for a lock: {why}", _SHARED_LOCKS)
    released = time.monotonic()
    mine.must("lock", file=file, flavour="posix", kind="none")
    peer.done(CALL_SECONDS)
    took = time.monotonic() - released
    answer = peer.finish()
    if answer.get("late") or "errno" in answer:
        return failed("peer.wait", "the peer was not woken when this host gave up a lock", _SHARED_LOCKS)
    peer.must("lock", file=theirs, flavour="posix", kind="none")
    if took > WAKE_SECONDS_MAX:
        return unknown(
            "peer.wait", f"the peer was woken after {took:.1f} s: the mount polls", "a takeover is slower by that"
        )
    return passed("peer.wait", f"the peer wakes {took * 1000:.1f} ms after this host gave up a lock", seconds=took)


def _killed(mine: Helper, peer: RemoteHelper) -> Finding:
    file, theirs = mine.open("dead", create=True), peer.open("dead", create=True)
    if not try_lock(peer, theirs):
        return failed("peer.killed", "a lock that nobody has is refused to the peer", _SHARED_LOCKS)
    peer.restart()
    took = seconds_until_free(mine, file)
    mine.ask("lock", file=file, flavour="posix", kind="none")
    return released_finding("peer.killed", "a process of the peer killed with -9", took)


def _ring(mine: Helper, peer: Helper, seconds: float, on_progress: Progress | None) -> Iterator[Finding]:
    solo = mine.must("ring", name="solo", locks=_LOCKS, seconds=_SOLO_SECONDS, margin=0.1)
    margin = min(_MARGIN_SECONDS, seconds / 4)
    both = (mine, peer)
    start = time.monotonic()
    for helper in both:
        helper.start("ring", name="ring", locks=_LOCKS, seconds=seconds, margin=margin)
    until = start + seconds + CALL_SECONDS + 5
    ended: dict[Helper, float] = {}
    while len(ended) < len(both) and time.monotonic() < until:
        for helper in both:
            if helper not in ended and helper.done(0.1):
                ended[helper] = time.monotonic()
        if on_progress is not None:
            on_progress(min(time.monotonic() - start, seconds), seconds)
    answers = [proven("ring", helper.finish()) for helper in both]
    total = int(mine.must("ring_sum", name="ring", locks=_LOCKS)["sum"])
    # Both go round for as long: one that ended so much later began as much later, on a host that has much to do.
    together = max(ended.values(), default=0.0) - min(ended.values(), default=0.0) < seconds / 2
    yield judge_ring(answers, total, seconds, together)
    yield _rate(solo, answers, seconds)


def judge_ring(answers: list[Answer], total: int, seconds: float, together: bool = True) -> Finding:
    """What a ring showed: `answers` of all hosts, `total` of what they counted up together.

    `together` false: they hardly were in it at the same time, so that they had no turns to take.
    """
    turns = [int(answer["turns"]) for answer in answers]
    steps = [(int(step), int(often)) for answer in answers for step, often in answer["steps"]]
    odd = sum(often for step, often in steps if step != len(answers))
    conflicts = sum(int(answer["conflicts"]) for answer in answers)
    worst = max(float(answer["worst"]) for answer in answers)
    numbers = {
        "turns": sum(turns),
        "counted": total,
        "locks_per_second": sum(turns) / seconds,
        "worst_wait_seconds": worst,
    }
    told = f"{sum(turns):,} turns of {len(answers)} hosts in {seconds:.0f} s, the longest wait {worst * 1000:.0f} ms"
    if total != sum(turns):
        lost = f"{abs(sum(turns) - total):,} of what they counted {'is lost' if total < sum(turns) else 'is too much'}"
        return failed("peer.ring", f"{told}: {lost}: locks or data are not shared", _SHARED_LOCKS, **numbers)
    if conflicts:
        return failed("peer.ring", f"{told}: {conflicts} locks had two holders", _SHARED_LOCKS, **numbers)
    if not together:
        again = "run it again on idle hosts, or for longer"
        return unknown("peer.ring", f"{told}: one began when the other was nearly done", again, **numbers)
    if not any(step == len(answers) for step, _ in steps):
        return failed("peer.ring", f"{told}: they never took turns", _SHARED_LOCKS, **numbers)
    if odd:
        return unknown(
            "peer.ring", f"{told}: in {odd:,} they did not take turns", "run it again on idle hosts", odd=odd, **numbers
        )
    return passed("peer.ring", f"{told}: always in turn, every count arrived", **numbers)


def _rate(solo: Answer, answers: list[Answer], seconds: float) -> Finding:
    alone = int(solo["turns"]) / _SOLO_SECONDS
    rates = [int(answer["turns"]) / seconds for answer in answers]
    told = f"{alone:,.0f} locks/s alone, {', '.join(f'{rate:,.0f}' for rate in rates)} locks/s together"
    numbers = {"alone_per_second": alone, "together_per_second": sum(rates)}
    if max(rates) > alone * _RATE_SHARE_MAX:
        return unknown(
            "peer.rate",
            f"{told}: a host that waits for another should be slower",
            "locks may hold on each host only; the ring decides",
            **numbers,
        )
    return passed("peer.rate", told, **numbers)


def _appended(mine: Helper, peer: Helper) -> Finding:
    """Both append in turn, each under the lock, and find what the other appended: length and bytes."""
    opened = []
    for helper in (mine, peer):
        opened.append((helper, helper.open("grows-lock", create=True), helper.open("grows", create=True)))
    expected, stale = "", 0
    for number in range(VISIBLE_ROUNDS):
        for at, (helper, lock, file) in enumerate(opened):
            helper.must("lock", file=lock, flavour="posix", kind="exclusive", wait=True, limit=CALL_SECONDS / 2)
            known = max(len(expected) - 400, 0)
            seen = helper.must("read_at", file=file, offset=known, length=1000)
            stale += seen["size"] != len(expected) or seen["text"] != expected[known:]
            text = f"{number} from {at} ".ljust(20 + (number * 37) % 180, "-") + "\n"
            stale += helper.must("append", file=file, text=text)["at"] != len(expected)
            expected += text
            helper.must("lock", file=lock, flavour="posix", kind="none")
            if stale:
                return failed(
                    "peer.append",
                    f"in round {number + 1} what was appended and synced under a lock is not seen under that lock",
                    _FRESH,
                    rounds=number + 1,
                )
    return passed("peer.append", f"in {VISIBLE_ROUNDS} rounds each saw at once what the other appended and synced")


def _named(mine: Helper, peer: Helper) -> Finding:
    """Names that are new, renamed, replaced and gone."""
    slow: list[str] = []

    def seen(what: str, look: Callable[[], Answer], good: Callable[[Answer], bool]) -> None:
        took, answer = _until(look, good)
        if not good(answer):
            slow.append(f"{what} is not seen in {APPEAR_SECONDS_MAX:.0f} s")
        elif took > 0:
            slow.append(f"{what} is seen after {took:.1f} s")

    peer.must("listing")
    peer.ask("get", name="name-a")  # a name that was looked for in vain must not be remembered as missing
    mine.must("put", name="name-a", text="one", sync=True)
    mine.must("sync_dir")
    seen("a new name", lambda: peer.ask("get", name="name-a"), lambda one: one.get("text") == "one")
    seen("a new name in the directory", lambda: peer.must("listing"), lambda one: "name-a" in one["names"])
    mine.must("rename", old="name-a", new="name-b")
    seen("a renamed file", lambda: peer.ask("get", name="name-b"), lambda one: one.get("text") == "one")
    seen("the end of its old name", lambda: peer.ask("get", name="name-a"), lambda one: "errno" in one)
    mine.must("put", name="name-c", text="three", sync=True)
    mine.must("rename", old="name-c", new="name-b")
    seen("a replaced file", lambda: peer.ask("get", name="name-b"), lambda one: one.get("text") == "three")
    mine.must("unlink", name="name-b")
    seen("a removed file", lambda: peer.ask("get", name="name-b"), lambda one: "errno" in one)
    seen("its removal from the directory", lambda: peer.must("listing"), lambda one: "name-b" not in one["names"])
    if slow:
        return failed("peer.names", f"names are not fresh at the peer: {'; '.join(slow)}", _FRESH)
    return passed("peer.names", "names that are new, renamed, replaced or gone are seen at once")


def _until(look: Callable[[], Answer], good: Callable[[Answer], bool]) -> tuple[float, Answer]:
    """Look until it is good or time is over: seconds it took (0: at the first look), and what was seen."""
    answer = look()
    start = time.monotonic()
    if good(answer):
        return 0.0, answer
    while time.monotonic() - start < APPEAR_SECONDS_MAX:
        time.sleep(0.02)
        answer = look()
        if good(answer):
            break
    return time.monotonic() - start, answer
