"""Runs the server until SIGTERM or Ctrl-C."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import uvicorn

from cidr.config import Maintain
from cidr.engine import Engine
from cidr.maintain import Maintainer
from cidr.memory import keep_freed_memory
from cidr.server.app import App
from cidr.server.bounds import ImpatientProtocol
from cidr.server.config import Address, ServerConfig, maintain_seconds, parse_listen
from cidr.server.schedule import Schedule
from jlogd.errors import CannotListen

# For answers that are under way when the server is told to stop.
STOP_SECONDS = 5
KEEP_ALIVE_SECONDS = 15


def run(base_dir: Path, config: ServerConfig, policy: Maintain) -> int:
    """Serve a store; `policy` is for its maintenance on a schedule. Raises `StoreNotFound`, `CannotListen`."""
    keep_freed_memory()
    address = parse_listen(config.listen)
    with Engine(base_dir, cache_bytes=config.cache) as engine, _listen(address) as listening:
        app = App(engine, config)
        schedule = Schedule(lambda: maintain(base_dir, policy), maintain_seconds(config.maintain_every), app.metrics)
        scheme = "https" if config.tls_certificate else "http"
        host, port = listening.getsockname()[:2]
        click.echo(f"cidr serves {base_dir} on {scheme}://{Address(host, port)}")
        if not address.is_loopback and scheme == "http":
            click.echo("warning: without tls_certificate anyone on the way reads tokens and answers", err=True)
        try:
            schedule.start()
            _server(app, config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            schedule.stop()
            app.desk.close()
    return 0


def maintain(base_dir: Path, policy: Maintain) -> None:
    """Once, as `cidr maintain` does it. Raises JlogError, OSError."""
    with Maintainer(base_dir, policy) as maintainer:
        maintainer.run()


def _server(app: App, config: ServerConfig) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app.asgi(),
            http=ImpatientProtocol,
            ws="none",
            lifespan="off",
            # What strangers send is counted, not logged: a line for each would fill the disk.
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.connections,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=config.tls_certificate or None,
            ssl_keyfile=config.tls_key or None,
        )
    )


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise CannotListen(f"{address} cannot be listened on: {(error.strerror or str(error)).lower()}") from None
    return listening
