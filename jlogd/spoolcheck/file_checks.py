"""What files, names and syncs of a mount do, between processes of this host.

A journal needs: appends one after another under a lock; a create that only one can win; a rename that others see whole;
the link count of a file whose name is gone; syncs of files and of directories that do not fail. Whether a sync reaches
the medium cannot be seen, only that it is too fast to be true.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from jlogd.spoolcheck.findings import Finding, error_text, failed, passed, unknown
from jlogd.spoolcheck.helpers import Crew, Helper, attempt, proven
from jlogd.spoolcheck.mount_rules import VOLATILE
from jlogd.spoolcheck.mountinfo import Facts

# The fastest devices with power-loss protection take about this long; a network adds to it.
SYNC_SECONDS_MIN = 20e-6
_SYNC_ROUNDS = 100
_SYNC_BYTES = 4096
_APPEND_ROUNDS, _APPEND_BYTES = 50, 300
_RACE_FILES = 50
_LOOP_SECONDS = 0.3
# Less than this, and a log's first segment hardly fits.
FREE_BYTES_MIN = 64 << 20
# Clocks of hosts under NTP are milliseconds apart; ages and times of records are told in whole seconds.
SKEW_SECONDS_MAX = 2.0
_ELSEWHERE = "put the spool on another mount, such as ext4 or XFS on a LUN"


def files(crew: Crew) -> Iterator[Finding]:
    """Names and appends."""
    with crew.pair() as (one, other):
        yield attempt("file.create", lambda: exclusive_create(one, other, "file.create"))
        yield attempt("file.append", lambda: _appends(one, other))
        yield attempt("file.rename", lambda: _replacing(one, other))
        yield attempt("file.unlinked", lambda: unlinked(one, other, "file.unlinked"))
        yield attempt("file.write-512", lambda: _torn(one, other, 512))
        yield attempt("file.write-4096", lambda: _torn(one, other, 4096))


def syncs(crew: Crew, facts: Facts) -> Iterator[Finding]:
    """Syncs, and how long they take; clocks and room."""
    helper = crew.first
    file = helper.open("syncs", create=True)
    helper.must("append", file=file, text="some bytes", sync=False)
    yield _sync("sync.file", "fsync of a file", helper.ask("sync", file=file, how="file"))
    yield _sync("sync.data", "fdatasync of a file", helper.ask("sync", file=file, how="data"))
    yield _sync("sync.directory", "fsync of a directory", helper.ask("sync_dir"))
    answer = helper.ask("sync", file=file, how="allocated")
    if answer.get("errno") in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOSPC):
        yield passed("sync.allocated", "space cannot be allocated ahead; jlogd does without")
    else:
        yield _sync("sync.allocated", "fdatasync after an allocation", answer)
    yield attempt("sync.time", lambda: _times(helper, facts))
    yield attempt("clock", lambda: clock(helper))
    yield attempt("space", lambda: space(helper))


def space(helper: Helper) -> Finding:
    """Room for a log. Raises CallFailed, NoAnswer."""
    about = helper.must("about")
    free, names = int(about["free_bytes"]), int(about["free_files"])
    if names == 0:
        return failed("space", "no inodes are free: no segment can be made", "remove files, or make a new file system")
    if free < FREE_BYTES_MIN:
        return unknown("space", f"{free >> 20} MiB are free", "make room: a segment takes 64 MiB", free_bytes=free)
    return passed("space", f"{free >> 20} MiB are free", free_bytes=free)


def clock(helper: Helper) -> Finding:
    """This host's clock against that of whoever sets the times of files."""
    answer = helper.must("modified", name="clock")
    skew = float(answer["modified"]) - float(answer["time"])
    if abs(skew) > SKEW_SECONDS_MAX:
        return unknown(
            "clock",
            f"the file system's clock is {skew:+.1f} s off this host's",
            "run NTP on both: times and ages of records are those of hosts",
            seconds=skew,
        )
    return passed("clock", f"the file system's clock agrees with this host's ({skew:+.3f} s)", seconds=skew)


def exclusive_create(one: Helper, other: Helper, check: str) -> Finding:
    """Two create the same names at once; every name has one winner."""
    one.start("create_race", prefix=f"{check.replace('.', '-')}-", count=_RACE_FILES)
    other.start("create_race", prefix=f"{check.replace('.', '-')}-", count=_RACE_FILES)
    first = proven("create", one.finish())["won"]
    second = proven("create", other.finish())["won"]
    both, none = set(first) & set(second), _RACE_FILES - len(set(first) | set(second))
    if both or none:
        return failed(
            check,
            f"of {_RACE_FILES} files made by two at once, {len(both)} have two makers and {none} none (O_EXCL)",
            _ELSEWHERE,
        )
    return passed(
        check, f"of {_RACE_FILES} files made by two at once, each has one maker ({len(first)} and {len(second)})"
    )


