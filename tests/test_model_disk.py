"""The model disk does what it says: each promise kept, each fault really one."""

from __future__ import annotations

import errno
import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from model_disk import SECTOR_BYTES, Crash, DeadlockError, Fault, ModelDisk, ModelProcess

from jlogd.errors import LockUnavailable
from jlogd.journal.disk import LockBusy, PosixDisk, read_all, replace_file

ROOT = Path("/spool")
F = ROOT / "f"


def make(disk: ModelProcess, data: bytes = b"", path: Path = F, durable: bool = True):
    file = disk.open(path, "create")
    if data:
        assert file.append([data]) == len(data)
    if durable:
        file.sync()
        disk.sync_dir(path.parent)
    return file


# ---- contents ------------------------------------------------------------------------------------------------------


def test_reads_what_was_written(disk):
    file = make(disk, b"hello")
    assert file.append([b" ", b"world"]) == 6
    file.pwrite(b"J", 0)
    assert file.pread(100, 0) == b"Jello world"
    assert file.pread(3, 6) == b"wor"
    assert file.pread(3, 99) == b""
    assert file.size() == 11


def test_synced_survives_every_crash():
    for seed in range(50):
        disk = ModelDisk().process()
        make(disk, b"x" * 2000)
        again = disk.disk.crash(seed)
        assert read_all(again, F) == b"x" * 2000


def test_unsynced_may_be_lost_or_torn_at_sectors():
    seen = set()
    for seed in range(100):
        disk = ModelDisk().process()
        make(disk, b"a" * 100).append([b"b" * 1500])
        data = read_all(disk.disk.crash(seed, contents="prefix"), F)
        assert data == (b"a" * 100 + b"b" * 1500)[: len(data)]
        seen.add(len(data))
    assert seen == {100, 512, 1024, 1536, 1600}


def test_subset_leaves_holes_and_any_length():
    holes = grown = cut = 0
    for seed in range(200):
        disk = ModelDisk().process()
        make(disk, b"a" * SECTOR_BYTES).append([b"b" * 4 * SECTOR_BYTES])
        data = read_all(disk.disk.crash(seed, contents="subset"), F)
        assert data[:SECTOR_BYTES] == b"a" * SECTOR_BYTES
        tail = data[SECTOR_BYTES:]
        assert not tail.strip(b"b\0")
        holes += b"\0b" in tail
        grown += tail.endswith(b"\0")
        cut += len(data) < 5 * SECTOR_BYTES
    assert holes and grown and cut


def test_an_overwritten_sector_is_old_or_any_later_version():
    seen = set()
    for seed in range(60):
        disk = ModelDisk().process()
        file = make(disk, b"0" * SECTOR_BYTES)
        file.pwrite(b"1", 0)
        file.pwrite(b"2", 0)
        seen.add(read_all(disk.disk.crash(seed, contents="subset"), F)[:1])
    assert seen == {b"0", b"1", b"2"}


def test_zeros_grow_the_file_without_its_data():
    disk = ModelDisk().process()
    make(disk, b"a" * 100).append([b"b" * 1000])
    assert read_all(disk.disk.crash(contents="zeros"), F) == b"a" * 100 + bytes(1000)


def test_stale_shows_what_deleted_files_held():
    disk = ModelDisk().process()
    make(disk, b"secret! " * 200, ROOT / "old").close()
    disk.unlink(ROOT / "old")
    make(disk, b"").append([b"b" * 2000])
    data = read_all(disk.disk.crash(3, contents="stale"), F)
    assert len(data) == 2000 and b"secret!" in data and b"b" not in data


def test_everything_may_survive_too(disk):
    make(disk, b"a").append([b"b"])
    assert read_all(disk.disk.crash(contents="everything"), F) == b"ab"


def test_a_seed_means_the_same_loss_every_time():
    def run() -> dict[Path, bytes]:
        disk = ModelDisk().process()
        for name in "abcde":
            make(disk, b"x" * 700, ROOT / name, durable=name < "c").append([b"y" * 3000])
        disk.disk.crash(7)
        return disk.disk.files()

    assert run() == run()


def test_a_crash_is_a_new_boot_and_a_kill_is_not(disk):
    assert disk.disk.process().boot() == disk.boot()
    disk.kill()
    assert disk.disk.process().boot() == disk.boot()
    assert disk.disk.crash().boot() != disk.boot()
    assert disk.disk.process("b").host() != disk.host()


