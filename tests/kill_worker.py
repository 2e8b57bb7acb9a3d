"""What the processes of `test_kill.py` run: a producer or a consumer that tells its parent what happened, by the line.

kill_worker.py produce LOG NAME FIRST     issues records NAME:number from FIRST on: `issued N`, then `acked N`
kill_worker.py consume LOG NAME           consumes: `got SEQUENCE RECORD`, then `done SEQUENCE`
"""

from __future__ import annotations

import os
import random
import sys

import jlogd


def tell(text: str) -> None:
    """One write for one line: what the parent reads is whole lines, whenever this process dies."""
    os.write(1, text.encode() + b"\n")


def produce(target: str, name: str, number: int) -> None:
    with jlogd.open(target) as log, log.writer(producer=name) as writer:
        # What was issued last and not acknowledged may be there: the log knows, and so does the oracle.
        number = max(number, writer.position)
        tell(f"acked {number}")
        while True:
            count = random.randrange(1, 50)
            tell(f"issued {number + count}")
            writer.extend([b"%s:%d" % (name.encode(), number + n) for n in range(count)])
            number += count
            if random.random() < 0.5:
                writer.flush()
                tell(f"acked {number}")


def consume(target: str, name: str) -> None:
    with jlogd.open(target) as log, log.subscriber(name, follow=True) as subscriber:
        for batch in subscriber:
            for sequence, record in enumerate(batch, batch.first):
                tell(f"got {sequence} {record.decode()}")
            assert isinstance(batch, jlogd.Batch), batch
            if random.random() < 0.3:
                batch.checkpoint()
                tell(f"done {batch.next}")


if __name__ == "__main__":
    if sys.argv[1] == "produce":
        produce(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        consume(sys.argv[2], sys.argv[3])
