"""Logs to count, loggers to count them, and what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jlogd
from cidr.config import AsLogger, parse
from cidr.engine import Engine
from cidr.files import Files
from cidr.logger import Logger
from cidr.types import ALL_V4, ALL_V6, Column, CountQuery, Series, Span

SSH = "Failed password for .* from (?P<ip>[0-9a-fA-F.:]+) port"


def config(root: Path, more: str = "", rules: str = "", base: str = "store") -> AsLogger:
    """A logger of the log `mainlog` below `root`."""
    rules = rules or f"[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'ssh'\nmatch = '{SSH}'\n"
    return parse(
        f'[as_logger]\nbase_dir = "{root / base}"\nlogs = "{root}"\nseries_include_default = "all"\n{more}\n{rules}'
    ).as_logger


def failed(address: str) -> bytes:
    """A record as sshd writes it."""
    return f"Dec 10 06:55:48 host sshd[24200]: Failed password for root from {address} port 38926 ssh2".encode()


def append(root: Path, records: Sequence[bytes], log: str = "mainlog") -> None:
    """Append to a log, making it if need be."""
    if not (root / log).exists():
        jlogd.create(root / log)
    with jlogd.open(root / log) as opened, opened.writer() as writer:
        for record in records:
            writer.append(record)
        writer.flush()


class Steps(Files):
    """Stops the process, or what the test takes for it, at the n-th step that changes the disk."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at = stop_at
        self.done = 0

    def step(self, what: str, path: Path) -> None:
        self.done += 1
        if self.done == self.stop_at:
            self.stop(what, path)

    def stop(self, what: str, path: Path) -> None:
        raise Killed(f"{what} {path}")


class Killed(BaseException):
    """The process ends here."""


def counted(base: Path, series: str = "ssh", span: Span | None = None) -> dict[str, int]:
    """All counts of a series, by address."""
    query = CountQuery(blocks=(ALL_V4, ALL_V6), columns=(Column(series, Series(series)),), span=span)
    with Engine(base, threads=1) as engine:
        if series not in [stat.name for stat in engine.series()]:
            return {}
        answer = engine.answer(query)
    return {str(answer.block(row)).rpartition("/")[0]: int(answer.columns[0].values[row]) for row in range(len(answer))}


def drained(settings: AsLogger, files: Files | None = None) -> Logger:
    """Run a logger until it has read everything."""
    with Logger(settings, files=files) as logger:
        logger.drain()
    return logger