def test_kill_keeps_the_cache_and_ends_the_process(disk):
    file = make(disk, b"a", durable=False)
    disk.kill()
    for call in (lambda: file.append([b"x"]), lambda: disk.listdir(ROOT), lambda: disk.exists(F), file.sync):
        with pytest.raises(Crash):
            call()
    file.close()
    assert read_all(disk.disk.process(), F) == b"a"


# ---- names ---------------------------------------------------------------------------------------------------------


def test_an_unsynced_name_may_be_lost_though_its_file_is_synced():
    seen = set()
    for seed in range(20):
        disk = ModelDisk().process()
        disk.open(F, "create").sync()
        seen.add(disk.disk.crash(seed).exists(F))
    assert seen == {True, False}


def test_names_survive_as_prefix_or_any_subset():
    seen = {"prefix": set(), "subset": set()}
    for seed in range(100):
        for names in seen:
            disk = ModelDisk().process()
            for name in "abc":
                disk.open(ROOT / name, "create").close()
            seen[names].add("".join(sorted(disk.disk.crash(seed, names=names).listdir(ROOT))))
    assert seen["prefix"] == {"", "a", "ab", "abc"}
    assert seen["subset"] == {"", "a", "b", "c", "ab", "ac", "bc", "abc"}


def test_rename_is_atomic_and_replaces():
    seen = set()
    for seed in range(50):
        disk = ModelDisk().process()
        make(disk, b"old").close()
        new = disk.open(ROOT / "new", "create")
        new.append([b"new"])
        new.sync()
        disk.sync_dir(ROOT)
        disk.rename(ROOT / "new", F)
        assert read_all(disk, F) == b"new" and new.unlinked() is False
        again = disk.disk.crash(seed)
        seen.add((tuple(sorted(again.listdir(ROOT))), read_all(again, F)))
    assert seen == {(("f", "new"), b"old"), (("f",), b"new")}


def test_an_unlinked_file_stays_readable_and_may_come_back():
    seen = set()
    for seed in range(20):
        disk = ModelDisk().process()
        file = make(disk, b"x")
        disk.unlink(F)
        assert file.unlinked() and file.pread(9, 0) == b"x" and not disk.exists(F)
        seen.add(disk.disk.crash(seed).exists(F))
    assert seen == {True, False}


def test_a_directory_needs_its_parent_synced():
    seen = set()
    for seed in range(20):
        disk = ModelDisk().process()
        disk.mkdir(ROOT / "log")
        make(disk, b"x", ROOT / "log" / "f")
        seen.add(disk.disk.crash(seed).exists(ROOT / "log"))
    assert seen == {True, False}
    disk = ModelDisk().process()
    disk.mkdir(ROOT / "log")
    disk.sync_dir(ROOT)
    make(disk, b"x", ROOT / "log" / "f")
    assert read_all(disk.disk.crash(), ROOT / "log" / "f") == b"x"


def test_replace_file_leaves_old_or_new():
    """The one compound operation of the seam, crashed before and after each of its calls."""
    seen = set()
    for call in range(1, 8):
        for after in (False, True):
            for seed in range(10):
                disk = ModelDisk().process()
                make(disk, b"old" * 300).close()
                disk.disk.faults.append(Fault(crash=True, at=call, after=after))
                with suppress(Crash):
                    replace_file(disk, F, b"new" * 400)
                seen.add(read_all(disk.disk.crash(seed), F)[:3])
    assert seen == {b"old", b"new"}
    disk = ModelDisk().process()
    replace_file(disk, F, b"new")
    assert read_all(disk.disk.crash(), F) == b"new"


@pytest.mark.parametrize("kind", ["model", "posix"])
def test_errors_are_those_of_the_real_disk(kind, disk, spool):
    disk, root = (disk, ROOT) if kind == "model" else (PosixDisk(), spool)
    with pytest.raises(FileNotFoundError):
        disk.open(root / "f", "read")
    with pytest.raises(FileNotFoundError):
        disk.unlink(root / "f")
    with pytest.raises(FileNotFoundError):
        disk.rename(root / "f", root / "g")
    with pytest.raises(FileNotFoundError):
        disk.open(root / "no" / "f", "create")
    file = disk.open(root / "f", "create")
    with pytest.raises(FileExistsError):
        disk.open(root / "f", "create")
    disk.mkdir(root / "d")
    with pytest.raises(FileExistsError):
        disk.mkdir(root / "d")
    with pytest.raises(FileNotFoundError):
        disk.mkdir(root / "no" / "d")
    with pytest.raises(NotADirectoryError):
        disk.listdir(root / "f")
    disk.open(root / "d" / "x", "create").close()
    with pytest.raises(OSError) as raised:
        disk.rmdir(root / "d")
    assert raised.value.errno == errno.ENOTEMPTY
    reader = disk.open(root / "f", "read")
    with pytest.raises(OSError) as raised:
        reader.append([b"x"])
    assert raised.value.errno == errno.EBADF
    file.close()
    file.close()
    with pytest.raises(OSError) as raised:
        file.size() if kind == "posix" else file.append([b"x"])
    assert raised.value.errno == errno.EBADF
    assert sorted(disk.listdir(root)) == ["d", "f"]
    assert disk.exists(root / "d") and not disk.exists(root / "f" / "x")


