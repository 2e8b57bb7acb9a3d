"""The small interface behind which every measured system stands, jlogd included.

A `System` is made in the main process, set up in an empty directory (a server is started as a child process), and
then sent to the worker processes, which `connect` to it as producers. It travels by pickle: what is not plain data
(the server's process) stays behind in the main process.

A `Producer` has one duty: `append` returns when the records are durable. Where a system can have several batches
under way at once, `submit` sends one and `drain` waits until all of them are durable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.servers import Server

Records = Sequence[bytes]

# Batches one producer keeps under way in the streaming cases: enough to hide a round trip and a sync, and still a
# bounded number of bytes and records (a server that syncs each record needs seconds for 20,000).
WINDOW_BATCHES = 16
WINDOW_BYTES = 32 << 20
WINDOW_RECORDS = 20_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What one cell of the append table appends."""

    record_bytes: int
    batch: int
    producers: int

    @property
    def batch_bytes(self) -> int:
        """Bytes of the records of one batch."""
        return self.record_bytes * self.batch

    @property
    def window(self) -> int:
        """Batches one producer keeps under way when it streams."""
        return max(2, min(WINDOW_BATCHES, WINDOW_BYTES // self.batch_bytes, WINDOW_RECORDS // self.batch))


class Producer(ABC):
    """One producer's way in. Used by one thread."""

    def prepare(self, records: Records) -> Any:
        """What `append` takes for these records; not timed. Only the limit makes use of it."""
        return records

    @abstractmethod
    def append(self, payload: Any) -> None:
        """Append one batch; durable on return."""

    def submit(self, payload: Any) -> None:
        """Send one batch, waiting only while `window` batches are under way."""
        raise NotImplementedError

    def drain(self) -> None:
        """Return when everything submitted is durable."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""


class System(ABC):
    """A system under measurement. The class attributes describe it to the reader of the table."""

    key: ClassVar[str]
    label: ClassVar[str]
    durability: str
    # "processes": four producers are four processes. "threads": the system allows one process, so they are threads.
    sharing: ClassVar[str] = "processes"
    streams: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    def __init__(self) -> None:
        self.directory = Path()
        self.address = ""
        self.server: Server | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "server": None}

    @abstractmethod
    def missing(self) -> str:
        """Why this system cannot run here; empty when it can."""

    @abstractmethod
    def version(self) -> str:
        """Version of the system, for the record."""

    @abstractmethod
    def setup(self, directory: Path, shape: Shape) -> None:
        """Make an empty store in `directory`; start the server if there is one."""

    @abstractmethod
    def connect(self, shape: Shape) -> Producer:
        """A producer, in whichever process this is called."""

    def read_all(self) -> int:
        """Read every record back, each as `bytes` in Python; how many there were."""
        raise NotImplementedError

    def follow(self, seconds: float) -> Generator[Records, None, None]:
        """Records as they come, from the beginning of the log; ends after so many seconds."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the server."""
        if self.server is not None:
            self.server.stop()
            self.server = None
