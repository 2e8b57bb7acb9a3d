"""Syslog over TCP into the journal: messages a second, and what the daemon's processor time gives per core.

One connection sends ready-made RFC 5424 messages as fast as the daemon takes them, in each of the two framings. The
clock runs from the first byte until the last message is durable. Processor time is that of the daemon's process,
all its threads, from /proc.
"""

from __future__ import annotations

import shutil
import socket
import time

from bench.context import Context
from bench.crew import State
from bench.machine import process_seconds
from bench.results import Row
from bench.rivals import JlogdDaemon, Shape
from bench.samples import make_records

BLOCK_MESSAGES = 10_000
RECORD_BYTES = 100
SECONDS_MAX = 120.0
POLL_SECONDS = 0.05
_HEADER = b"<134>1 2026-01-01T00:00:00.000000Z host1 app 4242 - - "


def run_syslog(context: Context) -> list[Row]:
    """Both framings."""
    rows = []
    for framing in ("lines", "octet-counted"):
        rows.append(_one(context, framing))
        context.advance(f"syslog, {framing}")
    return rows


def _one(context: Context, framing: str) -> Row:
    system = JlogdDaemon(syslog=True)
    common = {
        "case": "syslog", "system": system.key, "label": f"jlogd, {framing}", "durability": system.durability,
        "record_bytes": RECORD_BYTES, "note": framing,
    }  # fmt: skip
    if failure := system.missing():
        return Row(**common, failure=failure)  # type: ignore[arg-type]
    root = context.directory / "syslog"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    count = context.profile.syslog_messages // BLOCK_MESSAGES * BLOCK_MESSAGES
    try:
        system.setup(root, Shape(RECORD_BYTES, 1, 1))
        assert system.server is not None
        cpu = process_seconds(system.server.pid)
        begin = time.monotonic()
        context.crew.begin(0, _send, system.syslog_port, framing, count)
        _wait_durable(system, count, begin + SECONDS_MAX)
        seconds = time.monotonic() - begin
        cpu = process_seconds(system.server.pid) - cpu
        context.crew.result(0)
        _check(system, count)
    except Exception as error:
        return Row(**common, failure=f"{type(error).__name__}: {error}"[:300])  # type: ignore[arg-type]
    finally:
        system.close()
        shutil.rmtree(root, ignore_errors=True)
    return Row(**common, rate=count / seconds, cpu=cpu / seconds)  # type: ignore[arg-type]


def _wait_durable(system: JlogdDaemon, count: int, deadline: float) -> None:
    with system.open() as log:
        while (found := log.stat().next - 1) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {count} messages were durable after {SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)


def _check(system: JlogdDaemon, count: int) -> None:
    """What was measured was the right thing: all messages, whole."""
    with system.open() as log:
        found = 0
        for batch in log.subscriber(start="begin"):
            records = batch.records()
            assert set(map(len, records)) == {RECORD_BYTES}, "a message was not kept as it was sent"
            found += len(records)
    assert found == count, f"{found} messages in the log, {count} were sent"


def _send(state: State, port: int, framing: str, count: int) -> None:
    messages = [_HEADER + record[len(_HEADER) :] for record in make_records(RECORD_BYTES, BLOCK_MESSAGES)]
    if framing == "lines":
        block = b"\n".join(messages) + b"\n"
    else:
        block = b"".join(b"%d %s" % (len(message), message) for message in messages)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(count // BLOCK_MESSAGES):
            connection.sendall(block)
