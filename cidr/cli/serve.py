"""`cidr serve`: the server."""

from __future__ import annotations

from pathlib import Path

import click

from cidr.cli.options import base_dir_option, configured_base_dir, is_base_dir_given
from jlogd.cli.output import say


@click.command("serve")
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="cidr.toml: [cidr.server], [cidr.maintain], and base_dir of [as_logger].",
)
@click.option("--listen", metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1:9090, or what the file says.")
@click.option("--make-token", metavar="NAME", help="Print a new token, and what the configuration holds of it.")
@base_dir_option
@click.pass_context
def serve(ctx: click.Context, config: Path | None, listen: str | None, make_token: str | None, base_dir: Path) -> int:
    """Answer queries over HTTP: JSON at /v1/query, a page at /.

    It listens on 127.0.0.1:9090, where everybody on this machine may ask. Any other address needs tokens in the
    configuration. With maintain_every there it also condenses and deletes, as `cidr maintain` does. The interface is
    described at /openapi.json, metrics are at /metrics, health is at /healthz.

    \b
    Examples:
      cidr serve --base-dir var/aslogger
      cidr serve --config /etc/jlogd/cidr.toml --listen "[::1]:9090"
      cidr serve --make-token noc
    """
    if make_token is not None:
        return _print_token(make_token)
    import msgspec

    from cidr.config import Maintain
    from cidr.config import load as load_all
    from cidr.server.config import check, load
    from cidr.server.run import run

    config = config or ctx.find_root().params.get("config_file")
    settings, policy = load(config), Maintain()
    if config is not None:
        policy = load_all(config).cidr.maintain
        base_dir = base_dir if is_base_dir_given(ctx) else configured_base_dir(config)
    if listen is not None:
        settings = msgspec.structs.replace(settings, listen=listen)
        check(settings, "--listen")
    return run(base_dir, settings, policy)


def _print_token(name: str) -> int:
    import msgspec

    from cidr.server.scopes import make_token

    token, digest = make_token()
    say(f"# The token, shown once: {token}")
    say(f'[[cidr.server.token]]\nname = {msgspec.json.encode(name).decode()}\nsha256 = "{digest}"')
    return 0
