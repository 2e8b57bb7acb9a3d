"""The routes of the server, and how failures are told: `{"error": {"code", "message", ...}}` with a fitting status."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cidr.addresses import parse_block
from cidr.ask import Answering, Local, Reply, Rows
from cidr.errors import GaveUp, TooManyRows
from cidr.formats import CONTENT_TYPES, FORMATS, render
from cidr.heatmap import heat, png, svg
from cidr.language.complete import complete
from cidr.language.errors import QueryError
from cidr.server import openapi
from cidr.server.bounds import Bounds, Headers, Hosts
from cidr.server.config import ServerConfig
from cidr.server.desk import Desk
from cidr.server.errors import Busy, NotAllowed, NoToken, TooMuch
from cidr.server.metrics import CONTENT_TYPE, Metrics
from cidr.server.scopes import Scope, Scoped, Tokens
from cidr.types import Answer, CountQuery, Query
from cidr.web import page
from jlogd.errors import JlogError, UsageError

BODY_BYTES_MAX = 1 << 20
# A query in an address, such as a page's link; longer ones are posted.
QUERY_CHARS_MAX = 16 << 10
RETRY_SECONDS = 2
_STATUS: list[tuple[type[Exception], int]] = [
    (NoToken, 401), (NotAllowed, 403), (TooMuch, 413), (UsageError, 400), (Busy, 503), (GaveUp, 504),
]  # fmt: skip
Handler = Callable[[Request], Awaitable[Response]]


class _QueryBody(msgspec.Struct, forbid_unknown_fields=True):
    query: str
    format: str = ""


class App:
    """Everything behind the routes."""

    def __init__(self, engine: Answering, config: ServerConfig, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        self._tokens = Tokens(config.token)
        self.desk = Desk(config.concurrency, config.queue, config.query_seconds)
        self.metrics = Metrics(engine, self.desk)

    def asgi(self) -> Starlette:
        """The application."""
        routes = [
            self._route("/", self._page),
            self._route("/style.css", self._style, open_to_all=True),
            self._route("/page.js", self._script, open_to_all=True),
            self._route("/icon.svg", self._icon, open_to_all=True),
            self._route("/v1/query", self._query, ["GET", "POST"]),
            self._route("/v1/series", self._series),
            self._route("/v1/complete", self._complete),
            self._route("/v1/heatmap", self._heatmap),
            self._route("/openapi.json", self._openapi, open_to_all=True),
            self._route("/healthz", self._health, open_to_all=True),
            self._route("/metrics", self._metrics),
        ]
        middleware = [
            Middleware(Headers),
            # A query and what is drawn around it; after that the connection is cut.
            Middleware(Bounds, seconds=3 * self._config.query_seconds + 30),
            Middleware(Hosts, allowed=self._hosts()),
        ]
        return Starlette(routes=routes, middleware=middleware)

    def _hosts(self) -> frozenset[str] | None:
        """Names under which the server answers; None for any. Where no token is needed, a page of another name must not
        get at it by having that name point to this machine."""
        if self._config.token:
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", *self._config.hosts})

    def _route(self, path: str, handler: Callable[..., Awaitable[Response]], methods: list[str] | None = None,
               open_to_all: bool = False) -> Route:  # fmt: skip
        async def handle(request: Request) -> Response:
            try:
                scope = Scope("") if open_to_all else self._tokens.scope(request.headers.get("authorization", ""))
                response = await handler(request, scope)
            except Exception as error:
                response = failure(error)
            self.metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return Route(path, handle, methods=methods or ["GET"])

    def _local(self, scope: Scope) -> Local:
        engine = Limited(Scoped(self._engine, scope), self._config.rows_max)
        return Local(engine, clock=self._clock)

    # ---- queries ----------------------------------------------------------------------------------------------------

    async def _query(self, request: Request, scope: Scope) -> Response:
        text, form = await _asked(request)
        local = self._local(scope)
        started = time.perf_counter()
        reply, etag, body = await self.desk.run(lambda: _rendered(local.ask(text), form, _known(request)))
        self.metrics.seconds.observe(time.perf_counter() - started)
        headers = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization, Cookie"}
        if etag:
            headers["ETag"] = etag
        if body is None:
            return Response(status_code=304, headers=headers)
        if request.query_params.get("download") and not isinstance(reply, str):
            headers["Content-Disposition"] = f'attachment; filename="cidr.{form}"'
        return Response(body, media_type=CONTENT_TYPES[form], headers=headers)

    async def _series(self, _request: Request, scope: Scope) -> Response:
        series = await self.desk.run(self._local(scope).series_stats)
        return _json({"series": msgspec.to_builtins(series)})

    async def _complete(self, request: Request, scope: Scope) -> Response:
        text = _bounded(request.query_params.get("text", ""))
        local = self._local(scope)
        found = await self.desk.run(lambda: complete(text, local.series_names()))
        return _json({"completions": [{"text": c.text, "replaced": c.replaced} for c in found]})

    # ---- pictures and pages -----------------------------------------------------------------------------------------

    async def _heatmap(self, request: Request, scope: Scope) -> Response:
        wanted = {name: _bounded(request.query_params.get(name, "")) for name in ("block", "series", "time", "detail")}
        form = request.query_params.get("format", "png")
        if form not in ("png", "svg"):
            raise UsageError(f"there is no picture in {form!r}; there are png and svg")
        local = self._local(scope)
        body = await self.desk.run(lambda: _picture(local, wanted, form))
        return Response(body, media_type="image/png" if form == "png" else "image/svg+xml")

    async def _page(self, request: Request, scope: Scope) -> Response:
        text = _bounded(request.query_params.get("q", "")).strip()
        local = self._local(scope)
        where = str(request.base_url).rstrip("/")
        status, body = await self.desk.run(lambda: page.build(local, text, where))
        return Response(body, status, media_type="text/html", headers={"Cache-Control": "private, no-cache"})

    async def _style(self, _request: Request, _scope: Scope) -> Response:
        return Response(page.style(), media_type="text/css", headers={"Cache-Control": "max-age=300"})

    async def _script(self, _request: Request, _scope: Scope) -> Response:
        return Response(page.script(), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})

    async def _icon(self, _request: Request, _scope: Scope) -> Response:
        return Response(page.icon(), media_type="image/svg+xml", headers={"Cache-Control": "max-age=3600"})

    # ---- about the server -------------------------------------------------------------------------------------------

    async def _openapi(self, _request: Request, _scope: Scope) -> Response:
        return _json(openapi.document())

    async def _health(self, _request: Request, _scope: Scope) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def _metrics(self, _request: Request, _scope: Scope) -> Response:
        return Response(self.metrics.page(), media_type=CONTENT_TYPE)


class Limited:
    """An engine whose answers have no more rows than are sent."""

    def __init__(self, engine: Answering, rows_max: int) -> None:
        self._engine = engine
        self._rows_max = rows_max
        self.zone = engine.zone
        self.explain, self.series, self.cache, self.close = engine.explain, engine.series, engine.cache, engine.close

    def answer(self, query: Query) -> Answer:
        """Raises `TooMuch` when time makes it too many."""
        asked = query.limit
        limit = self._rows_max if asked is None else min(asked, self._rows_max)
        query = replace(query, limit=limit)
        if isinstance(query, CountQuery):
            query = replace(query, rows_max=self._rows_max)
        try:
            answer = self._engine.answer(query)
        except TooManyRows as error:
            raise TooMuch(str(error)) from None
        wanted = answer.matched if asked is None else min(asked, answer.matched)
        if wanted > limit and not (isinstance(query, CountQuery) and query.every):
            note = f"cut: this server sends {self._rows_max:,} rows"
            return replace(answer, notes=(*answer.notes, note))
        return answer


async def _asked(request: Request) -> tuple[str, str]:
    """Query and format of a request. Raises `UsageError`, `TooMuch`."""
    if request.method == "POST":
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise TooMuch(f"the request has more than {BODY_BYTES_MAX >> 20} MiB")
        try:
            asked = msgspec.json.decode(bytes(body), type=_QueryBody)
        except (ValueError, RecursionError) as error:
            raise UsageError(f'the body is not {{"query": "...", "format": "json"}}: {error}') from None
        return asked.query, _format(asked.format, request)
    return _bounded(request.query_params.get("q", "")), _format(request.query_params.get("format", ""), request)


def _bounded(text: str) -> str:
    if len(text) > QUERY_CHARS_MAX:
        raise TooMuch(f"the query has {len(text)} characters; over {QUERY_CHARS_MAX} it is posted to /v1/query")
    return text


def _format(named: str, request: Request) -> str:
    if named:
        if named not in FORMATS:
            raise UsageError(f"there is no format {named!r}; there are {', '.join(FORMATS)}")
        return named
    accept = request.headers.get("accept", "")
    return next(
        (form for form in ("csv", "ndjson", "parquet") if CONTENT_TYPES[form].partition(";")[0] in accept), "json"
    )


def _known(request: Request) -> set[str]:
    return {one.strip() for one in request.headers.get("if-none-match", "").split(",") if one.strip()}


def _rendered(reply: Reply, form: str, known: set[str]) -> tuple[Reply, str, bytes | None]:
    """The reply, its ETag, and its bytes; None when the client has them already."""
    etag = ""
    if isinstance(reply, Rows):
        coverage = reply.answer.coverage
        state = f"{coverage.covered_seconds} of {coverage.due_seconds}"  # what was not due yet is missing later
        named = "\n".join([reply.answer.digest, reply.text, form, reply.zone.key, *reply.answer.notes, state])
        # Weak: the milliseconds differ.
        etag = f'W/"{hashlib.blake2b(named.encode(), digest_size=16).hexdigest()}"'
    return reply, etag, None if etag and etag in known else render(reply, form)


def _picture(local: Local, wanted: dict[str, str], form: str) -> bytes:
    block = parse_block(wanted["block"])
    if wanted["detail"]:
        if not wanted["detail"].isascii() or not wanted["detail"].isdigit():
            raise UsageError("detail is a number of bits")
        detail = heat.check_detail(block, int(wanted["detail"][:6]))
        if detail > heat.DETAIL_SERVED_MAX:
            most = heat.DETAIL_SERVED_MAX
            raise UsageError(f"a server draws up to {most} bits of detail; cidr heatmap on the store itself draws more")
    else:
        detail = heat.detail_of(block, 16 if form == "png" else 8)
    if not detail or (form == "svg" and detail > svg.DETAIL_SVG_MAX):
        raise UsageError(f"that cannot be drawn: a block of 4 addresses at least, {svg.DETAIL_SVG_MAX} bits for an SVG")
    reply = local.ask(heat.query_text(block, wanted["series"], wanted["time"], detail))
    if not isinstance(reply, Rows) or len(reply.answer.columns) != 1:
        raise UsageError("a map shows one column: name one series, or add them up with union(A, B)")
    drawn = heat.heat(reply, block, detail)
    return png.file(drawn) if form == "png" else svg.file(drawn)


def failure(error: Exception) -> Response:
    """How a failure is told."""
    if not isinstance(error, JlogError | OSError):
        detail: dict[str, Any] = {"code": "failed", "message": f"{type(error).__name__}: this is a mistake of cidr"}
        return _json({"error": detail}, 500)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    if status == 500 and isinstance(error, JlogError) and error.exit_code == 1:
        status = 404
    detail = {"code": getattr(error, "code", "failed"), "message": str(error)}
    if isinstance(error, QueryError):
        # What is only unexpected has no words of its own: a message is a sentence all the same.
        detail |= {"message": error.message or error.explanation(), "start": error.mark.start, "end": error.mark.end}
        detail |= {"expected": list(error.expected), "nearest": error.nearest}
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="cidr", charset="UTF-8"'
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return _json({"error": detail}, status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")