# ---- locks ---------------------------------------------------------------------------------------------------------


def test_locks_exclude_processes_and_the_process_itself(disk):
    other = disk.disk.process("b")
    held = disk.lock(F, wait=False, note="pid 1")
    for process in (disk, other):
        with pytest.raises(LockBusy, match="pid 1"):
            process.lock(F, wait=False)
        with pytest.raises(LockBusy):
            process.lock(F, shared=True, wait=False)
    held.release()
    held.release()
    readers = [process.lock(F, shared=True, wait=False) for process in (disk, other)]
    with pytest.raises(LockBusy):
        disk.lock(F, wait=False)
    with pytest.raises(DeadlockError):
        disk.lock(F)
    for reader in readers:
        reader.release()
    disk.lock(F, wait=False).release()


def test_kill_drops_locks_of_that_process_only(disk):
    other = disk.disk.process()
    mine, theirs = disk.lock(F), other.lock(ROOT / "g")
    disk.kill()
    other.lock(F, wait=False)
    with pytest.raises(LockBusy):
        disk.disk.process().lock(ROOT / "g", wait=False)
    mine.release()
    theirs.release()


def test_locks_wait_with_threads():
    disk = ModelDisk(threads=True)
    held = disk.process().lock(F)
    got = threading.Event()

    def wait() -> None:
        disk.process().lock(F)
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.05)
    held.release()
    assert got.wait(5)
    thread.join()


def test_a_lock_file_must_not_be_opened_past_the_registry(disk):
    disk.lock(F)
    with pytest.raises(AssertionError, match="past the registry"):
        disk.open(F, "read")
    disk.disk.process().open(F, "read").close()


def test_locks_that_do_not_work(disk):
    disk.disk.faults.append(Fault(error=errno.ENOLCK, op="lock"))
    with pytest.raises(LockUnavailable):
        disk.lock(F)


# ---- faults --------------------------------------------------------------------------------------------------------


def test_calls_are_numbered_and_fail_where_told(disk):
    file = make(disk, b"x")
    assert [call.op for call in disk.disk.trace] == ["open", "append", "sync", "sync_dir"]
    disk.disk.faults.append(Fault(error=errno.EIO, at=2, times=2))
    file.append([b"1"])
    for _ in range(2):
        with pytest.raises(OSError) as raised:
            file.append([b"2"])
        assert raised.value.errno == errno.EIO
    file.append([b"3"])
    assert file.pread(9, 0) == b"x13"


def test_faults_pick_by_kind_and_path(disk):
    file, other = make(disk), make(disk, path=ROOT / "g")
    disk.disk.faults.append(Fault(error=errno.EINTR, op="sync", path="*/g"))
    file.sync()
    other.append([b"x"])
    with pytest.raises(InterruptedError):
        other.sync()
    other.sync()


def test_a_fault_after_the_effect(disk):
    file = make(disk)
    disk.disk.faults.append(Fault(error=errno.EIO, after=True, op="append"))
    with pytest.raises(OSError):
        file.append([b"x"])
    assert file.pread(9, 0) == b"x"


def test_a_crash_is_no_exception_and_lasts(disk):
    file = make(disk, b"x")
    disk.disk.faults.append(Fault(crash=True, op="append"))
    with pytest.raises(Crash):
        try:
            file.append([b"y"])
        except Exception:
            pytest.fail("a handler survived the crash")
    with pytest.raises(Crash):
        file.sync()
    assert read_all(disk.disk.process(), F) == b"x"
    assert read_all(disk.disk.crash(), F) == b"x"


def test_something_else_may_happen_at_a_call(disk):
    file, other = make(disk), disk.disk.process()
    disk.disk.faults.append(Fault(op="append", action=lambda: other.open(F, "write").append([b"first "])))
    file.append([b"second"])
    assert file.pread(99, 0) == b"first second"
    disk.lock(ROOT / "lock")
    disk.disk.lose_locks(disk)
    other.lock(ROOT / "lock", wait=False)


