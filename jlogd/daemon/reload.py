"""What a reload (SIGHUP) can apply and what needs a restart: a pure comparison of two configurations.

`NEEDS_RESTART` is the whole rule for single settings; the table in docs/configuration.md is tested against it.
Sources are compared whole: one that changed is removed and added again, and a followed file goes on from its own
durable position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec.structs import fields

from jlogd.daemon.config import UNIT_FIELDS, Config, LogConfig, source_names
from jlogd.daemon.toml_structs import found_text, path_text
from jlogd.daemon.units import Duration, Size
from jlogd.errors import ConfigError

# Setting (table.field) -> why a running daemon cannot change it. Every other setting is applied by a reload.
NEEDS_RESTART: dict[str, str] = {
    "node.name": "open sockets, metrics and producers carry the name of the node",
    "node.subcluster": "the name of the subcluster can be part of the spool's path",
    "node.spool": "the logs are open in the old spool",
    "node.spool_identity": "it is looked at when the spool is opened, at the start",
    "node.take_over": "a spool is taken over at the start, or by jlogctl takeover",
    "node.state": "the ledger is open in the old directory",
    "listen.zmq": "clients are connected to the old sockets",
    "listen.http_open": "the socket was bound at the start",
    "listen.socket_mode": "the unix sockets were made at the start",
    "auth.insecure": "it decides which addresses are listened on, and how",
    "auth.loopback": "clients are connected to the old sockets",
    "listen.http": "the socket was bound at the start",
    "source.stdin": "standard input cannot be opened a second time",
    "manager.name": "the name is that of the subscribers in use",
    "manager.file_mode": "files are open with the old mode",
    "manager.dir_mode": "files are open with the old mode",
    "manager.time_zone": "files are open under names of the old zone",
    "manager.compress_closed": "files are kept as they were when the manager started",
    "manager.open_files_max": "it was set when the manager started",
    "manager.key": "the links to the nodes were made with the old key",
    "manager.insecure": "the links to the nodes were made with it",
    "manager.memory": "it was divided among the nodes when they were connected",
}
_LOG_REMOVED = "writers and subscribers may be using the log; its files stay in the spool in any case"
_SUBSCRIBER_REMOVED = (
    "its unread records could be lost; remove it with `jlogctl subscriber remove LOG NAME` (a restart keeps it too)"
)

Action = Literal["add", "remove", "change"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` names it: ("listen", "http"), ("log", NAME), ("log", NAME, FIELD),
    ("log", NAME, "subscribers", SUBSCRIBER), ("auth", "client", NAME) or ("source", KIND). `old` and `new` are the
    values, None where there is none: text and numbers, a LogConfig, or the struct of a source or a client. `reason`
    says why it is not applied."""

    action: Action
    path: tuple[str, ...]
    old: Any = None
    new: Any = None
    reason: str = ""

    def __str__(self) -> str:
        old, new = (_shown(value, self.path[-1]) for value in (self.old, self.new))
        what = path_text(self.path)
        if self.action == "change":
            text = f"{what}: {old} -> {new}"
        else:
            detail = new if self.action == "add" else old
            text = f"{what}: {'added' if self.action == 'add' else 'removed'}{f' ({detail})' if detail else ''}"
        return f"{text}: {self.reason}" if self.reason else text


def reload_plan(old: Config, new: Config) -> tuple[list[Change], list[Change]]:
    """(changes to apply, changes that need a restart or a command, with the reason), each in an order safe to apply:
    logs before what uses them, removals of sources before additions."""
    changes = [*_table("node", old.node, new.node), *_table("listen", old.listen, new.listen), *_auth(old, new)]
    changes += _logs(old, new)
    changes += _sources(old, new)
    changes += _manager(old, new)
    return [change for change in changes if not change.reason], [change for change in changes if change.reason]


def in_effect(running: Config, new: Config) -> Config:
    """What runs once `new` was reloaded: all of it but what needs a restart, which stays as it is running. Only so is
    the next reload compared with what runs, and a setting that was put back is told as unchanged.

    `auth` is the new one whole: what listeners demand was settled at the start, and a key beside insecure is no `auth`.
    Raises ConfigError when a new source has the name that standard input keeps until the restart.
    """
    kept = {
        name: _kept(name, getattr(running, name), getattr(new, name))
        for name in ("node", "listen", "source", "manager")
        if name != "manager" or running.manager.node  # a manager that is made now has every setting
    }
    config = msgspec.structs.replace(new, **kept)
    names = source_names(config)
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"source {name}: standard input has that name until the restart; choose another name")
    return config


