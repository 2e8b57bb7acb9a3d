"""What runs inside the namespaces of `mount_support.py`: `mount_scenarios.py SCENARIO WORK` prints JSON.

A scenario mounts below WORK and runs `jlogctl check-spool` as a user would; where there are two hosts, two mounts
stand in for them. The JSON is the result of one check, {"code", "findings"}, or several of those by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PEER = "127.0.0.1:5190"
RING_TIME = "1s"
_JLOGCTL = [sys.executable, "-m", "jlogd.cli.jlogctl", "check-spool"]
_MOUNT_SECONDS_MAX = 20.0
Result = dict[str, Any]


def sh(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, timeout=60).stdout


def directories(work: Path, *names: str) -> Iterator[Path]:
    for name in names:
        (work / name).mkdir(parents=True, exist_ok=True)
        yield work / name


def check(directory: Path, *options: str) -> Result:
    command = [*_JLOGCTL, str(directory), "--json", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode in (0, 1), ended.stderr
    return {
        "code": ended.returncode,
        "findings": [json.loads(line) for line in ended.stdout.splitlines()],
        "left": sorted(path.name for path in directory.iterdir() if path.is_dir()),
    }


@contextmanager
def serving(directory: Path) -> Iterator[None]:
    command = [*_JLOGCTL, str(directory), "--serve", PEER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("serving ")
        yield
    finally:
        process.terminate()
        assert process.wait(10) == 0


def pair(one: Path, other: Path) -> Result:
    with serving(one):
        return check(other, "--peer", PEER, "--ring-time", RING_TIME)


@contextmanager
def fuse(mount: Path, *command: object) -> Iterator[None]:
    """A FUSE file system that runs in the foreground, until it is there."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    until = time.monotonic() + _MOUNT_SECONDS_MAX
    while f" {mount} " not in Path("/proc/self/mountinfo").read_text():
        assert process.poll() is None and time.monotonic() < until, "it does not mount"
        time.sleep(0.02)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def tmpfs(work: Path) -> Result:
    (at,) = directories(work, "at")
    sh("mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", at)
    return check(at)


