"""Around every request: a time limit, the server's own names, and headers that keep browsers strict."""

from __future__ import annotations

import asyncio

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# From the connection, or the end of the last answer, to the end of a request's headers.
HEADERS_SECONDS = 15.0
CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Headers:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


class Bounds:
    """Ends a request after some seconds, whoever is slow: with an answer if none has begun, else by cutting it."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, note)
        except TimeoutError:
            if begun:
                raise
            await PlainTextResponse("the request took too long\n", 408)(scope, receive, send)


class Hosts:
    """Refuses names that are not the server's own: a page elsewhere could otherwise make a browser ask for it."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str] | None) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._allowed is not None and _host(scope) not in self._allowed:
            answer = PlainTextResponse("the server does not answer under this name; see cidr.server.hosts\n", 421)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _host(scope: Scope) -> str:
    found: bytes = next((value for name, value in scope["headers"] if name == b"host"), b"")
    text = found.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


class ImpatientProtocol(H11Protocol):
    """HTTP of uvicorn, which waits for ever for the first line and the headers of a request; this does not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        before = self.cycle
        self._deadline = self.loop.call_later(HEADERS_SECONDS, self._cut, before)

    def _cut(self, before: object) -> None:
        # The cycle of a request begins with the end of its headers.
        if self.cycle is before and not self.transport.is_closing():
            self.transport.close()
