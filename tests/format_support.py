"""What the tests of the format share: reading by jlogd, to compare, and writing bytes that pass their checksums."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from crc32c import crc32c

import jlogd
from jlogd import Gap, JlogError


def host() -> str:
    """The identity of this host."""
    path = Path("/etc/machine-id")
    return (path.read_text().strip() if path.exists() else "") or socket.gethostname()


def read_by_jlogd(log: Path, recover: bool) -> tuple[dict[int, bytes], list[tuple[int, int]], dict[str, int]]:
    """Records, gaps, positions of subscribers."""
    records: dict[int, bytes] = {}
    gaps: list[tuple[int, int]] = []
    with jlogd.open(log) as opened:
        if recover:
            opened.producer_position("nobody")
        with opened.subscriber() as subscriber:
            for item in subscriber:
                if isinstance(item, Gap):
                    start = gaps.pop()[0] if gaps and gaps[-1][1] == item.first - 1 else item.first
                    gaps.append((start, item.last))
                records.update(enumerate(item, item.first))
        try:
            positions = {one.name: one.next for one in opened.subscribers()}
        except JlogError:  # the owner's file is damaged
            positions = {}
    return records, gaps, positions


def rewrite_slots(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the payload of both slots."""
    data = bytearray(path.read_bytes())
    for at in (0, 4096):
        if any(data[at : at + 512]):
            length = int.from_bytes(data[at + 6 : at + 8], "little")
            payload = change(bytes(data[at + 16 : at + 16 + length]))
            data[at + 6 : at + 8] = len(payload).to_bytes(2, "little")
            data[at + 16 : at + 508] = payload.ljust(492, b"\0")
            data[at + 508 : at + 512] = crc32c(bytes(data[at : at + 508])).to_bytes(4, "little")
    path.write_bytes(data)
