"""`docs/commands.md`, made from the commands themselves: `python -m jlogd.cli.docs > docs/commands.md`.

Which programs there are is read from pyproject.toml, so that nothing here knows the parts of the house that stand on
jlogd: the module of each program holds its root as `cli`. Only what this project wrote goes into the page, nothing that
click formats, so that it does not change with click's version.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

_INTRO = """\
# Commands

<!-- Made by `python -m jlogd.cli.docs > docs/commands.md`; a test says so when it is out of date. -->

`jlogd` is the daemon, `jlogctl` is everything one does to a log. `as_logger` counts what is in logs by source address,
and `cidr` answers queries about the counts; their [language](cidr.md) and [files](cidr-storage.md) have pages of their
own. All know `-h`, `--help` and `--version`.

**LOG** is a directory, such as `var/spool/mainlog`, or an address: `tcp://127.0.0.1:5140/mainlog` or
`ipc:///run/jlogd.sock/mainlog`, where the last part names the log. Every command takes both, but `check` and
`repair`, which work on the files themselves.

**Exit codes.** 0: done. 1: nothing found, or not healthy. 2: wrong usage. 3: failed, or interrupted before it was
done. A failure is one line on standard error that begins with `error:`; with `JLOGD_DEBUG=1` a traceback as well.
Results go to standard output, and nothing else does.

**PLACE** in a log: `begin`; `end`; a sequence number; `-N`, the record N before the end; a time in ISO 8601
(`2024-05-01T12:00:00Z`, local time when no zone is given); or how long ago: `-90s`, `-2h`, `-1d12h`. A time means
when a record was appended. Digits alone are always a sequence number.

**SIZE**: bytes, or a number with `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `KB`, `MB`, `GB`, `TB` (powers of
1000). **TIME**: `500ms`, `30s`, `15m`, `2h`, `1d12h`, `1w`.

**JSON.** With `--json` a command prints one object a line, with exact numbers: bytes, seconds, times as in the log.

**Root.** Run as root, `jlogctl` acts as the user that owns the log, so that it leaves no files behind that the daemon
could not open.

**Completion** of commands, options and paths; the same with `_JLOGD_COMPLETE` and `jlogd`:

| shell | file | line |
|---|---|---|
| bash | `~/.bashrc` | `eval "$(_JLOGCTL_COMPLETE=bash_source jlogctl)"` |
| zsh | `~/.zshrc` | `eval "$(_JLOGCTL_COMPLETE=zsh_source jlogctl)"` |
| fish | `~/.config/fish/completions/jlogctl.fish` | `_JLOGCTL_COMPLETE=fish_source jlogctl \\| source` |
"""

_FRAMING = """\
### Framings of `jlogctl append`

- `lines`: a record is a line without its newline. A carriage return stays, an empty line is an empty record, and the
  last line needs no newline. A line over 8 MiB stops the command.
- `length`: before each record its length in bytes, a u32, little-endian; then so many bytes, of any kind. A length
  over 8 MiB, or an end inside a record, stops the command.
- `json`: a record is a line that holds one JSON document (NDJSON), kept byte for byte. Blank lines are left out. A line
  that is not JSON stops the command.

Whatever stops it, the message says line (or record) and byte, and everything before that is in the log and durable:
the last but one line of standard error says how many records those are.
"""


def page() -> str:
    """The whole page."""
    parts = [_INTRO]
    for root in programs().values():
        for path, command in walk(root):
            parts.append(_section(path, command))
            if path == "jlogctl append":
                parts.append(_FRAMING)
    return "\n".join(parts)


def programs() -> dict[str, click.Command]:
    """The roots of the programs that pyproject.toml declares, jlogd's first. One without is a command of another."""
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    modules = {name: entry.partition(":")[0] for name, entry in table["project"]["scripts"].items()}
    order = sorted(modules, key=lambda name: (modules[name].split(".")[0] != "jlogd", list(modules).index(name)))
    roots = {name: getattr(import_module(modules[name]), "cli", None) for name in order}
    return {name: root for name, root in roots.items() if root is not None}


def walk(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of a program, groups before their commands, as (jlogctl subscriber add, command)."""
    path = f"{path} {command.name}".strip()
    yield path, command
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from walk(child, path)


def examples(command: click.Command) -> list[str]:
    """The command lines that its help shows."""
    _, _, shown = inspect.cleandoc(command.help or "").partition("Examples:\n")
    return [line.strip() for line in shown.splitlines() if line.strip()]


def _section(path: str, command: click.Command) -> str:
    text, _, _ = inspect.cleandoc(command.help or "").partition("\b\nExamples:")
    level = "#" * (2 + path.count(" "))
    lines = [f"{level} {path}", "", text.strip(), "", "```", _usage(path, command), "```", ""]
    options = [one for one in command.params if isinstance(one, click.Option) and one.name not in ("help", "version")]
    if options:
        lines += ["| option | |", "|---|---|", *(_option(one) for one in options), ""]
    lines += ["```sh", *examples(command), "```", ""]
    return "\n".join(lines)


def _usage(path: str, command: click.Command) -> str:
    words = [path]
    if any(isinstance(one, click.Option) for one in command.params):
        words.append("[OPTIONS]")
    words += [one.metavar or one.name or "" for one in command.params if isinstance(one, click.Argument)]
    if isinstance(command, click.Group):
        words.append("COMMAND ...")
    return " ".join(words)


def _option(option: click.Option) -> str:
    names = ", ".join(option.opts) + ("/" + ", ".join(option.secondary_opts) if option.secondary_opts else "")
    value = ""
    if isinstance(option.type, click.Choice):
        value = " " + "\\|".join(option.type.choices)
    elif not option.is_flag:
        value = f" {option.metavar}"
    notes = [option.help or ""]
    if option.show_default and option.default is not None:
        default = names.split("/")[not option.default] if option.is_flag else option.default
        notes.append(f"Default: {default}.")
    if option.required:
        notes.append("Required.")
    return f"| `{names}{value}` | {' '.join(notes)} |"


if __name__ == "__main__":
    print(page(), end="")
