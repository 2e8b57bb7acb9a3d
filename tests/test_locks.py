"""The locks of one process, on real files: threads, processes, fork, kill, unlinked files and locks that fail."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jlogd.errors import Closed, LockUnavailable
from jlogd.journal import locks
from jlogd.journal.locks import FileLock, LockBusy, acquire

WORKER = """
import sys
from pathlib import Path
from jlogd.journal.locks import LockBusy, acquire

held = {}
for line in sys.stdin:
    word, name, *flags = line.split()
    if word == "release":
        held.pop(name).release()
        answer = "ok"
    else:
        try:
            held[name] = acquire(Path(name), shared="shared" in flags, wait="wait" in flags, note="worker")
            answer = "ok"
        except LockBusy:
            answer = "busy"
    print(answer, flush=True)
"""


class Worker:
    """Another process, which locks what it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def send(self, word: str, path: Path, *flags: str) -> None:
        assert self.process.stdin
        print(word, path, *flags, file=self.process.stdin, flush=True)

    def answer(self, timeout: float = 20) -> str | None:
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert self.process.stdout
        return self.process.stdout.readline().strip() if ready else None

    def ask(self, word: str, path: Path, *flags: str) -> str | None:
        self.send(word, path, *flags)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.end()


@pytest.fixture
def workers() -> Iterator[Callable[[], Worker]]:
    all_of_them: list[Worker] = []

    def make() -> Worker:
        all_of_them.append(Worker())
        return all_of_them[-1]

    yield make
    for one in all_of_them:
        one.end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lock"


def busy(path: Path, shared: bool = False) -> bool:
    """Whether this process is refused the lock."""
    try:
        acquire(path, shared=shared, wait=False).release()
    except LockBusy:
        return True
    return False


def in_fork(body: Callable[[], object]) -> bool:
    """Run `body` in a forked child; whether it returned something true there."""
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if body() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 1), "the child failed"
    return os.waitstatus_to_exitcode(status) == 0


# ---- who excludes whom ---------------------------------------------------------------------------------------------


def test_threads_exclude_each_other(path):
    counter = most = 0

    def work() -> None:
        nonlocal counter, most
        for _ in range(200):
            with acquire(path):
                counter += 1
                most = max(most, counter)
                counter -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, counter) == (1, 0)


def test_two_handles_of_one_thread_exclude_each_other(path):
    lock = acquire(path)
    assert busy(path) and busy(path, shared=True)
    lock.release()
    assert not busy(path)


def test_processes_exclude_each_other(path, worker):
    assert worker.ask("lock", path) == "ok"
    assert busy(path) and busy(path, shared=True)
    assert worker.ask("release", path) == "ok"
    with acquire(path):
        assert worker.ask("lock", path) == "busy"
        assert worker.ask("lock", path, "shared") == "busy"
    assert worker.ask("lock", path) == "ok"


def test_shared_locks_mix_with_each_other_only(path, worker):
    first, second = acquire(path, shared=True), acquire(path, shared=True)
    assert worker.ask("lock", path, "shared") == "ok"
    assert busy(path)
    first.release()
    assert busy(path), "the second one is still held"
    assert worker.ask("release", path) == "ok"
    assert worker.ask("lock", path) == "busy", "one thread's release must not give up the share of the other"
    second.release()
    assert worker.ask("lock", path) == "ok"


def test_release_twice_does_not_release_for_another(path, worker):
    first = acquire(path, shared=True)
    second = acquire(path, shared=True)
    first.release()
    first.release()
    assert worker.ask("lock", path) == "busy"
    second.release()


def test_shared_locks_are_never_refused_to_each_other(path):
    """Two threads that ask at the same moment: that one of them is asking must not refuse the other."""
    refused = 0
    barrier = threading.Barrier(4)

    def work() -> None:
        nonlocal refused
        barrier.wait()
        for _ in range(2000):
            try:
                acquire(path, shared=True, wait=False).release()
            except LockBusy:
                refused += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: work(), range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert refused == 0


