"""Some minutes of what `make soak` does for hours; and that its oracle sees what it is there to see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fault_support import missing
from soak_oracle import SoakOracle

HERE = Path(__file__).parent
# Of each kind some; about two minutes on a machine that does nothing else. The seed makes them the same ones each time,
# as far as processes can be the same.
OPERATIONS = 30
SEED = 4


def namespaces() -> str:
    """Why hosts cannot be made here, or ""."""
    if shutil.which("unshare") is None:
        return "the program unshare is not installed"
    users = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    bind = "mount -t tmpfs test /mnt && mount --bind /etc/hosts /proc/sys/kernel/random/boot_id"
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", *users, "sh", "-c", bind]
    tried = subprocess.run(command, capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"this machine allows no mounts in namespaces: {tried.stderr.strip()}"


@pytest.mark.slow
def test_two_minutes() -> None:
    if why := namespaces():
        missing(why)
    ended = subprocess.run(
        [sys.executable, str(HERE / "soak.py"), "--operations", str(OPERATIONS), "--seed", str(SEED)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-10000:]
    found = json.loads(ended.stdout)
    assert found["operations"] == OPERATIONS and found["records"] > 1000
    for what in ("kills", "full disks", "guests", "takeovers of a sleeping host", "stale writers that ended"):
        assert found[what], f"nothing of {what}: choose another seed"
    assert found["refused: SpoolFull"] and found["acknowledgements"]


# ---- the oracle ------------------------------------------------------------------------------------------------------


def soaked() -> SoakOracle:
    """Two producers, ten records, two subscribers that have them all."""
    oracle = SoakOracle()
    for name in ("a", "b"):
        oracle.at(name, 0)
        oracle.issue(name, 5)
        oracle.ack(name, 5)
    for subscriber in ("one", "two"):
        oracle.got(subscriber, 1, 3, "a", 0)
        oracle.got(subscriber, 4, 5, "b", 0)
        oracle.got(subscriber, 9, 2, "a", 3)
    return oracle


def test_the_oracle_is_content_with_what_is_right() -> None:
    oracle = soaked()
    oracle.got("one", 4, 5, "b", 0)  # again, after a kill
    oracle.got("guest", 9, 2, "a", 3)
    oracle.gap("one", 1, 3, "dropped")  # it had them
    assert oracle.whole(("one", "two"), 11) == 10
    assert oracle.counts["delivered again"] == 5


def test_the_oracle_sees_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="lost: one was given 12"):
        soaked().got("one", 12, 1, "a", 5)
    with pytest.raises(AssertionError, match="lost: one was given a gap"):
        soaked().gap("one", 11, 12, "damaged")
    with pytest.raises(AssertionError, match="changed: 4 was b:0, one was given b:1"):
        soaked().got("one", 4, 2, "b", 1)
    with pytest.raises(AssertionError, match="lost: a was acknowledged up to 5"):
        soaked().at("a", 4)
    with pytest.raises(AssertionError, match="lost: two stands at 11"):
        oracle = soaked()
        oracle.got("one", 11, 1, "a", 5)
        oracle.whole(("one", "two"), 12)
    with pytest.raises(AssertionError, match="repeated or out of order"):
        _whole_with("a", 4, 6)
    with pytest.raises(AssertionError, match="lost: 11 is a:6, after 4"):
        _whole_with("a", 6, 7)
    with pytest.raises(AssertionError, match="invented: a issued 5 records"):
        _whole_with("a", 5, 5)
    with pytest.raises(AssertionError, match="lost: a was acknowledged up to 9"):
        oracle = soaked()
        oracle.ack("a", 9)
        oracle.whole(("one", "two"), 11)
    with pytest.raises(AssertionError, match="beyond the end"):
        oracle = soaked()
        oracle.got("guest", 11, 1, "a", 5)
        oracle.whole(("one", "two"), 11)


def _whole_with(producer: str, number: int, issued: int) -> None:
    """One more record, which both subscribers got."""
    oracle = soaked()
    oracle.issue(producer, issued)
    for subscriber in ("one", "two"):
        oracle.got(subscriber, 11, 1, producer, number)
    oracle.whole(("one", "two"), 12)
