"""`cidr serve`: the server."""

from __future__ import annotations

from pathlib import Path

import click

from cidr.cli.options import base_dir_option
from jlogd.cli.output import say


@click.command("serve")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="A file with a table [cidr.server].")
@click.option("--listen", metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1:9090, or what the file says.")
@click.option("--make-token", metavar="NAME", help="Print a new token, and what the configuration holds of it.")
@base_dir_option
def serve(config: Path | None, listen: str | None, make_token: str | None, base_dir: Path) -> int:
    """Answer queries over HTTP: JSON at /v1/query, a page at /.

    It listens on 127.0.0.1:9090, where everybody on this machine may ask. Any other address needs tokens in the
    configuration. The interface is described at /openapi.json, metrics are at /metrics, health is at /healthz.

    \b
    Examples:
      cidr serve --base-dir var/aslogger
      cidr serve --config /etc/jlogd/jlogd.toml --listen "[::1]:9090"
      cidr serve --make-token noc
    """
    if make_token is not None:
        return _print_token(make_token)
    import msgspec

    from cidr.server.config import check, load
    from cidr.server.run import run

    settings = load(config)
    if listen is not None:
        settings = msgspec.structs.replace(settings, listen=listen)
        check(settings, "--listen")
    return run(base_dir, settings, config)


def _print_token(name: str) -> int:
    import msgspec

    from cidr.server.scopes import make_token

    token, digest = make_token()
    say(f"# The token, shown once: {token}")
    say(f'[[cidr.server.token]]\nname = {msgspec.json.encode(name).decode()}\nsha256 = "{digest}"')
    return 0
