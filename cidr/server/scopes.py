"""Tokens, and what each may see: an engine that shows only some series and some blocks.

A token is 256 random bits; the configuration holds its SHA-256 only. It comes as `Authorization: Bearer TOKEN`, or,
from a browser, as the password of `Basic` with any name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from cidr.addresses import parse_block
from cidr.ask import Answering
from cidr.errors import UnknownSeries
from cidr.language.lists import intersect
from cidr.server.config import TokenConfig
from cidr.server.errors import NotAllowed, NoToken
from cidr.types import (
    SERIES_SEPARATOR,
    Answer,
    Block,
    CacheStat,
    Column,
    CountQuery,
    Expression,
    Minus,
    Plan,
    Query,
    Ratio,
    Series,
    SeriesStat,
    Union,
)

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be seen: series whose whole name one of the patterns matches, blocks in one of the prefixes."""

    name: str
    series: tuple[re.Pattern[str], ...] = ()
    prefixes: tuple[Block, ...] = ()

    def sees(self, series: str) -> bool:
        """Whether the series may be seen."""
        return not self.series or any(pattern.fullmatch(series) for pattern in self.series)


EVERYTHING = Scope("")


def make_token() -> tuple[str, str]:
    """A token, and what the configuration holds of it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens of a server; without any, everybody who can reach it may see everything."""

    def __init__(self, configured: Sequence[TokenConfig]) -> None:
        self._scopes = [
            (
                one.sha256,
                Scope(one.name, tuple(map(re.compile, one.series or ())), tuple(map(parse_block, one.prefixes or ()))),
            )
            for one in configured
        ]

    def scope(self, authorization: str) -> Scope:
        """What the bearer of a header `Authorization` may see. Raises `NoToken`."""
        if not self._scopes:
            return EVERYTHING
        digest = hashlib.sha256(_token(authorization).encode()).hexdigest()
        # All are compared, so that the time says nothing about which one is nearly right.
        found = [scope for known, scope in self._scopes if hmac.compare_digest(known, digest)]
        if not found:
            raise NoToken("a token is needed: Authorization: Bearer TOKEN, or CIDR_TOKEN for the command cidr")
        return found[0]


def _token(authorization: str) -> str:
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


class Scoped:
    """An engine as the bearer of a token sees it."""

    def __init__(self, engine: Answering, scope: Scope) -> None:
        self._engine = engine
        self._scope = scope

    @property
    def zone(self) -> ZoneInfo:
        return self._engine.zone

    def answer(self, query: Query) -> Answer:
        query, note = self._narrowed(query)
        with self._names():
            answer = self._engine.answer(query)
        return replace(answer, notes=(*answer.notes, note)) if note else answer

    def explain(self, query: Query) -> Plan:
        query, note = self._narrowed(query)
        with self._names():
            plan = self._engine.explain(query)
        return replace(plan, notes=(*plan.notes, note)) if note else plan

    def series(self) -> list[SeriesStat]:
        return [one for one in self._engine.series() if self._scope.sees(one.name)]

    def cache(self, entries: int = 100) -> CacheStat:
        stat = self._engine.cache(entries)
        return replace(stat, entries=tuple(one for one in stat.entries if self._sees_all(one.series)))

    def _sees_all(self, names: str) -> bool:
        """Whether all series may be seen whose sum something is."""
        return all(map(self._scope.sees, names.split(SERIES_SEPARATOR)))

    @contextmanager
    def _names(self) -> Iterator[None]:
        """A series that was there a moment ago has a nearest name: of those that may be seen."""
        try:
            yield
        except UnknownSeries as error:
            raise UnknownSeries(error.name, list(filter(self._scope.sees, error.known))) from None

    def close(self) -> None:
        """The engine belongs to the server."""

    def _narrowed(self, query: Query) -> tuple[Query, str]:
        """The query within the scope, and a note where that is less than was asked. Raises `NotAllowed`."""
        columns: tuple[Column, ...] = query.columns if isinstance(query, CountQuery) else (query.column,)
        for name in (name for column in columns for name in _names(column.expression)):
            if not self._scope.sees(name):
                raise NotAllowed(f'the token may not see the series "{name}"')
        prefixes = self._scope.prefixes
        if not prefixes or all(any(prefix.holds(block) for prefix in prefixes) for block in query.blocks):
            return query, ""
        shown = ", ".join(map(str, prefixes))
        kept = intersect(query.blocks, prefixes)
        if not kept:
            raise NotAllowed(f"the token may see {shown} only")
        return replace(query, blocks=tuple(kept)), f"only {shown}, which is what the token may see"


def _names(expression: Expression) -> list[str]:
    match expression:
        case Series(name):
            return [name]
        case Union(parts):
            return [name for part in parts for name in _names(part)]
        case Minus(left, right) | Ratio(left, right):
            return [*_names(left), *_names(right)]
