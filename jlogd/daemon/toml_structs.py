"""Reading a TOML text into msgspec structs, with every mistake named: file, line, field, found, accepted.

msgspec stops at the first mistake and knows no lines. So the structs only declare (types, limits, defaults), and this
module walks the parsed text beside them: tables it opens itself, single values it leaves to `msgspec.convert`.

A field says what it accepts in `msgspec.Meta(description=...)`; without one the text is made from its type. What no
type says, that a text is an address or a time within bounds, a `Checked` in its annotation does. A struct may refuse a
combination in `__post_init__` by raising ValueError or an error of jlogd; "FIELD: reason" points at that field.

No locks; pure functions.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec

from jlogd.daemon.toml_lines import Path, key_lines, line_of
from jlogd.daemon.units import DURATION_ACCEPTED, SIZE_ACCEPTED, Duration, Size, parse_duration, parse_size
from jlogd.errors import ConfigError, JlogError

S = TypeVar("S", bound=msgspec.Struct)

# A configuration is written by hand; more than this is a wrong file (a log, say) given by mistake.
TEXT_BYTES_MAX = 256 << 10
# The first mistakes are worth reading; a thousand of the same kind are not.
MISTAKES_SHOWN_MAX = 20
_FOUND_CHARACTERS_MAX = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_AT_END = " (at end of document)"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with the value (or the table) at `path`."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """An annotation: `check` raises ValueError, whose text is what is accepted, for a value that is wrong by itself."""

    check: Callable[[Any], object]


class TomlText:
    """A parsed text that remembers its lines only once there is a mistake to report."""

    def __init__(self, text: str, origin: str) -> None:
        self.origin = origin
        self.text = text.removeprefix("\ufeff")
        if len(text) > TEXT_BYTES_MAX:
            raise ConfigError(
                f"{origin}: found {len(text)} characters; accepted: a configuration of at most {TEXT_BYTES_MAX}"
            )
        try:
            self.table = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(self._syntax(str(error))) from None
        except RecursionError:
            raise ConfigError(
                f"{origin}: arrays or tables are nested too deeply; no setting needs more than three"
            ) from None
        except ValueError as error:
            # Python refuses to convert numbers of more than 4300 digits.
            raise ConfigError(f"{origin}: not valid TOML: {error}") from None

    def _syntax(self, message: str) -> str:
        at = _AT_LINE.search(message)
        if at:
            return f"{self.origin}:{at[1]}: not valid TOML: {printable(message[: at.start()])} (column {at[2]})"
        last = self.text.rstrip("\n").count("\n") + 1
        return (
            f"{self.origin}:{last}: not valid TOML: {printable(message.removesuffix(_AT_END))} (at the end of the file)"
        )

    def error(self, mistakes: Iterable[Mistake]) -> ConfigError:
        """All mistakes, one per line, in the order of the file."""
        try:
            lines = key_lines(self.text)
        except (ValueError, RecursionError):
            lines = {}
        located = sorted(
            {(line_of(lines, mistake.path), path_text(mistake.path), mistake.reason) for mistake in mistakes}
        )
        shown = [
            f"{self.origin}:{line}: {path}: {reason}" if line else f"{self.origin}: {path}: {reason}"
            for line, path, reason in located[:MISTAKES_SHOWN_MAX]
        ]
        if len(located) > MISTAKES_SHOWN_MAX:
            shown.append(f"{self.origin}: and {len(located) - MISTAKES_SHOWN_MAX} more mistakes")
        return ConfigError("\n".join(shown))


def text_of(path: str | os.PathLike[str]) -> str:
    """The text in the configuration file at `path`. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{error.object[error.start]:02x}"
        raise ConfigError(f"{path}:{line}: not valid TOML: {found}; accepted: text in UTF-8") from None


def read_struct(
    kind: type[S],
    table: Mapping[str, object],
    mistakes: list[Mistake],
    path: Path = (),
    units: Mapping[str, type] | None = None,
) -> S | None:
    """`table` as a `kind`; None when something was wrong, which is then in `mistakes`.

    `units` names fields that are read as Size or Duration although their struct only says int or float.
    """
    units = units or {}
    before = len(mistakes)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            mistakes.append(Mistake((*path, key), "unknown setting; " + nearest(key, fields, "accepted")))
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in table:
            values[field.name] = _value(units.get(name, field.type), table[name], mistakes, (*path, name), units)
        elif field.required:
            mistakes.append(Mistake((*path, name), f"missing; accepted: {accepted(units.get(name, field.type))}"))
    if len(mistakes) > before:
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError, JlogError) as error:
        name, colon, reason = str(error).partition(": ")
        at_field = bool(colon) and name in fields
        mistakes.append(Mistake((*path, name) if at_field else path, reason if at_field else str(error)))
        return None


