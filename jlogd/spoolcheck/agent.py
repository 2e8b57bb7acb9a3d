"""The hands of the check: a process of its own that does one file operation after another, as it is told.

It runs by its path, `python -I -S agent.py DIR`, and needs nothing but the standard library, so that it starts in
milliseconds and can be killed, paused, or left behind in a call that never returns. It works in one scratch directory
of DIR, `.spool-check-<16 hex digits>`, on plain names in it, and nowhere else: what it is told may come from a peer.

Protocol: one JSON object a line. A request is `{"do": NAME, ...arguments}`; the answer is the operation's results, or
`{"errno": N}` when the operating system refused, or `{"refused": TEXT}` when the request is not one. It ends when its
standard input does, and with it go its locks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Answer = dict[str, Any]

SCRATCH = re.compile(r"\.spool-check-[0-9a-f]{16}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock with 64-bit offsets; the pid of an OFD lock must be 0
_COUNTER = struct.Struct("<Q")
FILES_MAX = 64
BYTES_MAX = 1 << 20
ROUNDS_MAX = 100_000
SECONDS_MAX = 3600.0
RING_LOCKS_MAX = 64
RACE_SECONDS = 0.002
# As often the journal opens a small file that was replaced in the moment it was opened (`STALE_LOOKS` in its disk.py).
STALE_LOOKS = 4
# No check runs for so long.
STALE_SECONDS = 86400.0
# How often the ring asks who holds what it holds itself.
_HOLDER_EVERY = 64
_KINDS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}
_OFD_KINDS = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}


class Refused(Exception):
    """A request that is not one."""


class Late(Exception):
    """The time for an operation is over."""


class Agent:
    """Does what it is told in one scratch directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.scratch = -1
        self.name = ""
        self.files: dict[int, int] = {}
        self.serial = 0

    def answer(self, request: object) -> Answer:
        """Do one request."""
        do = request.get("do") if isinstance(request, dict) else None
        if not isinstance(request, dict) or not isinstance(do, str) or do not in OPERATIONS:
            return {"refused": "there is no such operation"}
        arguments = {key: value for key, value in request.items() if key != "do"}
        try:
            return OPERATIONS[do](self, **arguments) or {}
        except Refused as error:
            return {"refused": str(error)}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            return {"refused": f"{do}: {error}"}
        except Late:
            return {"late": True}
        except OSError as error:
            return {"errno": error.errno or 0}

    # Who and where

    def about(self) -> Answer:
        fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount_id = next(
                (int(line.split()[1]) for line in _lines(f"/proc/self/fdinfo/{fd}") if line.startswith("mnt_id:")), 0
            )
        finally:
            os.close(fd)
        space = os.statvfs(self.directory)
        return {
            "pid": os.getpid(),
            "host": (_lines("/etc/machine-id") or [socket.gethostname()])[0],
            "boot": (_lines("/proc/sys/kernel/random/boot_id") or [""])[0],
            "node": socket.gethostname(),
            "kernel": os.uname().release,
            "time": time.time(),
            "path": os.path.realpath(self.directory),
            "mount_id": mount_id,
            "magic": _magic(self.directory),
            "free_bytes": space.f_bavail * space.f_frsize,
            "free_files": space.f_favail if space.f_files else -1,
        }

    def begin(self, name: str, make: bool) -> None:
        if not SCRATCH.fullmatch(_text(name)):
            raise Refused("not the name of a scratch directory")
        path = os.path.join(self.directory, name)
        if make:
            os.mkdir(path, 0o700)
        if self.scratch >= 0:
            os.close(self.scratch)
        self.scratch = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.name = name

    def end(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        self.files.clear()
        _remove(os.path.join(self.directory, self.name), self.scratch)

    def sweep(self) -> None:
        """Remove what checks left behind that were killed long ago."""
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            with suppress(OSError):
                if SCRATCH.fullmatch(name) and time.time() - os.lstat(path).st_mtime > STALE_SECONDS:
                    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        _remove(path, fd)
                    finally:
                        os.close(fd)

    # Files and names

    def open(self, name: str, create: bool = False, exclusive: bool = False) -> Answer:
        if len(self.files) >= FILES_MAX:
            raise Refused("too many open files")
        flags = os.O_RDWR | (os.O_CREAT if create else 0) | (os.O_EXCL if exclusive else 0)
        self.serial += 1
        self.files[self.serial] = self._open(name, flags)
        return {"file": self.serial}

    def close(self, file: int) -> None:
        os.close(self.files.pop(self._known(file)))

    def put(self, name: str, text: str, sync: bool = False) -> None:
        with self._opened(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
            os.write(fd, _text(text, BYTES_MAX).encode())
            if sync:
                os.fsync(fd)

    def get(self, name: str) -> Answer:
        with self._opened(name, os.O_RDONLY) as fd:
            size = os.fstat(fd).st_size
            return {"size": size, "text": os.pread(fd, BYTES_MAX, 0).decode(errors="replace")}

    def read_at(self, file: int, offset: int, length: int) -> Answer:
        fd = self.files[self._known(file)]
        return {
            "size": os.fstat(fd).st_size,
            "text": os.pread(fd, _count(length, BYTES_MAX), _count(offset, 1 << 40)).decode(errors="replace"),
        }

    def append(self, file: int, text: str, sync: bool = True) -> Answer:
        fd = self.files[self._known(file)]
        at = os.lseek(fd, 0, os.SEEK_END)
        os.writev(fd, [_text(text, BYTES_MAX).encode()])
        if sync:
            os.fdatasync(fd)
        return {"at": at}

    def rename(self, old: str, new: str) -> None:
        os.rename(_name(old), _name(new), src_dir_fd=self.scratch, dst_dir_fd=self.scratch)

    def unlink(self, name: str) -> None:
        os.unlink(_name(name), dir_fd=self.scratch)

    def listing(self) -> Answer:
        return {"names": sorted(os.listdir(self.scratch))[:ROUNDS_MAX]}

    def gone(self, file: int, name: str) -> Answer:
        """Whether an open file's name is gone or another's, as the journal finds out, and the links it has still."""
        try:
            mine = os.fstat(self.files[self._known(file)])
            found = os.stat(_name(name), dir_fd=self.scratch, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return {"gone": True, "links": 0 if error.errno == errno.ESTALE else mine.st_nlink}
        return {"gone": (mine.st_dev, mine.st_ino) != (found.st_dev, found.st_ino), "links": mine.st_nlink}

    def modified(self, name: str) -> Answer:
        self.put(name, "now", True)
        with self._opened(name, os.O_RDONLY) as fd:
            return {"modified": os.fstat(fd).st_mtime, "time": time.time()}

    def create_race(self, prefix: str, count: int) -> Answer:
        """Create files that others create as well; which ones this one made."""
        won = []
        for number in range(_count(count, 1000)):
            time.sleep(random.random() * RACE_SECONDS)  # so that now one, now the other is first
            with suppress(FileExistsError):
                os.close(self._open(f"{_name(prefix)}{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL))
                won.append(number)
        return {"won": won}

    # Syncs

    def sync(self, file: int, how: str) -> None:
        fd = self.files[self._known(file)]
        if how == "allocated":
            os.posix_fallocate(fd, 0, BYTES_MAX)
            os.fdatasync(fd)
        else:
            {"data": os.fdatasync, "file": os.fsync}[how](fd)

    def sync_dir(self) -> None:
        os.fsync(self.scratch)

    def sync_times(self, name: str, rounds: int, size: int) -> Answer:
        """How long appends with fdatasync take, in seconds."""
        data, took = b"s" * _count(size, BYTES_MAX), []
        with self._opened(name, os.O_RDWR | os.O_CREAT) as fd:
            for _ in range(_count(rounds, ROUNDS_MAX)):
                os.lseek(fd, 0, os.SEEK_END)
                os.write(fd, data)
                start = time.perf_counter()
                os.fdatasync(fd)
                took.append(time.perf_counter() - start)
        took.sort()
        return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "max": took[-1]}

    # Loops that another process meets

    def append_loop(self, name: str, tag: str, rounds: int, size: int) -> None:
        """Append lines of `size` bytes that begin with `tag`, each under the lock of the file."""
        with self._opened(f"{_name(name)}-lock", os.O_RDWR | os.O_CREAT) as guard:
            for number in range(_count(rounds, ROUNDS_MAX)):
                fcntl.lockf(guard, fcntl.LOCK_EX)
                with self._opened(name, os.O_RDWR | os.O_CREAT) as fd:
                    line = f"{_name(tag)} {number} ".ljust(_count(size, BYTES_MAX) - 1, ".") + "\n"
                    os.lseek(fd, 0, os.SEEK_END)
                    os.writev(fd, [line.encode()])
                fcntl.lockf(guard, fcntl.LOCK_UN)

    def replace_loop(self, name: str, seconds: float) -> Answer:
        """Put a new file in place of `name` by rename, again and again; once at least, however busy the machine is."""
        done, until = 0, time.monotonic() + _seconds(seconds)
        while not done or time.monotonic() < until:
            self.put(f"{_name(name)}-new", "ab"[done % 2] * 4096)
            self.rename(f"{name}-new", name)
            done += 1
        return {"done": done}

    def read_loop(self, name: str, seconds: float) -> Answer:
        """Read `name` by its name, again and again: how often it was missing, neither all old nor all new, or stale:
        once, and at every one of the looks that the journal takes at a small file."""
        reads = missing = late = stale = mixed = 0
        until = time.monotonic() + _seconds(seconds)
        while not reads or time.monotonic() < until:
            reads += 1
            for look in range(STALE_LOOKS):
                try:
                    text = self.get(name)["text"]
                except FileNotFoundError:
                    missing += 1
                except OSError as error:
                    if error.errno != errno.ESTALE:
                        raise
                    late += not look
                    stale += look == STALE_LOOKS - 1
                    continue
                else:
                    mixed += len(text) != 4096 or len(set(text)) != 1
                break
        return {"reads": reads, "missing": missing, "late": late, "stale": stale, "mixed": mixed}

    def write_loop(self, name: str, size: int, seconds: float) -> Answer:
        """Overwrite the same bytes, again and again."""
        done, until = 0, time.monotonic() + _seconds(seconds)
        with self._opened(name, os.O_RDWR | os.O_CREAT) as fd:
            while not done or time.monotonic() < until:
                os.pwrite(fd, (b"a", b"b")[done % 2] * _count(size, BYTES_MAX), 0)
                done += 1
        return {"done": done}

    def torn_loop(self, name: str, size: int, seconds: float) -> Answer:
        """Read those bytes, again and again: how often they were a mixture."""
        reads = torn = 0
        until = time.monotonic() + _seconds(seconds)
        with self._opened(name, os.O_RDONLY) as fd:
            while not reads or time.monotonic() < until:
                reads += 1
                torn += len(set(os.pread(fd, _count(size, BYTES_MAX), 0))) > 1
        return {"reads": reads, "torn": torn}

    # Locks

    def lock(
        self,
        file: int,
        flavour: str,
        kind: str,
        wait: bool = False,
        start: int = 0,
        length: int = 0,
        limit: float = 0.0,
    ) -> Answer:
        """Take or give up a lock; `limit` ends a wait (seconds)."""
        fd = self.files[self._known(file)]
        began = time.perf_counter()
        with _alarm(limit):
            _lock(fd, flavour, kind, wait, _count(start, 1 << 40), _count(length, 1 << 40))
        return {"seconds": time.perf_counter() - began}

    def holder(self, file: int, start: int = 0, length: int = 0) -> Answer:
        """Who holds what this process would have to wait for (POSIX)."""
        kind, pid = _holder(self.files[self._known(file)], _count(start, 1 << 40), _count(length, 1 << 40))
        return {"held": kind != fcntl.F_UNLCK, "pid": pid}

    def fork(self, file: int, flavour: str) -> Answer:
        """A child asks for the same lock through what it inherited, closes that and ends; what it got."""
        fd = self.files[self._known(file)]
        child = os.fork()
        if not child:
            code = 0
            try:
                _lock(fd, flavour, "exclusive", False, 0, 0)
            except OSError as error:
                code = error.errno or 255
            os.close(fd)
            os._exit(code)
        return {"errno_in_child": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}

    def ring(self, name: str, locks: int, seconds: float, margin: float) -> Answer:
        """Hand byte locks round a ring, counting up under each; see `jlogd.spoolcheck.peer_checks`."""
        locks, seconds = _count(locks, RING_LOCKS_MAX), _seconds(seconds)
        turns, steps, conflicts, worst, at = 0, dict[int, int](), 0, 0.0, 0
        seen = [0] * locks
        with self._opened(name, os.O_RDWR | os.O_CREAT) as fd, _alarm(seconds + 20):
            _lock(fd, "posix", "exclusive", True, 0, 1)
            start = now = time.monotonic()
            while now - start < seconds:
                following = (at + 1) % locks
                _lock(fd, "posix", "exclusive", True, following, 1)
                before, now = now, time.monotonic()
                worst = max(worst, now - before)
                value = _COUNTER.unpack(os.pread(fd, 8, 8 * at).ljust(8, b"\0"))[0]
                if margin <= now - start <= seconds - margin:
                    step = value - seen[at]
                    steps[step] = steps.get(step, 0) + 1
                seen[at] = value
                os.pwrite(fd, _COUNTER.pack(value + 1), 8 * at)
                if not turns % _HOLDER_EVERY:
                    conflicts += _holder(fd, at, 1)[0] != fcntl.F_UNLCK
                _lock(fd, "posix", "none", False, at, 1)
                turns, at = turns + 1, following
            _lock(fd, "posix", "none", False, at, 1)
        return {
            "turns": turns,
            "steps": sorted(steps.items(), key=lambda item: -item[1])[:20],
            "conflicts": conflicts,
            "worst": worst,
        }

    def ring_sum(self, name: str, locks: int) -> Answer:
        """What was counted in the ring, all together."""
        with self._opened(name, os.O_RDWR) as fd:
            _lock(fd, "posix", "exclusive", True, 0, 0)
            data = os.pread(fd, 8 * _count(locks, RING_LOCKS_MAX), 0)
            return {"sum": sum(_COUNTER.unpack_from(data, at)[0] for at in range(0, len(data), 8))}

    def _known(self, file: int) -> int:
        if file not in self.files:
            raise Refused("that file is not open")
        return file

    def _open(self, name: str, flags: int) -> int:
        if self.scratch < 0:
            raise Refused("there is no scratch directory yet")
        return os.open(_name(name), flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.scratch)

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        fd = self._open(name, flags)
        try:
            yield fd
        finally:
            os.close(fd)


OPERATIONS: dict[str, Callable[..., Answer | None]] = {
    name: method for name, method in vars(Agent).items() if not name.startswith("_") and name != "answer"
}


def _remove(path: str, fd: int) -> None:
    for name in os.listdir(fd):
        os.unlink(name, dir_fd=fd)
    os.rmdir(path)


def _lock(fd: int, flavour: str, kind: str, wait: bool, start: int, length: int) -> None:
    if flavour == "ofd":
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        fcntl.fcntl(fd, command, _FLOCK.pack(_OFD_KINDS[kind], os.SEEK_SET, start, length, 0))
        return
    how = _KINDS[kind] | (0 if wait or kind == "none" else fcntl.LOCK_NB)
    if flavour == "flock":
        fcntl.flock(fd, how)
    elif flavour == "posix":
        fcntl.lockf(fd, how, length, start, os.SEEK_SET)
    else:
        raise Refused("no such flavour of locks")


def _holder(fd: int, start: int, length: int) -> tuple[int, int]:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return kind, pid


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Within it, `Late` is raised after so many seconds, unless the kernel does not let go."""
    if not seconds:
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _seconds(seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _magic(path: str) -> int:
    """f_type of statfs(2), which Python does not show; 0 when the C library has it otherwise."""
    buffer = ctypes.create_string_buffer(256)
    with suppress(AttributeError, OSError):
        if ctypes.CDLL(None).statfs(os.fsencode(path), buffer) == 0:
            return int(struct.unpack_from("@l", buffer.raw)[0]) & 0xFFFFFFFF
    return 0


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return [line.strip() for line in file if line.strip()]
    except OSError:
        return []


def _text(value: str, most: int = 64) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise Refused("not a text of that length")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(_text(value)):
        raise Refused("not a name")
    return value


def _count(value: int, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise Refused(f"not a number from 0 to {most}")
    return value


def _seconds(value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= SECONDS_MAX:
        raise Refused(f"not a number of seconds up to {SECONDS_MAX}")
    return float(value)


def _act_as_owner(directory: str) -> None:
    """As root, become the user that has the directory: root may do what a daemon may not, or less on a network."""
    if os.geteuid() != 0:
        return
    with suppress(OSError):  # a directory that is not there is told by the first request
        status = os.stat(directory)
        if status.st_uid:
            os.setgroups([status.st_gid])
            os.setgid(status.st_gid)
            os.setuid(status.st_uid)


def main() -> None:
    """Read requests, write answers."""
    _act_as_owner(sys.argv[1])
    agent = Agent(sys.argv[1])
    for line in sys.stdin:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        print(json.dumps(agent.answer(request)), flush=True)


if __name__ == "__main__":
    main()
