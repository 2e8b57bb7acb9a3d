"""What a client shows to a daemon and expects of it: its own key pair, and the public keys the daemon may have.

    where it is given                        key                       server key
    arguments of `jlogd.open`, options       key=, --key               server_key=, --server-key
    environment                              JLOGD_KEY                 JLOGD_SERVER_KEY
    configuration directory                  client.key                server.pub

What is given first counts. A unix socket is used without keys, whatever is given: its mode and the kernel say who is
there. What is given in arguments or the environment is used for every TCP address, what lies in the configuration
directory ($XDG_CONFIG_HOME/jlogd, by default ~/.config/jlogd) for those beyond this host. There a connection without
keys is refused, unless `insecure` (--insecure, JLOGD_INSECURE=1) asks for one.

A server key is Z85 text or the path of a `.pub` file; several, in an array or separated by blanks in the environment,
are tried in turn. So a daemon can change its key while its clients know both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from jlogd.errors import BadKey, UsageError
from jlogd.wire.address import is_loopback
from jlogd.wire.keys import (
    KEY_CHARACTERS,
    PUBLIC_KEYS_MAX,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    KeyPair,
    check_public_key,
    read_pair,
    read_public,
)

KEY_VARIABLE = "JLOGD_KEY"
SERVER_KEY_VARIABLE = "JLOGD_SERVER_KEY"
INSECURE_VARIABLE = "JLOGD_INSECURE"

KeyFile: TypeAlias = str | os.PathLike[str]
ServerKey: TypeAlias = KeyFile | Sequence[KeyFile]
# How ZeroMQ's greeting failed: the daemon does not know the client; one of the two speaks without keys; anything else.
Failure = Literal["", "unknown-client", "mechanism", "handshake"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The pair of this client, and the keys the daemon may have, in the order they are tried."""

    pair: KeyPair
    server_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """What the caller gave, to be resolved for each address; `Keys()` is nothing."""

    key: KeyFile | None = None
    server_key: ServerKey | None = None
    insecure: bool = False

    def resolve(self, address: str) -> Credentials | None:
        """What to use at `address`; None: no keys. Raises `UsageError`, `BadKey`."""
        if address.startswith("ipc://"):
            return None
        insecure = self.insecure or os.environ.get(INSECURE_VARIABLE, "") not in ("", "0")
        key = self.key or os.environ.get(KEY_VARIABLE) or None
        server: ServerKey | None = self.server_key or os.environ.get(SERVER_KEY_VARIABLE, "").split() or None
        if not is_loopback(address) and not insecure:
            key = key or _in_config("client.key")
            server = server or _in_config("server.pub")
        if insecure and self.key is None and self.server_key is None:
            return None
        if key is None and server is None:
            if is_loopback(address):
                return None
            raise UsageError(f"{address} is not a loopback address, and there are no keys: {_GIVE_BOTH}")
        if key is None:
            raise UsageError(f"{address}: a server key is given, but no key of this client: {_GIVE_KEY}")
        if server is None:
            raise UsageError(f"{address}: a key is given, but not that of the daemon: {_GIVE_SERVER}")
        return Credentials(read_pair(key), _server_keys(server))


_GIVE_KEY = f"give --key FILE (key=, {KEY_VARIABLE}); `jlogd keys new NAME` makes one"
_GIVE_SERVER = f"give --server-key KEY (server_key=, {SERVER_KEY_VARIABLE}), the daemon's public key or its .pub file"
_GIVE_BOTH = (
    f"{_GIVE_KEY}, and --server-key KEY (server_key=, {SERVER_KEY_VARIABLE}); to a daemon that was told to be "
    f"insecure, --insecure (insecure=, {INSECURE_VARIABLE}=1) goes without"
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where keys are given, in words: what gives both, what goes without, what names the client's and the daemon's."""

    give: str
    leave_out: str
    key: str
    server_key: str = ""


_OF_CLIENT = Places(f"{_GIVE_KEY}; and {_GIVE_SERVER}", "leave out --key and --server-key", "the key of this client")


def of_manager(node: str) -> Places:
    """Where a manager has the keys for a node."""
    table = f"[[manager.node]] {node}"
    return Places(
        f"set `[manager] key` to the file of the manager's key (`jlogd keys new NAME` makes one), and `key` of {table} "
        "to the daemon's public key",
        f"leave out `key` of {table}", "`[manager] key`", f" by `key` of {table}",
    )  # fmt: skip


def failure_text(address: str, failure: Failure, credentials: Credentials | None, places: Places = _OF_CLIENT) -> str:
    """Why the daemon did not let this client in, for people."""
    if failure == "unknown-client" and credentials is not None:
        pair = credentials.pair
        return (
            f"the daemon at {address} does not know {places.key} ({pair.origin or pair.name}): have "
            f'public_key = "{pair.public}" added to an [[auth.client]] table of its configuration, and reload it'
        )
    if failure == "unknown-client":
        return f"the daemon at {address} does not let this client in; its own log says why"
    if credentials is None:
        return f"the daemon at {address} wants a key: {places.give}"
    if failure == "mechanism":
        return f"the daemon at {address} speaks without keys: {places.leave_out}, or use its other address"
    what = "the key" if len(credentials.server_keys) == 1 else f"any of the {len(credentials.server_keys)} keys"
    return (
        f"what listens at {address} does not have {what} it should have{places.server_key} "
        f"({', '.join(credentials.server_keys)}): "
        "compare with `jlogd keys show` on its host, and whether that address speaks without keys; if neither was "
        "changed, someone else may be answering"
    )


def _in_config(name: str) -> Path | None:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(base) / "jlogd" / name
    return path if path.is_file() else None


def _server_keys(given: ServerKey) -> tuple[str, ...]:
    parts = [given] if isinstance(given, str | os.PathLike) else list(given)
    found: list[str] = []
    for part in parts:
        found += _read_server_key(part)
    if not 1 <= len(found) <= PUBLIC_KEYS_MAX:
        raise BadKey(f"found {len(found)} server keys; accepted: 1 to {PUBLIC_KEYS_MAX}")
    return tuple(dict.fromkeys(found))


def _read_server_key(part: KeyFile) -> tuple[str, ...]:
    if os.fspath(part).endswith(SECRET_SUFFIX):
        raise BadKey(f"{part}: that is the daemon's secret key, which stays with it; give its {PUBLIC_SUFFIX} file")
    if isinstance(part, str) and len(part) == KEY_CHARACTERS and not Path(part).is_file():
        return (check_public_key(part),)
    if isinstance(part, str) and not Path(part).exists() and os.sep not in part and not part.endswith(".pub"):
        check_public_key(part)  # neither a file nor a key: it says what a key looks like
    return read_public(part)
