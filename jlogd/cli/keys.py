"""`jlogd keys`: key pairs for daemons and clients."""

from __future__ import annotations

from pathlib import Path

import click

from jlogd.cli.hints import Hinting
from jlogd.cli.output import print_json, say, show, table
from jlogd.cli.params import json_option

COLUMNS = ("FILE", "NAME", "PUBLIC KEY")


@click.group("keys", cls=Hinting, no_args_is_help=True)
def keys() -> None:
    """Make and show keys.

    A daemon that is reached from other hosts has a pair of keys, and so has each of its clients. Each knows the other's
    public key; the secret one stays where it was made.

    \b
    Examples:
      jlogd keys new east1 --dir /etc/jlogd/keys
      jlogd keys show /etc/jlogd/keys/east1.key
    """


@keys.command("new", no_args_is_help=True)
@click.argument("name", metavar="NAME")
@click.option(
    "--dir", "directory", metavar="DIR", type=click.Path(path_type=Path), default=Path("."), show_default="here",
    help="Where to put the files; made, for its owner alone, when it is not there.",
)  # fmt: skip
def new(name: str, directory: Path) -> None:
    """Make a pair of keys: NAME.key, secret, and NAME.pub, to hand out.

    The secret file belongs to the user who makes it, with mode 0600: run this as the user that will use it. Files that
    are there are never written over.

    \b
    Examples:
      jlogd keys new web3
      sudo -u jlogd jlogd keys new east1 --dir /etc/jlogd/keys
    """
    from jlogd.journal.types import check_name
    from jlogd.wire.keys import make_pair, write_pair

    check_name("key", name)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = make_pair(name)
    secret, public = write_pair(pair, directory)
    say(f"secret: {secret}   (stays here; mode 0600)")
    say(f"public: {public}   (hand it out)")
    say(f'\nFor a client, in the daemon\'s configuration:\n\n[[auth.client]]\nname = "{name}"')
    say(f'public_key = "{pair.public}"\nappend = ["mainlog"]')
    say(f'\nFor a daemon, in its own configuration:\n\n[auth]\nkey = "{secret.absolute()}"')


@keys.command("show", no_args_is_help=True)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def show_(files: tuple[Path, ...], as_json: bool) -> None:
    """Show the public keys in files, secret or public ones. A secret key is never shown.

    \b
    Examples:
      jlogd keys show web3.key
      jlogd keys show /etc/jlogd/keys/*.pub --json
    """
    from jlogd.wire.keys import SECRET_SUFFIX, read_pair, read_public

    rows: list[tuple[str, str, str]] = []
    for file in files:
        if file.suffix == SECRET_SUFFIX:
            pair = read_pair(file)
            rows.append((str(file), pair.name, pair.public))
        else:
            rows += [(str(file), file.stem, key) for key in read_public(file)]
    if as_json:
        print_json([{"file": file, "name": name, "public_key": key} for file, name, key in rows])
    else:
        show(table(COLUMNS, rows, left=3))
