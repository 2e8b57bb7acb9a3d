"""A page cache that holds what a file no longer is: damage is believed only when a look past the cache has seen it too.

Linux does this with FUSE: where an open throws the cached pages away while an append is on its way, a reader may bring
back the page as it was before, and zeros stand in it where the append went, for every open file, until the next open.
"""

from __future__ import annotations

import os
from pathlib import Path

from fault_support import failing_mount
from model_disk import ModelProcess

from jlogd.errors import JlogError
from jlogd.journal.batch import Batch, encode
from jlogd.journal.check import check
from jlogd.journal.disk import PosixDisk
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt, Settings

PATH = Path("/spool/log")
READ_ALL = 1 << 30


def make(disk: ModelProcess) -> Journal:
    Journal.create(PATH, Settings(), (), disk=disk)
    return Journal.open(PATH, disk=disk)


def append(journal: Journal, number: int) -> Receipt | JlogError:
    (outcome,) = journal.commit([encode([b"%d" % number]).numbered(7, number, number + 1)])
    return outcome


def hide_what_follows(disk: ModelProcess, journal: Journal) -> None:
    (segment,) = (name for name in disk.listdir(PATH) if name.endswith(".seg"))
    disk.disk.go_stale(PATH / segment, journal.stat().bytes)


def test_a_reader_looks_again_before_it_speaks_of_damage(disk: ModelProcess) -> None:
    journal = make(disk)
    append(journal, 0)
    cursor = journal.cursor("begin")
    cursor.read(READ_ALL)
    hide_what_follows(disk, journal)
    append(journal, 1)
    (found,) = cursor.read(READ_ALL)
    assert isinstance(found, Batch) and list(found) == [b"1"]


def test_a_writer_learns_what_another_process_appended(disk: ModelProcess) -> None:
    journal, other = make(disk), Journal.open(PATH, disk=disk.disk.process())
    append(journal, 0)
    hide_what_follows(disk, journal)
    assert append(other, 1) == Receipt(2, 1)
    assert append(journal, 1) == Receipt(2, 1, duplicate=True)


def test_a_check_looks_again(disk: ModelProcess) -> None:
    journal = make(disk)
    append(journal, 0)
    hide_what_follows(disk, journal)
    append(journal, 1)
    assert list(check(PATH, disk=disk)) == []


def test_the_second_look_goes_past_the_cache_of_a_real_kernel(tmp_path: Path) -> None:
    """The file is changed behind the back of the mount, so that the mount's pages are stale for certain."""
    with failing_mount(tmp_path / "mount"):
        (tmp_path / "mount" / "file").write_bytes(b"old")
        file = PosixDisk().open(tmp_path / "mount" / "file", "read")
        assert file.pread(3, 0) == b"old"
        (tmp_path / "mount.source" / "file").write_bytes(b"new")
        assert file.pread(3, 0) == b"old", "this kernel keeps no pages: nothing is tested"
        assert file.reread(3, 0) == b"new"
        assert file.pread(3, 0) == b"new", "the other pages of the file stay stale"
        file.close()


def test_the_second_look_at_a_file_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"pruned")
    file = PosixDisk().open(path, "read")
    os.unlink(path)
    assert file.reread(6, 0) == b"pruned"
    file.close()