def test_an_asker_that_finds_nothing_held_does_not_refuse_another(path, monkeypatch):
    """The same, made certain: while one thread is inside the kernel call for a shared lock, another asks for one."""
    asking, go_on = threading.Event(), threading.Event()
    real = locks._KernelLock.take

    def slow(self: locks._KernelLock, shared: bool) -> bool:
        asking.set()
        assert go_on.wait(10)
        return real(self, shared)

    monkeypatch.setattr(locks._KernelLock, "take", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(acquire, path, shared=True, wait=False)
        assert asking.wait(10)
        second = pool.submit(acquire, path, shared=True, wait=False)
        time.sleep(0.05)
        go_on.set()
        first.result(10).release()
        second.result(10).release()


# ---- what must not drop a lock -------------------------------------------------------------------------------------


def test_other_uses_through_the_registry_drop_nothing(path, worker):
    lock = acquire(path)
    for _ in range(3):
        assert busy(path)
        gc.collect()
    other_name = path.with_name("hard-link")
    os.link(path, other_name)
    assert busy(other_name), "the same file under another name is the same lock"
    gc.collect()
    assert worker.ask("lock", path) == "busy"
    lock.release()
    assert worker.ask("lock", path) == "ok"


def test_a_failed_attempt_leaves_no_residue(path, worker):
    assert worker.ask("lock", path) == "ok"
    for _ in range(50):
        assert busy(path) and busy(path, shared=True)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        assert busy(path)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert worker.ask("release", path) == "ok"
    assert not busy(path)
    assert worker.ask("lock", path) == "ok", "what failed here holds nothing"


def test_many_lock_files_stay_bounded_and_held(tmp_path, worker):
    before = len(os.listdir("/proc/self/fd"))
    held = [acquire(tmp_path / f"{number}.lock") for number in range(3 * locks.IDLE_FILES_MAX)]
    assert worker.ask("lock", tmp_path / "0.lock") == "busy", "a held lock is never evicted"
    for lock in held[1:]:
        lock.release()
    assert len(os.listdir("/proc/self/fd")) - before <= locks.IDLE_FILES_MAX + 1
    assert worker.ask("lock", tmp_path / "0.lock") == "busy"
    held[0].release()
    assert worker.ask("lock", tmp_path / "0.lock") == "ok"


# ---- fork ----------------------------------------------------------------------------------------------------------


def test_a_forked_child_holds_nothing_and_its_exit_drops_nothing(path, worker):
    lock = acquire(path)

    def child() -> bool:
        try:
            with lock:
                return False
        except Closed:
            pass
        lock.release()
        return busy(path)

    assert in_fork(child), "the child must see the lock as held by another"
    assert worker.ask("lock", path) == "busy", "the child's release and exit must not drop the parent's lock"
    assert busy(path)
    lock.release()
    assert worker.ask("lock", path) == "ok"


def test_a_childs_own_lock_survives_the_end_of_what_it_inherited(path, worker):
    """To close any descriptor of a file drops all locks of the process on it; the inherited handle has one."""
    lock = acquire(path)
    reading, writing = os.pipe()

    def child() -> bool:
        os.read(reading, 1)
        own = acquire(path)
        lock.release()
        gc.collect()
        held = worker.ask("lock", path) == "busy"
        own.release()
        return held

    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if child() else 1
        finally:
            os._exit(code)
    lock.release()
    os.write(writing, b"x")
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_fork_while_threads_lock_leaves_a_working_registry(path):
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            acquire(path).release()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_fork(lambda: acquire(path.with_name("own.lock"), wait=False))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_subprocess_inherits_no_lock_file(path, worker):
    lock = acquire(path)
    subprocess.run([sys.executable, "-c", "pass"], check=True, close_fds=False)
    assert worker.ask("lock", path) == "busy"
    lock.release()


# ---- waiting and dying ---------------------------------------------------------------------------------------------


def test_a_waiting_process_wakes_on_release(path, worker):
    lock = acquire(path)
    worker.send("lock", path, "wait")
    assert worker.answer(timeout=0.2) is None
    lock.release()
    assert worker.answer(timeout=5) == "ok"


def test_a_waiting_thread_wakes_when_a_process_releases(path, worker):
    assert worker.ask("lock", path) == "ok"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, path)
        time.sleep(0.1)
        assert not waiting.done()
        assert worker.ask("release", path) == "ok"
        waiting.result(5).release()


def test_a_waiting_thread_wakes_when_a_thread_releases(path):
    lock = acquire(path)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(acquire, path, shared=True) for _ in range(2)]
        time.sleep(0.05)
        assert not any(one.done() for one in waiting)
        lock.release()
        for one in waiting:
            one.result(5).release()


def test_a_wait_for_one_lock_does_not_stop_others(path, worker):
    assert worker.ask("lock", path) == "ok"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, path)
        time.sleep(0.1)
        other = path.with_name("other.lock")
        acquire(other).release()
        assert busy(path), "and does not make an attempt without wait wait"
        assert worker.ask("release", path) == "ok"
        waiting.result(5).release()


