"""Commands whose libraries are an extra of the distribution: without them they say so in one line, and no more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from jlogd.version import VERSION


def demand(what: str, extra: str, libraries: Sequence[str]) -> None:
    """End the process with exit code 3 unless all `libraries` of the extra can be imported. Its version it tells."""
    missing = [library for library in libraries if _is_missing(library)]
    if missing and sys.argv[1:] == ["--version"]:
        print(f"{Path(sys.argv[0]).name} {VERSION}")
        sys.exit(0)
    if missing:
        install = f"pip install 'jlogd[{extra}]', or pip install '.[{extra}]' in a checkout of jlogd"
        print(f"error: {what} need {', '.join(missing)}: {install}", file=sys.stderr)
        sys.exit(3)


def _is_missing(library: str) -> bool:
    try:
        return find_spec(library) is None
    except ValueError:  # it is known to be none
        return True
