"""Keys: CURVE key pairs in files, and how they are written as text.

A key is 32 bytes, written as the 40 characters of Z85. A pair lies in two small TOML files:

    web3.key    secret; mode 0600, its owner reads it and nobody else      web3.pub    to hand out
        name = "web3"                                                          name = "web3"
        public_key = "..."                                                     public_key = "..."
        secret_key = "..."

A `.pub` file may hold `public_key = ["old", "new"]` while a daemon changes its key. Nothing here is bound to a thread.
"""

from __future__ import annotations

import os
import stat
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jlogd.errors import BadKey, UsageError
from jlogd.journal.types import check_name

PUBLIC_SUFFIX, SECRET_SUFFIX = ".pub", ".key"
KEY_CHARACTERS = 40
SECRET_MODE, PUBLIC_MODE = 0o600, 0o644
# Two keys and a name; more is another file, given by mistake.
FILE_BYTES_MAX = 16 << 10
# The keys a daemon may have at a time: the present one and its successor, and room for a few daemons in one file.
PUBLIC_KEYS_MAX = 16


# RFC 32 of ZeroMQ: five characters are four bytes.
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_ACCEPTED = (
    f"the {KEY_CHARACTERS} characters that `jlogd keys show` prints: digits, letters and .-:+=^!/*?&<>()[]{{}}@%$#"
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public and a secret key, as Z85 text. `name` is for people."""

    public: str
    secret: str = field(repr=False)
    name: str = ""
    origin: str = field(default="", compare=False)


def check_public_key(text: str) -> str:
    """`text` when it can be a public key. Raises `BadKey`."""
    if len(text) != KEY_CHARACTERS:
        raise BadKey(f"{_shown(text)} is not a key: found {len(text)} characters; accepted: {_ACCEPTED}")
    groups = (text[at : at + 5] for at in range(0, KEY_CHARACTERS, 5))
    if not set(text) <= set(_Z85) or any(_number(group) >> 32 for group in groups):
        raise BadKey(f"{_shown(text)} is not a key: it was changed on its way; copy it again: {_ACCEPTED}")
    return text


def make_pair(name: str = "") -> KeyPair:
    """A fresh pair."""
    import zmq  # a configuration is checked without the transport

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode(), name)


def write_pair(pair: KeyPair, directory: Path) -> tuple[Path, Path]:
    """Write a pair as two files in `directory`; never over one that is there. Raises `UsageError`, OSError."""
    check_name("key", pair.name)
    secret, public = directory / f"{pair.name}{SECRET_SUFFIX}", directory / f"{pair.name}{PUBLIC_SUFFIX}"
    for path in (secret, public):
        if path.is_symlink() or path.exists():
            raise UsageError(f"{path} exists; a key is never written over: choose another name, or move it away first")
    about = f'name = "{pair.name}"\npublic_key = "{pair.public}"\n'
    _write(secret, SECRET_MODE, f'# Secret: whoever has it is {pair.name}.\n{about}secret_key = "{pair.secret}"\n')
    try:
        _write(public, PUBLIC_MODE, f"# To hand out.\n{about}")
    except OSError:
        with suppress(OSError):
            secret.unlink()
        raise
    return secret, public


def read_pair(path: str | os.PathLike[str]) -> KeyPair:
    """The pair in the file of a secret key. Raises `BadKey`: missing, readable by others, not ours, not a pair."""
    if os.fspath(path).endswith(PUBLIC_SUFFIX):
        raise BadKey(f"{path}: that is the key to hand out; give the secret one, which ends in {SECRET_SUFFIX}")
    table = _read(path, secret=True)
    secret, name = table.get("secret_key"), table.get("name", "")
    if not isinstance(secret, str):
        wanted = "give the file that ends in .key, not the one to hand out" if "public_key" in table else _MAKE_ONE
        raise BadKey(f"{path}: there is no secret_key in it; {wanted}")
    check_public_key(secret)
    import zmq

    public = zmq.curve_public(secret.encode()).decode()
    if table.get("public_key", public) != public:
        raise BadKey(f"{path}: its two keys are not a pair; restore the file, or make another pair")
    return KeyPair(public, secret, name if isinstance(name, str) else "", os.fspath(path))


def read_public(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The public keys in a file to hand out, or in that of a pair. Raises `BadKey`."""
    table = _read(path, secret=False)
    found = table.get("public_key")
    keys = [found] if isinstance(found, str) else found
    if not isinstance(keys, list) or not 1 <= len(keys) <= PUBLIC_KEYS_MAX:
        raise BadKey(f"{path}: there is no public_key in it; accepted: one key, or an array of up to {PUBLIC_KEYS_MAX}")
    return tuple(check_public_key(str(key)) for key in keys)


_MAKE_ONE = "make a pair: jlogd keys new NAME"


def _write(path: Path, mode: int, text: str) -> None:
    """A file that has its mode from the first moment, whatever the umask says, and is on disk when this returns."""
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, SECRET_MODE)
    with open(made, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fchmod(made, mode)
        os.fsync(made)


def _read(path: str | os.PathLike[str], secret: bool) -> dict[str, Any]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            _check_file(path, os.fstat(file.fileno()), secret)
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise BadKey(f"{path}: there is no such key file; {_MAKE_ONE}") from None
    except OSError as error:
        raise BadKey(f"{path}: the key cannot be read: {error.strerror}") from None
    try:
        if len(raw) > FILE_BYTES_MAX:
            raise ValueError("it is too long")
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadKey(f"{path}: this is not a key file: {error}; {_MAKE_ONE}") from None


def _check_file(path: str | os.PathLike[str], found: os.stat_result, secret: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadKey(f"{path}: this is not a file; {_MAKE_ONE}")
    if not secret:
        return
    if found.st_uid != os.geteuid():
        raise BadKey(
            f"{path}: a secret key must belong to the user who uses it: it is of uid {found.st_uid}, this process is "
            f"uid {os.geteuid()}; chown it, or make a pair of your own: jlogd keys new NAME"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise BadKey(
            f"{path}: others may read or change this secret key (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"accepted: 0600: chmod 600 {path}, and if they may have read it, make another pair"
        )


def _number(group: str) -> int:
    number = 0
    for character in group:
        number = 85 * number + _Z85.index(character)
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= KEY_CHARACTERS else f"{text[:KEY_CHARACTERS]}...")
