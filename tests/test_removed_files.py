"""A file that is open and removed: told by its links on a block device, and by its name where those do not tell.

NFS renames it to `.nfs...` and keeps its links, FUSE to `.fuse_hidden...`. Here a disk does so whose `unlink` renames.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jlogd.journal import disk as disks
from jlogd.journal.batch import encode
from jlogd.journal.disk import PosixDisk, PosixFile, links_tell
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt
from jlogd.journal.view import View


class RenamingDisk(PosixDisk):
    """Removes as an NFS client does what it may have open."""

    def unlink(self, path: Path) -> None:
        os.rename(path, path.with_name(f".nfs-{path.name}"))


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose links do not tell."""
    monkeypatch.setattr(disks, "links_tell", lambda _: False)


def silly(path: Path) -> None:
    path.rename(path.with_name(".nfs01"))


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"new")
    path.with_name("new").rename(path)


def make_again(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"again")


@pytest.mark.parametrize("remove", [Path.unlink, replace, make_again, silly])
@pytest.mark.parametrize("looked_before", [False, True])
def test_a_file_that_is_gone_by_its_name(
    tmp_path: Path, by_name: None, remove: Callable[[Path], object], looked_before: bool
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"here")
    file = PosixDisk().open(path, "read")
    if looked_before:
        assert not file.unlinked()
    remove(path)
    assert file.unlinked() and file.pread(4, 0) == b"here"


@pytest.mark.parametrize("remove", [Path.unlink, replace, make_again])
def test_a_file_that_is_gone_by_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(disks, "links_tell", lambda _: True)
    path = tmp_path / "state"
    path.write_bytes(b"here")
    file = PosixDisk().open(path, "read")
    assert not file.unlinked()
    remove(path)
    assert file.unlinked()


def test_it_is_asked_by_name_wherever_removed_files_may_be_kept() -> None:
    assert links_tell(os.makedev(8, 1)) and links_tell(os.makedev(254, 0)) and not links_tell(os.makedev(0, 52))
    assert not links_tell(os.stat("/proc/self/status").st_dev)  # a file system without a device


def test_one_call_tells_where_links_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked with every commit."""
    monkeypatch.setattr(disks, "links_tell", lambda _: True)
    path = tmp_path / "state"
    path.write_bytes(b"here")
    file = PosixDisk().open(path, "read")
    file.unlinked()
    calls = []
    for name in ("stat", "lstat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name, **k: (calls.append(name), real(*a, **k))[1])
    assert not file.unlinked() and calls == ["fstat"]


def test_a_reader_finds_the_new_head_when_the_old_one_was_only_renamed(tmp_path: Path, by_name: None) -> None:
    disk, path = RenamingDisk(), tmp_path / "log"
    Journal.create(path, disk=disk)
    view = View(path, disk)
    with Journal.open(path, disk) as journal:
        assert isinstance(journal.commit([encode([b"one"])])[0], Receipt)
        before = view.head()
    with Journal.take_over(path, disk) as journal:
        assert isinstance(journal.commit([encode([b"two"])])[0], Receipt)
    after = view.head()
    assert before is not None and after is not None
    assert list(path.glob(".nfs-head-*")), "the old head was to be kept under another name"
    assert (before.visible, after.visible) == (2, 3) and after.epoch > before.epoch


def test_a_head_that_is_stale_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    Journal.create(path)
    view = View(path, PosixDisk())
    assert view.head() is not None
    real, left = PosixFile.pread, [1]

    def stale(self: PosixFile, length: int, offset: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(self, length, offset)

    monkeypatch.setattr(PosixFile, "pread", stale)
    assert view.head() is not None and left == [0]


def test_a_file_that_another_host_removed_is_gone(
    tmp_path: Path, by_name: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"here")
    file = PosixDisk().open(path, "read")

    def stale(_: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", stale)
        gone = file.unlinked()
    assert gone
