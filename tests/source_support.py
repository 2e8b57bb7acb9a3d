"""What the tests of the sources share: a real log to write to, and waiting for what must come."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import jlogd

# Only a test that has failed waits so long.
PATIENCE_S = 20.0


class LogUnderTest:
    """A log in `path` with a writer for one source."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            jlogd.create(path)
        self.log = jlogd.open(path)
        self.writer = self.log.writer(on_full="wait")

    def records(self) -> list[bytes]:
        """All durable records."""
        self.writer.flush()
        return [record for batch in self.log.subscriber() for record in batch]

    def close(self) -> None:
        self.writer.close()
        self.log.close()


class ListSink:
    """Stands for an outlet: keeps the records."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def lines(self, body: bytes, count: int) -> None:
        records = body.split(b"\n")
        assert len(records) == count
        self.kept += records

    def records(self, records: list[bytes]) -> None:
        self.kept += records


def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Return once `condition` holds; it has to, some time."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, f"this never came: {what or condition}"
        time.sleep(0.002)