def _appends(one: Helper, other: Helper) -> Finding:
    for helper, tag in ((one, "one"), (other, "two")):
        helper.start("append_loop", name="appends", tag=tag, rounds=_APPEND_ROUNDS, size=_APPEND_BYTES)
    for helper in (one, other):
        proven("append", helper.finish())
    text = str(one.must("get", name="appends")["text"])
    lines = text.splitlines()
    expected = {f"{tag} {number}" for tag in ("one", "two") for number in range(_APPEND_ROUNDS)}
    found = [line.rstrip(".").strip() for line in lines if len(line) == _APPEND_BYTES - 1]
    if set(found) != expected or len(found) != len(expected) or len(text) != len(expected) * _APPEND_BYTES:
        lost = len(expected - set(found))
        return failed(
            "file.append", f"two appended under a lock, and {lost} of {len(expected)} records are lost", _ELSEWHERE
        )
    return passed("file.append", f"two appended under a lock, and all {len(expected)} records are there")


def _replacing(one: Helper, other: Helper) -> Finding:
    """A reader meets a file that is replaced by rename."""
    one.must("replace_loop", name="replaced", seconds=0)  # so that it is there
    one.start("replace_loop", name="replaced", seconds=_LOOP_SECONDS)
    seen = other.must("read_loop", name="replaced", seconds=_LOOP_SECONDS * 0.9)
    done = int(proven("rename", one.finish())["done"])
    wrong = [f"{seen[how]} times {how}" for how in ("missing", "stale", "mixed") if seen[how]]
    if wrong:
        told = f"a file replaced by rename was {', '.join(wrong)} in {seen['reads']} reads"
        return failed("file.rename", told, _ELSEWHERE)
    if seen["late"]:
        return unknown(
            "file.rename",
            f"a file replaced {done} times by rename was stale (ESTALE) in {seen['late']} of {seen['reads']} reads, "
            "and whole at a second look",
            "no harm: jlogd looks again; other programs may not",
            stale=int(seen["late"]),
        )
    return passed("file.rename", f"a file replaced {done} times by rename was whole in all of {seen['reads']} reads")


def unlinked(one: Helper, other: Helper, check: str) -> Finding:
    """Whether it shows that the name of an open file is gone, or another file's."""
    wrong, links = [], 0
    for how, name in (("unlinked", "links-gone"), ("replaced by rename", "links-replaced")):
        one.must("put", name=name, text="here", sync=True)
        file = other.open(name)
        if how == "unlinked":
            one.must("unlink", name=name)
        else:
            one.must("put", name="links-new", text="new", sync=True)
            one.must("rename", old="links-new", new=name)
        seen = other.must("gone", file=file, name=name)
        links += int(seen["links"])
        if not seen["gone"]:
            wrong.append(f"once {how}, its name still stands for it")
        other.ask("close", file=file)
    if wrong:
        return failed(
            check,
            f"an open file does not show that it is gone: {'; '.join(wrong)}",
            "jlogd could go on with a state file that was replaced; mount without caching of names (NFS: "
            "lookupcache=none), or put the spool on another mount",
        )
    if links:
        return passed(
            check, "an open file whose name is gone keeps links, as on NFS; by its name it is told all the same"
        )
    return passed(check, "an open file whose name is gone shows no links")


def _torn(one: Helper, other: Helper, size: int) -> Finding:
    name, check = f"torn-{size}", f"file.write-{size}"
    one.must("write_loop", name=name, size=size, seconds=0)
    one.start("write_loop", name=name, size=size, seconds=_LOOP_SECONDS)
    seen = other.must("torn_loop", name=name, size=size, seconds=_LOOP_SECONDS * 0.9)
    one.finish()
    if seen["torn"]:
        return passed(
            check,
            f"{seen['torn']} of {seen['reads']} reads met a write of {size} bytes half done: no harm, as states are in "
            "two slots with checksums, and are read again",
        )
    return passed(check, f"writes of {size} bytes were whole in all of {seen['reads']} reads")


def _sync(check: str, what: str, answer: dict[str, object]) -> Finding:
    if "errno" in answer:
        return failed(check, f"{what} fails: {error_text(int(str(answer['errno'])))}", _ELSEWHERE)
    return passed(check, f"{what} works")


def _times(helper: Helper, facts: Facts) -> Finding:
    """How long a commit takes, and whether that can be true."""
    took = helper.must("sync_times", name="times", rounds=_SYNC_ROUNDS, size=_SYNC_BYTES, within=60.0)
    p50, p99 = float(took["p50"]), float(took["p99"])
    numbers = {"p50_seconds": p50, "p99_seconds": p99, "max_seconds": float(took["max"])}
    told = f"an append of 4 KiB is synced in {p50 * 1e6:,.0f} us (half of them), {p99 * 1e6:,.0f} us (99 of 100)"
    if too_fast(p50, facts):
        return unknown(
            "sync.time",
            f"{told}: too fast to have reached a medium",
            "ask who runs the storage: a cache without a battery loses what was acknowledged",
            **numbers,
        )
    return passed("sync.time", told, **numbers)


def too_fast(seconds: float, facts: Facts) -> bool:
    """Whether a sync is faster than storage that keeps its promise; memory promises nothing."""
    return seconds < SYNC_SECONDS_MIN and facts.mount.type not in VOLATILE
