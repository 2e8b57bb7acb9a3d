"""A server of `cidr` in this process, and questions to it as bytes on a socket."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from cidr.ask import Answering
from cidr.server import run
from cidr.server.app import App
from cidr.server.config import Address, ServerConfig, parse

SECONDS_MAX = 60


class Answered:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Served:
    """A server that runs."""

    def __init__(self, port: int, app: App) -> None:
        self.port = port
        self.app = app
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answered:
        """One request on a connection of its own."""
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS_MAX)
        try:
            connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
            return Answered(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, None, **headers)

    def query(self, text: str, form: str = "json", **headers: str) -> Answered:
        return self.ask("POST", "/v1/query", {"query": text, "format": form}, **headers)


@contextmanager
def serving(engine: Answering, clock: Any = time.time, **table: Any) -> Iterator[Served]:
    """The server of an engine, with a table `[cidr.server]`."""
    config: ServerConfig = parse(table, "test")
    app = App(engine, config, clock)
    listening = run._listen(Address("127.0.0.1", 0))
    server = run._server(app, config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + SECONDS_MAX
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield Served(listening.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(SECONDS_MAX)
        listening.close()
        app.desk.close()
        assert not thread.is_alive()