def full(work: Path) -> Result:
    """A disk without room: what a daemon and the command are told, with and without a failure that was found before."""
    from jlogd.errors import SpoolUnfit
    from jlogd.spoolcheck import verdict
    from jlogd.spoolcheck.check import Checked, admit, full_check, keep
    from jlogd.spoolcheck.findings import failed

    (at,) = directories(work, "at")
    sh("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "tmpfs", at)
    known = Checked()
    list(full_check(at, known))
    fillers = []
    try:
        while True:
            fillers.append(at / f"filler-{len(fillers)}")
            fillers[-1].touch()
    except OSError:
        fillers.pop()
    admitted = [one.check for one in admit(at) if one.cut_short]
    command = check(at)
    kept = (at / verdict.FILE).exists()
    for filler in fillers:
        filler.unlink()
    keep(at, known, [failed("peer.ring", "counts are lost", "mount it otherwise")])
    try:
        admit(at)
        refused = ""
    except SpoolUnfit as error:
        refused = str(error)
    return {**command, "admitted": admitted, "kept": kept, "refused": refused}


def read_only(work: Path) -> Result:
    (at,) = directories(work, "at")
    sh("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", at)
    return check(at)


def overlay(work: Path) -> Result:
    """On the disk that WORK is on, then with its upper directory on a tmpfs, then volatile."""
    results = {}
    for name, options in (("disk", ""), ("memory", ""), ("volatile", ",volatile")):
        lower, parent, at = directories(work / name, "lower", "top", "at")
        if name == "memory":
            sh("mount", "-t", "tmpfs", "tmpfs", parent)
        upper, inner = directories(parent, "upper", "work")
        sh("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={inner}{options}", "overlay", at)
        results[name] = check(at)
    return results


def two_mounts(work: Path) -> Result:
    """Two mounts of one directory of one file system: what a clustered one looks like at its best."""
    source, one, other = directories(work, "source", "one", "other")
    sh("mount", "--bind", source, one)
    sh("mount", "--bind", source, other)
    return pair(one, other)


def two_directories(work: Path) -> Result:
    """The mistake: the peer serves another directory."""
    return pair(*directories(work, "one", "other"))


def bindfs(work: Path) -> Result:
    source, one, other = directories(work, "source", "one", "other")
    with fuse(one, "bindfs", "-f", source, one), fuse(other, "bindfs", "-f", source, other):
        return pair(one, other)


def stale_writer(work: Path) -> Result:
    """A writer on one mount stands still while a host on the other takes over: their locks do not see each other."""
    from stale_writer import FORMER, MOMENTS, drive, jlogctl

    source, one, other = directories(work, "source", "one", "other")
    fresh = ("-f", "-o", "direct_io,attr_timeout=0,entry_timeout=0,negative_timeout=0")
    with fuse(one, "bindfs", *fresh, source, one), fuse(other, "bindfs", *fresh, source, other):
        came = {}
        for moment in MOMENTS:
            assert jlogctl(FORMER, "create", one / moment).returncode == 0
            came[moment] = drive(moment, one / moment, other / moment, lambda: None)
        return came


def _faulty(work: Path, *faults: str) -> Result:
    source, at = directories(work, "source", "at")
    with fuse(at, sys.executable, Path(__file__).with_name("faulty_fs.py"), source, at, *faults):
        return check(at)


def no_locks(work: Path) -> Result:
    """Lock calls fail, each time in another way."""
    return {name: _faulty(work / name, f"lock={name}") for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EAGAIN")}


def locks_that_hold_nothing(work: Path) -> Result:
    """Every lock is granted to everybody."""
    return _faulty(work)


def no_syncs(work: Path) -> Result:
    return _faulty(work, "fsync=EIO", "lock=none")


def refused_at_start(work: Path) -> Result:
    """What a daemon is told, with and without accepting the risk, and what the spool remembers."""
    from jlogd.errors import SpoolUnfit
    from jlogd.spoolcheck.check import admit
    from jlogd.spoolcheck.verdict import risks

    source, at = directories(work, "source", "at")
    with fuse(at, sys.executable, Path(__file__).with_name("faulty_fs.py"), source, at, "lock=ENOLCK"):
        try:
            admit(at)
            refused = ""
        except SpoolUnfit as error:
            refused = str(error)
        for _ in range(2):
            admit(at, accept_risk=True)
        return {"refused": refused, "risks": [risk.checks for risk in risks(at)]}


def gluster(work: Path) -> Result:
    """Two clients of one GlusterFS volume: as it comes, and with every cache off."""
    brick, state, logs, one, other = directories(work, "brick", "state", "logs", "one", "other")
    sh("ip", "address", "add", "10.99.0.1/32", "dev", "lo")  # it refuses loopback addresses
    sh("mount", "-t", "tmpfs", "tmpfs", "/run")
    Path("/run/gluster").mkdir()
    sh("mount", "--bind", state, "/var/lib/glusterd")
    sh("mount", "--bind", logs, "/var/log/glusterfs")
    subprocess.Popen(["glusterd", "--no-daemon"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until_done("gluster", "--mode=script", "volume", "create", "spools", f"10.99.0.1:{brick}", "force")
    results = {}
    for name, options in (("default", ""), ("uncached", "attribute-timeout=0,entry-timeout=0,direct-io-mode=enable")):
        if name == "uncached":
            for cache in ("write-behind", "quick-read", "io-cache", "read-ahead", "stat-prefetch", "open-behind"):
                sh("gluster", "--mode=script", "volume", "set", "spools", f"performance.{cache}", "off")
        sh("gluster", "--mode=script", "volume", "start", "spools")
        for at in (one, other):
            sh("mount", "-t", "glusterfs", *(("-o", options) if options else ()), "10.99.0.1:/spools", at)
        results[name] = pair(one, other)
        for at in (one, other):
            sh("umount", "-l", at)
        sh("gluster", "--mode=script", "volume", "stop", "spools")
    return results


def _until_done(*command: object) -> None:
    until = time.monotonic() + _MOUNT_SECONDS_MAX
    while True:
        try:
            sh(*command)
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


SCENARIOS: dict[str, Callable[[Path], Result]] = {
    one.__name__: one
    for one in (
        tmpfs, full, read_only, overlay, two_mounts, two_directories, bindfs, no_locks, locks_that_hold_nothing,
        no_syncs, refused_at_start, gluster, stale_writer,
    )
}  # fmt: skip


if __name__ == "__main__":
    sh("ip", "link", "set", "lo", "up")
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
