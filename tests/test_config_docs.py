"""docs/configuration.md says all settings, as they are."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from config_support import DOCS

from jlogd.daemon.auth import Auth, AuthClient, Grants
from jlogd.daemon.config import UNIT_FIELDS, Config, Listen, LogConfig, Node, Sources, host_name
from jlogd.daemon.config_file import parse
from jlogd.daemon.reload import NEEDS_RESTART
from jlogd.daemon.units import Duration, Size
from jlogd.manager.config import ManagedNode, ManagerConfig, PullRule
from jlogd.sources.config import FileSource, StdinSource, SyslogSource

TABLES: dict[str, type[msgspec.Struct]] = {
    "[node]": Node,
    "[listen]": Listen,
    "[auth]": Auth,
    "[auth.keyless]": Grants,
    "[[auth.client]]": AuthClient,
    "[log.NAME]": LogConfig,
    "[[source.syslog]]": SyslogSource,
    "[[source.file]]": FileSource,
    "[[source.stdin]]": StdinSource,
    "[manager]": ManagerConfig,
    "[[manager.node]]": ManagedNode,
    "[[manager.pull]]": PullRule,
}


def documented() -> dict[str, dict[str, list[str]]]:
    """Heading -> setting -> [type, default, accepted, reload, ...] of the tables in docs/configuration.md."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in DOCS.read_text().splitlines():
        if heading := re.fullmatch(r"## `(.*)`", line):
            section = heading[1]
            found[section] = {}
        elif row := re.match(r"\| `(\w+)` \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]
            found[section][row[1]] = cells
    return found


def default_text(table: str, field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT and field.default_factory is host_name:
        return "the host's short name"
    if field.required:
        return "required"
    default = UNIT_FIELDS.get(field.name, lambda value: value)(field.default)
    if isinstance(default, Size | Duration):
        return f'`"{default}"`' if default else '`"none"`' if table == "[log.NAME]" else "`0`"
    if field.default is None:
        return "not given"
    if field.name == "socket_mode":
        return f"`0o{default:o}`"
    return f"`{json.dumps(default)}`"


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_is_documented_as_it_is(table: str) -> None:
    rows = documented()[table]
    fields = {field.encode_name: field for field in msgspec.structs.fields(TABLES[table])}
    if table == "[auth]":  # tables of their own
        del fields["keyless"], fields["client"]
    assert set(rows) == set(fields)
    for name, field in fields.items():
        assert rows[name][1] == default_text(table, field), (table, name)


@pytest.mark.parametrize("table", TABLES)
def test_the_docs_say_what_a_reload_applies(table: str) -> None:
    prefix = {"[node]": "node", "[listen]": "listen", "[log.NAME]": "log", "[manager]": "manager"}.get(table)
    prefix = table.strip("[]") if "auth" in table else prefix
    for name, row in documented()[table].items():
        setting = f"{prefix}.{name}" if prefix else table.strip("[]")
        needs_restart = setting in NEEDS_RESTART
        assert row[3].startswith("no" if needs_restart else "yes"), (table, name)


def test_every_table_of_the_configuration_is_documented() -> None:
    top = [field.name for field in msgspec.structs.fields(Config)]
    assert top == ["node", "listen", "auth", "log", "source", "manager"]
    kinds = [f"[[source.{field.name}]]" for field in msgspec.structs.fields(Sources)]
    auth = ["[auth]", "[auth.keyless]", "[[auth.client]]"]
    managers = ["[manager]", "[[manager.node]]", "[[manager.pull]]"]
    assert list(TABLES) == ["[node]", "[listen]", *auth, "[log.NAME]", *kinds, *managers]
    assert set(documented()) == set(TABLES)


def test_reasons_belong_to_settings() -> None:
    known = {
        f"{table}.{field}"
        for table, kind in (
            ("node", Node),
            ("listen", Listen),
            ("auth", Auth),
            ("log", LogConfig),
            ("manager", ManagerConfig),
        )
        for field in kind.__struct_fields__
    } | {f"source.{kind}" for kind in Sources.__struct_fields__}
    assert set(NEEDS_RESTART) <= known


def test_examples_in_the_docs_are_right() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert examples
    for text in examples:
        parse(text)
