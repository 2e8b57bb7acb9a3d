"""`jlogctl check-spool` on real mounts: what it says of each, and that it is right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mount_support import need_fuse, need_program, run
from stale_writer import judge

# It starts the servers of a cluster, and says nothing about jlogd that changes from day to day.
GLUSTER = "JLOGD_TEST_GLUSTER"


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["status"] for one in result["findings"]}


def failed(result: dict[str, Any]) -> set[str]:
    assert result["code"] == int("FAIL" in statuses(result).values())
    assert result["left"] == [], "the scratch directory is left"
    for one in result["findings"]:
        if one["status"] == "FAIL":
            print(one["check"], one["reason"])  # shown when a test fails
    return {one["check"] for one in result["findings"] if one["status"] == "FAIL"}


def reason(result: dict[str, Any], check: str) -> str:
    return next(one["reason"] for one in result["findings"] if one["check"] == check)


@pytest.fixture(autouse=True)
def _programs() -> None:
    need_program("ip", "mount")


def test_tmpfs(tmp_path: Path) -> None:
    found = run("tmpfs", tmp_path)
    assert failed(found) == set()
    assert statuses(found)["mount.type"] == "UNKNOWN" and "in memory" in reason(found, "mount.type")
    assert statuses(found)["sync.time"] == "PASS"  # too fast for a disk, but it is none


def test_a_full_disk_is_no_fault_of_the_mount(tmp_path: Path) -> None:
    """A daemon must start on one: its subscribers make the room."""
    found = run("full", tmp_path)
    assert found["admitted"] == ["mount.writable"] and "FAIL" not in statuses(found).values()
    assert found["code"] == 1 and not found["kept"], "a check that could not be made clears nothing"
    assert "peer.ring" in found["refused"]


def test_a_read_only_mount(tmp_path: Path) -> None:
    found = run("read_only", tmp_path)
    assert failed(found) == {"mount.writable"}


def test_overlay(tmp_path: Path) -> None:
    found = run("overlay", tmp_path)
    assert failed(found["disk"]) == failed(found["memory"]) == set()
    assert statuses(found["memory"])["mount.overlay"] == "UNKNOWN"
    assert "tmpfs" in reason(found["memory"], "mount.overlay")
    assert failed(found["volatile"]) == {"mount.overlay"}


def test_two_mounts_of_one_directory(tmp_path: Path) -> None:
    found = run("two_mounts", tmp_path)
    assert failed(found) == set()
    told = statuses(found)
    assert told["peer.host"] == "UNKNOWN"  # one kernel: it does not pass for two hosts
    for check in ("directory", "lock", "wait", "killed", "append", "names", "unlinked", "create"):
        assert told[f"peer.{check}"] == "PASS", reason(found, f"peer.{check}")
    ring = next(one for one in found["findings"] if one["check"] == "peer.ring")
    assert ring["numbers"]["turns"] == ring["numbers"]["counted"] > 100
    assert ring["numbers"]["worst_wait_seconds"] > 0


def test_a_peer_in_another_directory(tmp_path: Path) -> None:
    found = run("two_directories", tmp_path)
    assert failed(found) == {"peer.directory"}
    assert "peer.ring" not in statuses(found)


def test_bindfs_keeps_locks_and_caches_to_each_mount(tmp_path: Path) -> None:
    need_program("bindfs")
    need_fuse()
    found = run("bindfs", tmp_path)
    told = failed(found)
    assert {"mount.type", "peer.lock", "peer.wait", "peer.append"} <= told
    assert not any(check.startswith("lock.") for check in told)  # this host alone sees nothing wrong with them
    assert statuses(found)["peer.directory"] == "PASS"


@pytest.mark.slow
def test_a_paused_writer_on_a_mount_whose_locks_the_other_does_not_see(tmp_path: Path) -> None:
    need_program("bindfs")
    need_fuse()
    for moment, came in run("stale_writer", tmp_path).items():
        judge(moment, came)


def test_a_file_system_without_locks(tmp_path: Path) -> None:
    need_fuse()
    for name, found in run("no_locks", tmp_path).items():
        assert "lock.posix.works" in failed(found)
        told = reason(found, "lock.posix.works")
        assert name in told
        # Only EAGAIN could mean that somebody holds it; on a new file that is no answer either.
        assert ("held by somebody" in told) == (name == "EAGAIN")
        assert statuses(found)["lock.flock.works"] == statuses(found)["lock.ofd.works"] == "UNKNOWN"
        assert not any(check.startswith("lock.posix.ex") for check in statuses(found))


def test_locks_that_everybody_gets(tmp_path: Path) -> None:
    need_fuse()
    found = run("locks_that_hold_nothing", tmp_path)
    assert {"lock.posix.excludes", "lock.posix.wait"} <= failed(found)
    assert statuses(found)["lock.posix.works"] == "PASS"
    assert statuses(found)["lock.ofd.excludes"] == "UNKNOWN"


def test_syncs_that_fail(tmp_path: Path) -> None:
    need_fuse()
    found = run("no_syncs", tmp_path)
    assert {"sync.file", "sync.data", "sync.time"} <= failed(found)
    assert "EIO" in reason(found, "sync.data")
    assert not any(check.startswith("lock.") for check in failed(found))


def test_a_daemon_is_refused_until_the_risk_is_accepted(tmp_path: Path) -> None:
    need_fuse()
    found = run("refused_at_start", tmp_path)
    assert "ENOLCK" in found["refused"] and "--accept-risk" in found["refused"]
    assert found["risks"] == [["lock.posix.works", "mount.type"]]  # once, for two starts


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get(GLUSTER) != "1", reason=f"heavy: {GLUSTER}=1 runs it, with Debian's glusterfs-server installed"
)
def test_two_clients_of_a_gluster_volume(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("glusterd runs as root only")
    need_program("glusterd", "gluster", "mount.glusterfs")
    need_fuse()
    found = run("gluster", tmp_path)
    told = failed(found["default"])
    assert "peer.append" in told and "peer.lock" not in told  # its locks hold, its caches lie
    assert failed(found["uncached"]) == set()
    assert statuses(found["uncached"])["peer.ring"] != "FAIL"