def test_short_appends(disk):
    file = make(disk)
    disk.disk.faults.append(Fault(short=3, op="append"))
    assert file.append([b"ab", b"cdef"]) == 3
    assert file.append([b"def"]) == 3
    assert file.pread(9, 0) == b"abcdef"


def test_a_failed_sync_marks_the_pages_clean(disk):
    file = make(disk, b"a" * SECTOR_BYTES)
    file.append([b"b" * SECTOR_BYTES])
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync"))
    with pytest.raises(OSError):
        file.sync()
    file.append([b"c" * SECTOR_BYTES])
    file.sync()
    assert file.pread(3 * SECTOR_BYTES, 0)[SECTOR_BYTES] == ord("b"), "the cache still shows it"
    again = disk.disk.crash()
    assert read_all(again, F) == b"a" * SECTOR_BYTES + bytes(SECTOR_BYTES) + b"c" * SECTOR_BYTES


def test_eviction_shows_what_a_failed_sync_lost(disk):
    file = make(disk, b"a")
    file.append([b"b" * SECTOR_BYTES])
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync"))
    with pytest.raises(OSError):
        file.sync()
    file.pwrite(b"c", SECTOR_BYTES)
    disk.disk.evict()
    assert file.pread(9999, 0) == b"a" + bytes(SECTOR_BYTES - 1) + b"c"


def test_a_failed_sync_may_have_written_some_sectors(disk):
    file = make(disk)
    file.append([b"b" * 20 * SECTOR_BYTES])
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync", keep=0.5))
    with pytest.raises(OSError):
        file.sync()
    data = read_all(disk.disk.crash(contents="nothing"), F)
    assert 0 < data.count(b"b") < 20 * SECTOR_BYTES


def test_every_open_descriptor_hears_of_a_failed_sync_once(disk):
    file = make(disk, b"a")
    other = disk.disk.process().open(F, "write")
    file.append([b"b"])
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync"))
    for heard in (file, other):
        with pytest.raises(OSError):
            heard.sync()
        heard.sync()
    disk.open(F, "write").sync()


def test_a_failed_writeback_waits_for_somebody_to_hear_of_it(disk):
    file = make(disk, b"a")
    file.append([b"b"])
    file.close()
    disk.disk.writeback_fails(F)
    late = disk.open(F, "write")
    with pytest.raises(OSError):
        late.sync()
    disk.open(F, "write").sync()
    assert read_all(disk.disk.crash(contents="everything"), F)[:1] == b"a"


def test_a_full_disk_writes_short_and_then_nothing(disk):
    disk.disk.capacity = 100
    file = make(disk)
    assert file.append([b"x" * 150]) == 100
    with pytest.raises(OSError) as raised:
        file.append([b"y"])
    assert raised.value.errno == errno.ENOSPC
    file.pwrite(b"z" * 10, 0)
    with pytest.raises(OSError):
        file.pwrite(b"z" * 10, 95)
    disk.unlink(F)
    assert make(disk, path=ROOT / "g").append([b"x" * 150]) == 100


def test_flips_survive_everything(disk):
    file = make(disk, b"abc")
    file.append([b"def"])
    disk.disk.flip(F, 1)
    disk.disk.flip(F, 4)
    assert file.pread(9, 0) == b"accddf"
    disk.disk.evict()
    assert file.pread(9, 0) == b"accddf"
    assert read_all(disk.disk.crash(contents="everything"), F) == b"accddf"


def test_a_clone_is_independent(disk):
    file = make(disk, b"abc")
    clone = disk.disk.clone()
    file.append([b"x"])
    clone.put(F, b"other")
    assert read_all(disk, F) == b"abcx"
    assert read_all(clone.crash(), F) == b"other"
    clone.lose(F)
    assert not clone.crash().exists(F)


def test_random_programs_keep_what_they_synced():
    """The model against a model of the model: whatever was synced, with its name, is there after any crash."""
    for seed in range(150):
        rng = random.Random(seed)
        disk = ModelDisk().process()
        promised: dict[Path, bytes] = {}
        files = {}
        for _ in range(30):
            path = ROOT / rng.choice("abc")
            if path not in files:
                files[path] = disk.open(path, "create")
            elif rng.random() < 0.6:
                files[path].append([rng.randbytes(rng.randrange(900))])
            elif rng.random() < 0.7:
                files[path].sync()
                disk.sync_dir(ROOT)
                promised[path] = files[path].pread(1 << 20, 0)
            else:
                disk.disk.evict()
        again = disk.disk.crash(rng)
        for path, data in promised.items():
            assert read_all(again, path)[: len(data)] == data
