"""Processes that do the file operations: started, asked with a time limit, killed.

The check itself never touches the directory: on a mount that hangs it would hang too, and could not say so. It asks
helpers (`agent.py`), here or behind a peer, one line a request, one line an answer. A helper that does not answer in
time is killed, and the line that comes of it says which call did not return.

Locking: none; a helper is used by one thread. The locks it holds on files are the agent's, and go when it ends.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from jlogd.spoolcheck.agent import Answer
from jlogd.spoolcheck.findings import Finding, call_failed, error_text, failed

AGENT = Path(__file__).with_name("agent.py")
# A call on a healthy mount takes milliseconds; one that takes longer than this holds up every commit.
CALL_SECONDS = 20.0
# A killed process is gone at once, unless it is in a call that cannot be interrupted.
KILL_SECONDS = 3.0
LINE_BYTES_MAX = 4 << 20
_FAILED = "put the spool on a mount where this works; the kernel's messages may tell why it does not"


class NoAnswer(Exception):
    """A helper did not answer in time, or ended."""


class CallFailed(Exception):
    """The operating system refused an operation that must work."""

    def __init__(self, operation: str, number: int) -> None:
        super().__init__(f"{operation}: {error_text(number)}")
        self.number = number


class Lines:
    """Lines over two descriptors, read with a time limit."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self._write_fd = read_fd, write_fd
        self._buffer = b""

    def send(self, line: bytes) -> None:
        """Write a line. Raises OSError."""
        view = memoryview(line + b"\n")
        while view:
            view = view[os.write(self._write_fd, view) :]

    def take(self) -> bytes | None:
        """A line that is there already."""
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return line

    def fill(self) -> bool:
        """Read what is there; False at the end, and when a line is too long to be one."""
        data = os.read(self.read_fd, 65536)
        self._buffer += data
        return bool(data) and len(self._buffer) <= LINE_BYTES_MAX

    def receive(self, seconds: float) -> bytes:
        """The next line. Raises TimeoutError, EOFError, OSError."""
        until = time.monotonic() + seconds
        while (line := self.take()) is None:
            if not select.select([self.read_fd], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError
            if not self.fill():
                raise EOFError
        return line


class Helper:
    """One helper behind a pair of descriptors; `name` is how messages call it."""

    def __init__(self, lines: Lines, name: str) -> None:
        self._lines = lines
        self._asked = ""  # what it has not answered yet
        self._lost = ""  # why it is asked no more
        self.name = name

    def start(self, do: str, **arguments: object) -> None:
        """Begin an operation; `finish` has its answer. Raises NoAnswer."""
        if self._asked:
            self.finish()  # nobody wanted to know, because another helper failed
        if self._lost:
            raise NoAnswer(self._lost)
        self._asked = do
        try:
            self._lines.send(json.dumps({"do": do, **arguments}).encode())
        except OSError as error:
            raise self._gone(f"{self.name} has ended ({error.strerror})") from None

    def finish(self, seconds: float = CALL_SECONDS) -> Answer:
        """The answer of the operation that was begun: its results or `{"errno": N}`. Raises NoAnswer."""
        asked, self._asked = self._asked, ""
        try:
            answer = json.loads(self._lines.receive(seconds))
        except TimeoutError:
            raise self._gone(f"{asked} did not return in {seconds:.0f} s ({self.name})") from None
        except (EOFError, OSError, ValueError):
            raise self._gone(f"{self.name} ended in {asked}") from None
        if not isinstance(answer, dict):
            raise self._gone(f"{self.name} answered something else")
        if "refused" in answer:
            raise NoAnswer(f"{self.name} refused {asked}: {str(answer['refused'])[:200]}")
        return answer

    def _gone(self, why: str) -> NoAnswer:
        """What is raised now, and whenever it is asked again: a late answer would be taken for another's."""
        self._asked, self._lost = "", why
        return NoAnswer(why)

    def done(self, seconds: float) -> bool:
        """Whether the answer comes within so many seconds; `finish` then has it at once."""
        return bool(select.select([self._lines.read_fd], [], [], seconds)[0])

    def ask(self, do: str, *, within: float = CALL_SECONDS, **arguments: object) -> Answer:
        """Do an operation, `within` so many seconds: its results or `{"errno": N}`. Raises NoAnswer."""
        self.start(do, **arguments)
        return self.finish(within)

    def must(self, do: str, *, within: float = CALL_SECONDS, **arguments: object) -> Answer:
        """Do an operation that has to work. Raises CallFailed, NoAnswer."""
        return proven(do, self.ask(do, within=within, **arguments))

    def open(self, name: str, *, create: bool = False) -> int:
        """Open a file: what names it in further requests. Raises CallFailed, NoAnswer."""
        return int(self.must("open", name=name, create=create)["file"])

    def kill(self) -> None:
        """End the process at once, as a crash does; the helper may not be asked again. Raises NoAnswer."""
        raise NotImplementedError

    def close(self) -> None:
        """Give it up; never raises."""
        raise NotImplementedError


def proven(do: str, answer: Answer) -> Answer:
    """The same, unless the operation failed. Raises CallFailed, NoAnswer."""
    if "errno" in answer:
        raise CallFailed(do, int(answer["errno"]))
    if answer.get("late"):
        raise NoAnswer(f"{do} did not return in its time")
    return answer


def attempt(check: str, part: Callable[[], Finding]) -> Finding:
    """What a check finds, or that an operation it needs failed. Raises NoAnswer."""
    try:
        return part()
    except CallFailed as error:
        return call_failed(check, str(error), error.number, _FAILED)


def guarded(check: str, part: Iterator[Finding]) -> Iterator[Finding]:
    """The findings of a part, and one more when an operation that must work does not."""
    try:
        yield from part
    except CallFailed as error:
        yield call_failed(check, str(error), error.number, _FAILED)
    except NoAnswer as error:
        yield failed(check, str(error), "a commit would hang as well: see whether the storage, or the peer, is there")


def start_agent(directory: str) -> subprocess.Popen[bytes]:
    """An agent for a directory. Its working directory is not on the mount, so that it pins nothing."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(AGENT), os.path.abspath(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the check, which then ends its helpers
    )


def end_agent(process: subprocess.Popen[bytes]) -> bool:
    """Kill an agent; False when it is still there, in a call that cannot be interrupted."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


class LocalHelper(Helper):
    """A helper on this host."""

    def __init__(self, directory: str, name: str = "a process of this host") -> None:
        self._process = start_agent(directory)
        assert self._process.stdin is not None and self._process.stdout is not None
        super().__init__(Lines(self._process.stdout.fileno(), self._process.stdin.fileno()), name)

    def kill(self) -> None:
        if not end_agent(self._process):
            raise NoAnswer(f"{self.name} cannot be killed: a call on the mount does not return")

    def close(self) -> None:
        end_agent(self._process)


class Crew:
    """The helpers of one check, and the scratch directory they share. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.scratch = f".spool-check-{secrets.token_hex(8)}"
        self._stack = ExitStack()
        self._begun = False
        self._first: LocalHelper | None = None

    @property
    def first(self) -> LocalHelper:
        """The helper that is there from the beginning."""
        if self._first is None:
            self._first = LocalHelper(self.directory)
            self._stack.callback(self._first.close)
        return self._first

    def begin(self) -> None:
        """Make the scratch directory. Raises CallFailed, NoAnswer."""
        self.first.must("begin", name=self.scratch, make=True)
        self._begun = True
        self.first.ask("sweep")

    def spawn(self) -> LocalHelper:
        """Another helper, in the scratch directory. Raises CallFailed, NoAnswer."""
        helper = LocalHelper(self.directory)
        self._stack.callback(helper.close)
        helper.must("begin", name=self.scratch, make=False)
        return helper

    @contextmanager
    def pair(self) -> Iterator[tuple[LocalHelper, LocalHelper]]:
        """Two fresh helpers, gone at the end with whatever they hold."""
        first, second = self.spawn(), self.spawn()
        try:
            yield first, second
        finally:
            first.close()
            second.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        if not self._begun:
            return
        # A fresh one: the others may be waiting for a lock, or for ever.
        sweeper = LocalHelper(self.directory)
        try:
            with suppress(NoAnswer):
                sweeper.ask("begin", name=self.scratch, make=False)
                sweeper.ask("end")
        finally:
            sweeper.close()
