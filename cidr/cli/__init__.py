"""The commands `cidr` and `as_logger`. Thin: they parse, call the library and print.

Their libraries are an extra of the distribution; without it a command says so in one line.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

_LIBRARIES = (
    "jinja2",
    "lark",
    "numpy",
    "PIL",
    "prompt_toolkit",
    "pyarrow",
    "regex",
    "sqlite_utils",
    "starlette",
    "uvicorn",
)


def _is_missing(library: str) -> bool:
    try:
        return find_spec(library) is None
    except ValueError:  # it is known to be none
        return True


if _missing := [library for library in _LIBRARIES if _is_missing(library)]:
    print(f"error: counts need {', '.join(_missing)}: pip install 'jlogd[cidr]'", file=sys.stderr)
    sys.exit(3)
