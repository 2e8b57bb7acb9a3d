"""The commands `cidr` and `as_logger`. Thin: they parse, call the library and print.

Their libraries are an extra of the distribution; without them a command says so in one line.
"""

from __future__ import annotations

from jlogd.cli.extras import demand

_LIBRARIES = ("jinja2", "lark", "numpy", "PIL", "prompt_toolkit", "pyarrow", "regex", "sqlite_utils", "starlette")
demand("counts", "cidr", (*_LIBRARIES, "uvicorn"))