def _value(kind: object, value: object, mistakes: list[Mistake], path: Path, units: Mapping[str, type]) -> object:
    """`value` converted to `kind`, and right by itself; else a mistake is noted and None returned."""
    before = len(mistakes)
    converted = _converted(kind, value, mistakes, path, units)
    for annotation in getattr(kind, "__metadata__", ()) if len(mistakes) == before else ():
        if isinstance(annotation, Checked):
            try:
                annotation.check(converted)
            except ValueError as error:
                mistakes.append(Mistake(path, f"found {found_text(value)}; accepted: {error}"))
                return None
    return converted


def _converted(kind: object, value: object, mistakes: list[Mistake], path: Path, units: Mapping[str, type]) -> object:
    """`value` converted to `kind`; when it cannot be, a mistake is noted and None returned."""
    bare = _bare(kind)
    origin, arguments = get_origin(bare), get_args(bare)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        if isinstance(value, dict):
            return read_struct(bare, value, mistakes, path, units)
    elif origin is dict and isinstance(value, dict):
        for key in value:
            _value(arguments[0], key, mistakes, (*path, key), units)
        return {key: _value(arguments[1], item, mistakes, (*path, key), units) for key, item in value.items()}
    elif origin in (list, tuple) and isinstance(value, list):
        before = len(mistakes)
        items = [_value(arguments[0], item, mistakes, (*path, at), units) for at, item in enumerate(value)]
        if len(mistakes) > before or _is_struct(arguments[0]):
            return cast(type, origin)(items)
    try:
        return msgspec.convert(value, cast(Any, kind), dec_hook=_convert_unit)
    except (msgspec.ValidationError, ValueError, JlogError):
        mistakes.append(Mistake(path, f"found {found_text(value)}; accepted: {accepted(kind, value)}"))
        return None


def _convert_unit(kind: type, value: object) -> object:
    if kind is Size:
        return parse_size(cast(str, value))
    if kind is Duration:
        return parse_duration(cast(str, value))
    raise NotImplementedError(kind)


def _bare(kind: object) -> object:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _is_struct(kind: object) -> bool:
    bare = _bare(kind)
    return isinstance(bare, type) and issubclass(bare, msgspec.Struct)


def accepted(kind: object, value: object = None) -> str:
    """What a setting of that type accepts, in words; a `value` that was refused gives a more exact answer."""
    if get_origin(kind) is Annotated:
        base, *annotations = get_args(kind)
        described = [meta.description for meta in annotations if isinstance(meta, msgspec.Meta) and meta.description]
        limits = [_limits(meta) for meta in annotations if isinstance(meta, msgspec.Meta)]
        return described[-1] if described else accepted(base, value) + "".join(limits)
    if kind in (Size, Duration):
        try:
            _convert_unit(cast(type, kind), value)
        except ValueError as error:
            return str(error)
        return SIZE_ACCEPTED if kind is Size else DURATION_ACCEPTED
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return choices(str(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(accepted(argument, value) for argument in arguments if argument is not type(None))
    if origin in (list, tuple):
        return "tables ([[...]])" if _is_struct(arguments[0]) else f"an array; each item {accepted(arguments[0])}"
    if origin is dict or _is_struct(kind):
        return "a table"
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(cast(type, kind), getattr(kind, "__name__", str(kind)))


def _limits(meta: msgspec.Meta) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    given = [(word, getattr(meta, name)) for name, word in words.items()]
    lengths = [("of at least", meta.min_length, "items"), ("of at most", meta.max_length, "items")]
    text = "".join(f", {word} {limit}" for word, limit in given if limit is not None)
    return text + "".join(f", {word} {limit} {unit}" for word, limit, unit in lengths if limit is not None)


def choices(words: Iterable[str]) -> str:
    """`"a", "b" or "c"`."""
    *most, last = [json.dumps(word) for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean X?`, or `otherwise: X, Y, Z` when nothing known is near to `name`."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100].lower(), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"{otherwise}: {', '.join(names[:20]) or 'none'}"


def printable(text: str) -> str:
    """`text` on one line, with what a terminal might act on escaped."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def found_text(value: object) -> str:
    """A value as it would stand in the file, short and on one line."""
    if isinstance(value, str):
        cut = value if len(value) <= _FOUND_CHARACTERS_MAX else value[:_FOUND_CHARACTERS_MAX] + "..."
        return printable(json.dumps(cut, ensure_ascii=False))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a number beyond 64 bits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    return str(value)


def path_text(path: Path) -> str:
    """`("log", "main.log", "subscribers", 0)` -> `log."main.log".subscribers[0]`."""
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts.append(f"[{key}]")
            continue
        shown = key if _BARE_KEY.fullmatch(key) and len(key) <= _FOUND_CHARACTERS_MAX else found_text(key)
        parts.append(f".{shown}" if parts else shown)
    return "".join(parts) or "the file"