def test_sigkill_releases(path, worker):
    assert worker.ask("lock", path) == "ok"
    os.kill(worker.process.pid, signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(acquire, path).result(5).release()


def test_two_locks_wanted_crosswise_by_threads_are_no_deadlock(path, workers):
    """The kernel sees processes, not threads, and calls this a deadlock (EDEADLK), though every holder goes on."""
    first, second = path.with_name("first.lock"), path.with_name("second.lock")
    mine = acquire(first)
    other = workers()
    assert other.ask("lock", second) == "ok"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, second)  # this process holds `first` and waits for `second`
        time.sleep(0.2)
        other.send("lock", first, "wait")  # the other holds `second` and waits for `first`
        time.sleep(0.2)
        assert not waiting.done()
        mine.release()
        assert other.answer(timeout=5) == "ok", "a wait that the kernel refuses goes on waiting"
        assert other.ask("release", second) == "ok"
        waiting.result(5).release()


# ---- files that change, locks that do not work ---------------------------------------------------------------------


def test_an_unlinked_lock_file_is_noticed(path, worker):
    old = acquire(path)
    path.unlink()
    assert worker.ask("lock", path) == "ok", "the name stands for a new file"
    assert busy(path)
    old.release()
    assert busy(path)


def test_a_file_replaced_while_one_waited_is_noticed(path, worker):
    assert worker.ask("lock", path) == "ok"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, path)
        time.sleep(0.1)
        path.unlink()
        assert worker.ask("release", path) == "ok"
        lock = waiting.result(5)
    assert worker.ask("lock", path) == "busy"
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("wait", [False, True])
def test_locks_that_do_not_work_are_not_contention(path, monkeypatch, code, shared, wait):
    def broken(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", broken)
    with pytest.raises(LockUnavailable, match=f"{path}.*working POSIX locks"):
        acquire(path, shared=shared, wait=wait)
    monkeypatch.undo()
    acquire(path, wait=False).release()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EAGAIN])
def test_both_errnos_of_contention(path, monkeypatch, code):
    def held(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", held)
    assert busy(path) and busy(path, shared=True)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "no" / "x.lock")


# ---- the note ------------------------------------------------------------------------------------------------------


def test_the_holders_note_is_shown(path, worker):
    assert worker.ask("lock", path) == "ok"
    with pytest.raises(LockBusy, match="worker") as raised:
        acquire(path, wait=False)
    assert (raised.value.note, raised.value.path) == ("worker", path)
    assert worker.ask("release", path) == "ok"
    with acquire(path, note="tail, pid 12"), pytest.raises(LockBusy, match="tail, pid 12"):
        acquire(path, wait=False)


def test_a_note_replaces_a_longer_one_and_is_bounded(path):
    acquire(path, note="n" * 5000).release()
    assert path.stat().st_size == locks.NOTE_BYTES_MAX
    with acquire(path, note="é" * locks.NOTE_BYTES_MAX), pytest.raises(LockBusy, match="é"):
        acquire(path, wait=False)
    with acquire(path, note="short"):
        assert path.read_bytes() == b"short"


def test_a_holder_without_a_note_is_not_taken_for_the_last_one(path):
    acquire(path, note="pid 1").release()
    with acquire(path), pytest.raises(LockBusy, match="unknown"):
        acquire(path, wait=False)


def test_a_note_that_cannot_be_written_costs_nothing(path, worker, monkeypatch):
    """On a full disk the note fails, and the lock must neither be refused nor stay held."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    lock = acquire(path, note="pid 1", wait=False)
    monkeypatch.undo()
    assert worker.ask("lock", path) == "busy"
    lock.release()
    assert worker.ask("lock", path) == "ok"


def test_a_check_that_fails_after_the_lock_was_got_gives_it_back(path, worker, monkeypatch):
    acquire(path).release()
    real, calls = os.stat, 0

    def fails_second(*args: object, **kwargs: object) -> os.stat_result:
        nonlocal calls
        calls += args[0] == path
        if calls == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", fails_second)
    with pytest.raises(OSError):
        acquire(path, wait=False)
    monkeypatch.undo()
    assert worker.ask("lock", path) == "ok"


def test_locks_are_context_managers(path):
    with acquire(path) as lock:
        assert isinstance(lock, FileLock) and busy(path)
    assert not busy(path)


def test_a_lock_file_is_its_owners_alone(tmp_path):
    """Whoever may open it, even to read, could take a shared lock and keep everybody out."""
    acquire(tmp_path / "a.lock").release()
    assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600
