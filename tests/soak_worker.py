"""The processes of `soak.py`: each tells its parent what it is about to do and what it did, by the line.

soak_worker.py produce LOG NAME      `at N` (what the log knows), `issued N`, `acked N`, `refused WHY`, `fenced WHY`
soak_worker.py consume LOG NAME      `got FIRST COUNT PRODUCER NUMBER`, `gap FIRST LAST WHY`, `done N`, `failed WHY`
soak_worker.py visit LOG NAME START  a subscriber that comes, reads a while, says `got` as above, and goes: `gone`
soak_worker.py remove LOG NAME       removes a subscriber that could not do that itself: `gone`
soak_worker.py take SPOOL            makes this host the owner: `took it over`

A record says who issued it as what, so that nobody has to remember it: see `record`. Whoever is refused tries again,
except a process of a host that is no longer the owner: that ends.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import jlogd
from jlogd.errors import Fenced, JlogError, OwnedElsewhere, SubscriberExists, SubscriberUnknown
from jlogd.journal.spool import take_over_spool

# Between attempts, and between the groups of a producer: the log is to be busy, and the machine not.
RETRY_SECONDS = 0.1
PRODUCE_SECONDS = 0.02


def tell(text: str) -> None:
    """One write for one line: what the parent reads is whole lines, whenever this process dies."""
    os.write(1, text.replace("\n", " ").encode() + b"\n")


def record(name: str, number: int) -> bytes:
    """The `number`-th record of producer `name`: always the same, of any size, sometimes with a newline."""
    size = (number * 2654435761 >> 7) % 300
    return b"%s:%d|%s%s" % (name.encode(), number, b"\n" * (number % 97 == 0), b"." * size)


def produce(target: str, name: str) -> None:
    while True:
        try:
            _produce(target, name)
        except (Fenced, OwnedElsewhere) as error:
            tell(f"fenced {type(error).__name__}: {error}")
            return
        except (JlogError, OSError) as error:
            tell(f"refused {type(error).__name__}: {error}")
        time.sleep(RETRY_SECONDS)


def _produce(target: str, name: str) -> None:
    with jlogd.open(target) as log:
        writer = log.writer(producer=name)
        number = writer.position
        tell(f"at {number}")
        try:
            while True:
                count = random.randrange(1, 60)
                tell(f"issued {number + count}")
                writer.extend([record(name, number + n) for n in range(count)])
                number += count
                if random.random() < 0.5:
                    writer.flush()
                    tell(f"acked {number}")
                time.sleep(PRODUCE_SECONDS)
        finally:
            try:
                writer.close()
            except (JlogError, OSError) as error:
                tell(f"refused {type(error).__name__}: {error}")


def consume(target: str, name: str) -> None:
    while True:
        try:
            with jlogd.open(target) as log, log.subscriber(name, follow=True) as subscriber:
                for item in subscriber:
                    report(item)
                    if random.random() < 0.3:
                        item.checkpoint()
                        tell(f"done {item.next}")
        except (Fenced, OwnedElsewhere) as error:
            tell(f"failed {type(error).__name__}: {error}")
            return
        except (JlogError, OSError) as error:
            tell(f"failed {type(error).__name__}: {error}")
            time.sleep(RETRY_SECONDS)


def report(item: jlogd.Batch | jlogd.Gap) -> None:
    """Say what was delivered, having looked at every byte of it."""
    if isinstance(item, jlogd.Gap):
        tell(f"gap {item.first} {item.last} {item.reason}")
        return
    records = list(item)
    name, _, number = records[0].split(b"|", 1)[0].decode().partition(":")
    for at, data in enumerate(records, int(number)):
        assert data == record(name, at), f"corrupted: {item.first} is {data[:60]!r}, not {name}:{at}"
    tell(f"got {item.first} {len(records)} {name} {number}")


def visit(target: str, name: str, start: str) -> None:
    with jlogd.open(target) as log:
        try:
            log.add_subscriber(name, "begin" if start == "begin" else "end")
            with log.subscriber(name, follow=True) as subscriber:
                for item in islice(subscriber, random.randrange(1, 200)):
                    report(item)
                    item.checkpoint()
        except (JlogError, OSError) as error:
            tell(f"failed {type(error).__name__}: {error}")
            if isinstance(error, SubscriberExists):
                return
        log.remove_subscriber(name)
        tell("gone")


def remove(target: str, name: str) -> None:
    with jlogd.open(target) as log:
        with suppress(SubscriberUnknown):  # it had got as far as that
            log.remove_subscriber(name)
        tell("gone")


def take(target: str) -> None:
    take_over_spool(Path(target))
    tell("took it over")


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # the parent asks so where we hang
    globals()[sys.argv[1]](*sys.argv[2:])
