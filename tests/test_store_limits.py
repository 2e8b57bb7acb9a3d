"""What a store keeps for long: watches that ended leave nothing behind, in a daemon that runs for years."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import WatchEnded
from cluster.memory import MemoryStore
from cluster.solo import SoloStore

WATCHES = 30


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["memory", "solo"])
def test_watches_that_ended_leave_nothing_open(tmp_path: Path, kind: str):
    store = MemoryStore() if kind == "memory" else SoloStore(tmp_path / "solo.db")
    before = 0
    for number in range(WATCHES):
        watch = store.watch("", 2, idle=0.01, within=10)
        with pytest.raises(WatchEnded):
            watch.next()
        if number == 2:  # what is opened once and for all is open now
            before = open_files()
    assert open_files() <= before + 3
    assert len(store._watches) == 1, "those that ended are forgotten"
    store.close()
