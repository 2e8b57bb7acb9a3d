"""Who someone at the door is, and what they may do: `[auth]`, looked up for every message.

ZeroMQ knows, for every message, which user the gate (gate.py) found behind its connection. That text is all that is
trusted; what a client says of itself is for people.

    key:PUBLIC-KEY      whoever has the secret of it
    unix:UID:GID        a process on a unix socket, as the kernel says
    loopback            any process of this host
    insecure            anyone

Whatever is not granted is refused, before anything is looked up: who may not see a log does not learn whether it is
there. An `Access` never changes; a reload makes another one, and what it does not grant ends with the next message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Literal

from jlogd.daemon.auth import Auth, Grants
from jlogd.errors import NotAuthenticated, NotGranted
from jlogd.journal.types import NAME
from jlogd.wire import messages

Verb = Literal["append", "subscribe", "read", "admin"]
# Answers that are kept; a client that asks for more names than this asks for names at random.
_KNOWN_MAX = 4096

_VERBS: dict[type[object], tuple[Verb, ...]] = {
    messages.Append: ("append",),
    messages.Position: ("append",),
    messages.Stat: ("read", "admin"),
    messages.OpenLog: ("append", "subscribe", "read", "admin"),
    messages.CreateLog: ("admin",),
    messages.SubscriberAdd: ("admin",),
    messages.SubscriberRemove: ("admin",),
    messages.SubscriberSet: ("admin",),
    messages.SubscriberCaps: ("admin",),
    messages.SubscriberClone: ("admin",),
}
_WORDS = {"append": "append to", "subscribe": "subscribe to", "read": "read", "admin": "administer"}


class Party:
    """Someone with a name and grants."""

    def __init__(self, name: str, grants: Grants) -> None:
        self.name = name
        self._patterns = {
            "append": _matcher(grants.append),
            "read": _matcher(grants.read),
            "admin": _matcher(grants.admin),
        }
        self._subscribe = [_pair(pattern) for pattern in grants.subscribe]
        self._known: dict[tuple[Verb, str, str], bool] = {}

    def may(self, verb: Verb, log: str, subscriber: str = "") -> bool:
        """Whether `verb` is granted on `log`. To subscribe: as `subscriber`, or with "" as any at all."""
        asked = (verb, log, subscriber)
        known = self._known.get(asked)
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[asked] = self._may(verb, log, subscriber)
        return known

    def sees(self, log: str) -> bool:
        """Whether anything at all is granted on `log`."""
        return any(self.may(verb, log) for verb in ("append", "subscribe", "read", "admin"))

    def demand(self, message: messages.FromClient) -> None:
        """Raise `NotGranted` unless a message that names a log is granted."""
        log = getattr(message, "log", "")
        if isinstance(message, messages.Subscribe):
            self.demand_subscription(log, message.name)
        elif log and not any(self.may(verb, log) for verb in _VERBS[type(message)]):
            # What it was opened for is not known yet: it is granted none of them.
            *others, last = (_WORDS[verb] for verb in _VERBS[type(message)])
            what = f"{', '.join(others)} or {last}" if others else last
            raise NotGranted(f"{self.name} may not {what} log {_shown(log)}: {_HOW}")

    def demand_subscription(self, log: str, name: str) -> None:
        """Raise `NotGranted` unless it may consume from `log` as subscriber `name`, or without a name."""
        if name and not self.may("subscribe", log, name):
            raise NotGranted(f"{self.name} may not subscribe to log {_shown(log)} as {_shown(name)}: {_HOW}")
        if not name and not self.may("read", log):
            raise NotGranted(f"{self.name} may not read log {_shown(log)} without a subscriber's name: {_HOW}")

    def _may(self, verb: Verb, log: str, subscriber: str) -> bool:
        if not NAME.fullmatch(log) or (subscriber and not NAME.fullmatch(subscriber)):
            return False
        if verb == "subscribe":
            return any(
                logs.fullmatch(log) and (not subscriber or names.fullmatch(subscriber))
                for logs, names in self._subscribe
            )
        return bool(self._patterns[verb].fullmatch(log))


class Access:
    """The parties of a configuration, by what the gate says of a connection."""

    def __init__(self, auth: Auth | None = None) -> None:
        auth = auth or Auth()
        self.keyless = Party("a client without a key", auth.keyless)
        self._by_key: dict[str, Party] = {}
        self._by_uid: dict[int, Party] = {}
        self._by_gid: dict[int, Party] = {}
        for client in auth.client:
            party = Party(f"client {client.name}", client)
            self._by_key.update((key, party) for key in client.keys)
            if client.uid is not None:
                self._by_uid[client.uid] = party
            if client.gid is not None:
                self._by_gid[client.gid] = party

    def knows(self, public_key: str) -> bool:
        """Whether the key is that of a client."""
        return public_key in self._by_key

    def party(self, user: str) -> Party:
        """Who is behind a connection. Raises `NotAuthenticated` when it is nobody (any more)."""
        kind, _, rest = user.partition(":")
        found: Party | None = None
        if kind == "key":
            found = self._by_key.get(rest)
        elif kind == "unix":
            uid, _, gid = rest.partition(":")
            found = self._by_uid.get(_number(uid)) or self._by_gid.get(_number(gid)) or self.keyless
        elif kind in ("loopback", "insecure"):
            found = self.keyless
        if found is None:
            raise NotAuthenticated("the daemon does not know the key of this client (any more)")
        return found

    def name_of(self, user: str, peer: str) -> str:
        """Whom metrics and messages name: a client by its name, others by address or by user id."""
        kind, _, rest = user.partition(":")
        if kind == "key" and rest in self._by_key:
            return self._by_key[rest].name.removeprefix("client ")
        return f"uid {rest.partition(':')[0]}" if kind == "unix" else peer


_HOW = "its grants are in [[auth.client]], or [auth.keyless], of the daemon's configuration"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for all patterns; without any, one that nothing matches."""
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns) or r"(?!)")


def _pair(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    log, _, name = pattern.partition(":")
    return _matcher([log]), _matcher([name])


def _shown(name: str) -> str:
    return name if NAME.fullmatch(name) else repr(name)
