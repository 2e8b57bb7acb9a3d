"""Real disks that are full or fail on command, for tests: small file systems that are mounted for one test.

A `Trouble` is a cause that comes and goes: `begin`, `end`. The mounts need root; they are undone whatever happens.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NoReturn, Protocol

import pytest

HERE = Path(__file__).parent
SECONDS_MAX = 60.0
TMPFS_BYTES = 4 << 20


class Trouble(Protocol):
    """Something that goes wrong for a while."""

    def begin(self, pid: int) -> None:
        """It comes; `pid` is the process that is to suffer."""

    def end(self) -> None:
        """It goes."""


def missing(what: str) -> NoReturn:
    """Skip the test; where everything that tests need is to be installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; packaging/test-packages and the extra `dev` install what tests need")
    pytest.skip(what)


def need_root() -> None:
    """Skip unless file systems can be mounted."""
    if os.getuid() != 0:
        pytest.skip("only root may mount file systems here")


class FullDisk:
    """A file that takes all the space there is."""

    def __init__(self, place: Path) -> None:
        self._filler = place / "filler"

    def begin(self, pid: int) -> None:
        # Not buffered: closing it would try to write the rest.
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def end(self) -> None:
        self._filler.unlink(missing_ok=True)


class FailingCalls:
    """What a `fail_on_command.py` is told."""

    def __init__(self, control: Path, words: str) -> None:
        self._control, self._words = control, words

    def begin(self, pid: int) -> None:
        self._control.write_text(self._words)

    def end(self) -> None:
        self._control.write_text("")


class NoMoreFiles:
    """The limit on open files is what is open already."""

    def __init__(self) -> None:
        self._undo: Callable[[], object] = lambda: None

    def begin(self, pid: int) -> None:
        gc.collect()  # what is thrown away later would make room
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self._undo = lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        first_free = next(number for number in count() if number not in taken)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, before[1]))

    def end(self) -> None:
        self._undo()


@contextmanager
def tmpfs(at: Path) -> Iterator[Path]:
    """A file system of `TMPFS_BYTES` at the new directory `at`."""
    need_root()
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "test", at], capture_output=True)
    if done.returncode:
        missing(f"this machine mounts no tmpfs: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@contextmanager
def failing_mount(at: Path) -> Iterator[Path]:
    """A `fail_on_command.py` at the new directory `at`; yields its control file."""
    need_root()
    if shutil.which("fusermount3") is None:
        missing("the program fusermount3 is not installed")
    if os.environ.get("CI") != "true":
        pytest.importorskip("mfusepy")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing("this machine has no /dev/fuse")
    at.mkdir()
    source, control = at.with_name(f"{at.name}.source"), at.with_name(f"{at.name}.control")
    source.mkdir()
    control.write_text("")
    with control.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "fail_on_command.py", source, at, control], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + SECONDS_MAX
        while not at.is_mount():
            assert process.poll() is None, control.with_suffix(".log").read_text()
            assert time.monotonic() < deadline, "the file system was not mounted"
            time.sleep(0.02)
        yield control
    finally:
        control.write_text("")
        subprocess.run(["fusermount3", "-u", "-z", at], check=False)
        process.kill()
        process.wait()


@contextmanager
def jumping_clock(directory: Path) -> Iterator[tuple[dict[str, str], Callable[[int], None]]]:
    """The environment of a process whose clock jumps, and what makes it jump to so many seconds from the true time."""
    if shutil.which("cc") is None:
        missing("there is no C compiler")
    library, shift = directory / "jumping_clock.so", directory / "shift"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "jumping_clock.c"], check=True)

    def jump(seconds: int) -> None:
        new = shift.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(shift)

    jump(0)
    yield {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}, jump
