"""Real processes on a real directory, killed with SIGKILL at random, hundreds of times.

Three producers and two consumers work on one log, without a daemon. The parent never dies: it hears through pipes what
was issued, acked and delivered, kills whom it likes, starts them again, and counts at the end.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import jlogd
from jlogd.journal.check import check

HERE = Path(__file__).parent
PRODUCERS = ["p1", "p2", "p3"]
CONSUMERS = ["c1", "c2"]
SETTINGS = jlogd.Settings(segment_bytes=16 << 10)


@dataclass
class Worker:
    """A process that is killed again and again, and what it told."""

    role: str
    name: str
    target: Path
    process: subprocess.Popen[bytes] = field(init=False)
    unread: bytes = b""
    issued: int = 0
    acked: int = 0
    done: int = 1
    got: dict[int, bytes] = field(default_factory=dict)

    def start(self) -> None:
        self.unread = b""
        first = [str(self.acked)] if self.role == "produce" else []
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "kill_worker.py"), self.role, str(self.target), self.name, *first],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def listen(self) -> None:
        """Take in what it told so far."""
        assert self.process.stdout is not None
        while data := self.process.stdout.read(1 << 20):
            *lines, self.unread = (self.unread + data).split(b"\n")
            for line in lines:
                self._heard(*line.split(b" "))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listen()

    def _heard(self, word: bytes, value: bytes, record: bytes = b"") -> None:
        number = int(value)
        if word == b"issued":
            self.issued = max(self.issued, number)
        elif word == b"acked":
            assert number <= self.issued, f"spurious: {self.name} has {number}, of {self.issued} issued"
            self.acked = number
        elif word == b"done":
            self.done = number
        else:
            known = self.got.setdefault(number, record)
            assert known == record, f"corrupted: {number} was {known!r}, now is {record!r}"


def run(target: Path, rng: random.Random, kills: int) -> list[Worker]:
    jlogd.create(target, SETTINGS, [*CONSUMERS, "keeps"])
    workers = [Worker("produce", name, target) for name in PRODUCERS]
    workers += [Worker("consume", name, target) for name in CONSUMERS]
    for worker in workers:
        worker.start()
    for _ in range(kills):
        until = time.monotonic() + rng.uniform(0.02, 0.25)
        while time.monotonic() < until:
            for worker in workers:
                worker.listen()
            time.sleep(0.005)
        for worker in rng.sample(workers, rng.choice([1, 1, 1, 2, 5])):
            worker.kill()
            worker.start()
    for worker in workers:
        worker.kill()
    return workers


@pytest.mark.parametrize("kills", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_killed_at_random(tmp_path: Path, rng: random.Random, kills: int) -> None:
    target = tmp_path / "log"
    workers = run(target, rng, kills)
    producers = {worker.name: worker for worker in workers if worker.role == "produce"}
    with jlogd.open(target) as log:
        with log.writer() as writer:
            writer.append(b"end:0")
        whole: dict[int, bytes] = {}
        for batch in log.subscriber("keeps"):
            assert isinstance(batch, jlogd.Batch), f"missing: {batch}"
            whole.update(enumerate(batch, batch.first))
    assert sorted(whole) == list(range(1, len(whole) + 1)), "numbers with holes"
    by_producer: dict[str, list[int]] = {name: [] for name in PRODUCERS}
    for sequence in sorted(whole)[:-1]:
        name, _, number = whole[sequence].decode().partition(":")
        by_producer[name].append(int(number))
    for name, numbers in by_producer.items():
        assert numbers == list(range(len(numbers))), f"{name}: missing, duplicated or reordered"
        assert producers[name].acked <= len(numbers) <= producers[name].issued, f"{name}: missing or spurious"
    assert sum(map(len, by_producer.values())) > 100 * kills / 25, "too little happened to say anything"
    for worker in workers:
        if worker.role == "consume":
            wrong = {sequence for sequence, record in worker.got.items() if whole.get(sequence) != record}
            assert not wrong, f"spurious: {worker.name} got {sorted(wrong)[:5]}"
            assert sorted(worker.got) == list(range(1, len(worker.got) + 1)), f"{worker.name}: missing"
            with jlogd.open(target) as log:
                position = next(found.next for found in log.subscribers() if found.name == worker.name)
            assert worker.done <= position <= len(worker.got) + 1, "a checkpoint was lost, or ran ahead"
    assert [finding for finding in check(target) if not finding.harmless] == []