def _kept(name: str, running: msgspec.Struct, new: msgspec.Struct) -> msgspec.Struct:
    fields = [field for field in new.__struct_fields__ if f"{name}.{field}" in NEEDS_RESTART]
    return msgspec.structs.replace(new, **{field: getattr(running, field) for field in fields})


def _table(name: str, old: msgspec.Struct, new: msgspec.Struct) -> list[Change]:
    return [
        Change("change", (name, field), before, after, NEEDS_RESTART.get(f"{name}.{field}", ""))
        for field in old.__struct_fields__
        if (before := getattr(old, field)) != (after := getattr(new, field))
    ]


def _auth(old: Config, new: Config) -> list[Change]:
    changes = [change for change in _table("auth", old.auth, new.auth) if change.path != ("auth", "client")]
    before = {client.name: client for client in old.auth.client}
    after = {client.name: client for client in new.auth.client}
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            action: Action = "change" if name in before and name in after else "add" if name in after else "remove"
            changes.append(Change(action, ("auth", "client", name), before.get(name), after.get(name)))
    return changes


def _logs(old: Config, new: Config) -> list[Change]:
    changes = [Change("add", ("log", name), None, log) for name, log in new.log.items() if name not in old.log]
    for name, before in old.log.items():
        after = new.log.get(name)
        if after is None:
            changes.append(Change("remove", ("log", name), before, None, _LOG_REMOVED))
        elif after != before:
            changes += _log(name, before, after)
    return changes


def _log(name: str, old: LogConfig, new: LogConfig) -> list[Change]:
    changes = []
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if field != "subscribers" and before != after:
            changes.append(Change("change", ("log", name, field), before, after, NEEDS_RESTART.get(f"log.{field}", "")))
    path = ("log", name, "subscribers")
    changes += [Change("add", (*path, added)) for added in new.subscribers if added not in old.subscribers]
    changes += [
        Change("remove", (*path, removed), reason=_SUBSCRIBER_REMOVED)
        for removed in old.subscribers
        if removed not in new.subscribers
    ]
    return changes


def _sources(old: Config, new: Config) -> list[Change]:
    removed, added = [], []
    for kind in old.source.__struct_fields__:
        reason = NEEDS_RESTART.get(f"source.{kind}", "")
        before, after = list(getattr(old.source, kind)), list(getattr(new.source, kind))
        for source in list(before):
            if source in after:
                before.remove(source)
                after.remove(source)
        removed += [Change("remove", ("source", kind), source, None, reason) for source in before]
        added += [Change("add", ("source", kind), None, source, reason) for source in after]
    return removed + added


def _manager(old: Config, new: Config) -> list[Change]:
    before, after = old.manager, new.manager
    changes = [
        change if before.node else replace(change, reason="")  # without one there was nothing to restart
        for change in _table("manager", before, after)
        if change.path[1] not in ("node", "pull")
    ]
    for field in ("node", "pull"):
        was, becomes = getattr(before, field), getattr(after, field)
        changes += [Change("remove", ("manager", field), one) for one in was if one not in becomes]
        changes += [Change("add", ("manager", field), None, one) for one in becomes if one not in was]
    return changes


def _shown(value: Any, name: str = "") -> str:
    """The value of the setting `name` as it would stand in the file; of a table, what is not as it is by default."""
    if value is None or isinstance(value, LogConfig):
        return ""
    if isinstance(value, int | float) and name in UNIT_FIELDS:
        value = UNIT_FIELDS[name](value)
    if isinstance(value, Size | Duration):
        return f'"{value}"'
    if isinstance(value, int) and name.endswith("_mode"):
        return f"0o{value:o}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(found_text(item) for item in value) + "]"
    if isinstance(value, msgspec.Struct):
        said = (
            (one.name, getattr(value, one.name)) for one in fields(value) if getattr(value, one.name) != one.default
        )
        return ", ".join(f"{one} = {_shown(item, one)}" for one, item in said)
    return found_text(value)
