"""A cluster as a command sees it: read from the store at once, and changed with a compare.

No daemon is needed: any machine with the configuration and a way to the store can look and order.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cluster.errors import StoreUnavailable
from cluster.types import Delete, Operation, Store, Txn
from jlogd.cli.hints import near
from jlogd.errors import ConfigError, UsageError
from vip.clock import boot_ns, wall_seconds
from vip.config import Settings, load
from vip.errors import NotFound
from vip.records import Keys
from vip.situation import Plan
from vip.stores import opener
from vip.timing import PROFILES
from vip.units import Bundle
from vip.view import View

# Where a configuration is looked for when none is named, the first that is there.
PLACES = (Path("vip.toml"), Path("/etc/vip/vip.toml"))
# Seconds that one member may take.
WITHIN = 5.0
NAMES_TOLD_MAX = 10

T = TypeVar("T")


def find_config(path: Path | None) -> Path:
    """The configuration to use. Raises ConfigError when there is none."""
    if path is not None:
        return path
    for place in PLACES:
        if place.exists():
            return place
    raise ConfigError(f"there is neither {' nor '.join(map(str, PLACES))}; name the file with --config FILE")


class Cluster:
    """The store, and what stood in it last."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.plan = Plan.of(settings)
        self.keys = Keys(settings.cluster)
        self.store = store
        self.read()

    def read(self) -> None:
        """Read everything (again)."""
        self.view = View(self.keys, "", 0)
        self.view.sync(boot_ns(), self._any_member(lambda: self.store.read(self.keys.prefix, within=WITHIN)))
        self.wall = wall_seconds()

    def commit(self, *operations: Operation) -> None:
        """Write, whatever stood there before: so it may be written again by another member when no answer came."""
        self._any_member(lambda: self.store.commit(Txn((), operations), within=WITHIN))

    def _any_member(self, ask: Callable[[], T]) -> T:
        """The answer of the first member that gives one; a store goes on to the next by itself."""
        if self.settings.store != "etcd":
            return ask()
        failures = []
        for _ in self.settings.etcd:
            try:
                return ask()
            except StoreUnavailable as error:
                failures.append(str(error))
        raise StoreUnavailable(f"no member of etcd answers: {'; '.join(failures)}; {_without_store(self.settings)}")

    def node(self, name: str) -> str:
        """The name of a node that lives. Raises NotFound."""
        if name in self.view.sessions:
            return name
        alive = ", ".join(sorted(self.view.sessions)) or "none"
        raise NotFound(f"there is no live node {name}; alive: {alive}")

    def asked(self, word: str) -> str:
        """A node, a group, or an address in the text it is shown with. Raises NotFound for what is none of them."""
        groups, nodes, address = {group.name for group in self.settings.group}, self._nodes(), _address(word)
        if word in groups | nodes or address in self.plan.bundle_of:
            return address or word
        if address:
            raise NotFound(f"{word} is in no group of this configuration; vip show names all there are")
        close = near(word, sorted(groups | nodes))
        hint = f"did you mean {close}?" if close else f"groups: {_some(groups)}; nodes: {_some(nodes)}"
        raise NotFound(f"there is no address, group or node {word}; {hint}")

    def known(self, name: str) -> bool:
        """Whether a node lives, lived, is ordered about, or is named in this configuration."""
        return name in self._nodes()

    def _nodes(self) -> set[str]:
        owners = {own.record.node for own in self.view.owns.values()}
        preferred = {node for group in self.settings.group for node in group.prefer}
        view = self.view
        return {self.settings.node, *view.sessions, *view.gones, *view.drains, *owners, *preferred}

    def bundle(self, word: str) -> Bundle:
        """What an address, or the name of a group, is moved with. Raises NotFound, or UsageError for a spread group."""
        found = self.plan.bundle_of.get(word)
        if found is None:
            found = next((b for b in self.plan.bundles if word in b.groups and not _is_spread(b)), None)
        if found is None and any(word in bundle.groups for bundle in self.plan.bundles):
            raise UsageError(f"{word} is spread, each of its addresses moves for itself: name an address")
        if found is None:
            raise NotFound(f"{word} is neither an address nor a group that moves as one in this configuration")
        return found

    def drop(self, key: str) -> None:
        self.commit(Delete(key))


def _without_store(settings: Settings) -> str:
    """What becomes of addresses when nobody reaches the store, and what can be asked then."""
    window = float(settings.window) or PROFILES[settings.timing][1]
    ask = f": curl http://{settings.http}/healthz, or vip history" if settings.http else ""
    return (
        f"a node that reaches none either lets go of its addresses {window:g} s after its last heartbeat, and takes"
        f" them up again when it does; its daemon can be asked all the same{ask}"
    )


def _address(word: str) -> str:
    """An address in canonical text; "" for what is none."""
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return ""


def _some(names: Collection[str]) -> str:
    """The first of them by name; there may be thousands."""
    more = f" and {len(names) - NAMES_TOLD_MAX} more" if len(names) > NAMES_TOLD_MAX else ""
    return (", ".join(sorted(names)[:NAMES_TOLD_MAX]) or "none") + more


def _is_spread(bundle: Bundle) -> bool:
    return bundle.leader.name != bundle.leader.group


@contextmanager
def opened(path: Path | None) -> Iterator[Cluster]:
    """The cluster of a configuration."""
    settings = load(find_config(path))
    store = opener(settings)()
    try:
        yield Cluster(settings, store)
    finally:
        store.close()


def whoami() -> str:
    """Who orders, for those who read it later."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
