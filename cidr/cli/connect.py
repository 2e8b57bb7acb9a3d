"""From the options of a command line to something that answers queries: a directory here, or a server."""

from __future__ import annotations

import os
from pathlib import Path

from cidr.ask import Asking, Local, read_file
from cidr.cli.options import TOKEN_VARIABLE
from jlogd.errors import UsageError

TOKEN_BYTES_MAX = 4096


def connect(base_dir: Path, server: str | None, token_file: Path | None) -> Asking:
    """Raises `StoreNotFound`, `UsageError`."""
    if server:
        from cidr.client import Remote

        return Remote(server, token(token_file), read_file)
    # Needs pyarrow, which takes longer to load than a server to answer.
    from cidr.engine import Engine
    from cidr.memory import keep_freed_memory

    keep_freed_memory()
    return Local(Engine(base_dir), str(base_dir), read_file)


def token(file: Path | None) -> str:
    """The token in a file, or in the environment; a command line would show it to every user of the machine."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    text = file.read_text()[:TOKEN_BYTES_MAX].strip()
    if not text:
        raise UsageError(f"{file} holds no token")
    return text
