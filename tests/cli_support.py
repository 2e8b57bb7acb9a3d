"""Running the commands in tests: in this process, or in one of their own where signals and pipes matter."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from jlogd import open as open_log
from jlogd.cli import jlogctl as jlogctl_module
from jlogd.cli import jlogd as jlogd_module

ROOT = Path(__file__).parent.parent
# A process that does not end in this time hangs.
SECONDS_MAX = 30


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[Any]:
        """What `--json` printed."""
        return [msgspec.json.decode(line) for line in self.raw.splitlines()]


def jlogctl(*args: object, stdin: bytes = b"") -> Ended:
    """Run `jlogctl` in this process."""
    return _run(jlogctl_module.cli, "jlogctl", args, stdin)


def jlogd(*args: object) -> Ended:
    """Run `jlogd` in this process."""
    return _run(jlogd_module.cli, "jlogd", args, b"")


def done(ended: Ended) -> Ended:
    """The same, when the command ended well; shows why when it did not."""
    assert ended.code == 0, (ended.code, ended.err, ended.raw[:500])
    return ended


def failed(ended: Ended, code: int, *words: str) -> Ended:
    """The same, when it ended with `code` and one `error:` line with `words`, without a traceback."""
    assert ended.code == code, (ended.code, ended.err, ended.raw[:500])
    assert "Traceback" not in ended.err
    assert ended.err.count("error: ") == 1, ended.err
    for word in words:
        assert word in ended.err, (word, ended.err)
    return ended


@contextmanager
def process(
    *args: object, module: str = "jlogctl", environment: dict[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own, ended when the block is left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(
        [sys.executable, "-m", f"jlogd.cli.{module}", *map(str, args)], env=environment, **{**pipes, **options}
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait(SECONDS_MAX)
        for pipe in (started.stdin, started.stdout, started.stderr):
            if pipe is not None:
                pipe.close()


def _run(command: click.Command, name: str, args: tuple[object, ...], stdin: bytes) -> Ended:
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin)), out, err
    code: object = 0
    try:
        command.main([str(arg) for arg in args], prog_name=name)
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    assert isinstance(code, int)
    return Ended(code, _bytes(out), _bytes(err).decode())


def _bytes(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


def log_of_small_segments(path: Path, records: Sequence[bytes]) -> Path:
    """A log with one subscriber, in segments of 4 KiB and batches of 100 records."""
    done(jlogctl("create", path, "--segment-size", "4KiB", "--subscriber", "master"))
    with open_log(path) as log, log.writer() as writer:
        for first in range(0, len(records), 100):
            writer.extend(records[first : first + 100])
            writer.flush()
    return path
