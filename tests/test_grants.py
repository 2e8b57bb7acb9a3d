"""Grants: what is not granted is refused, patterns match what they say, and every message is looked up."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.daemon.auth import Auth, AuthClient, Grants, demand_of
from jlogd.daemon.grants import Access, Party
from jlogd.errors import ConfigError, NotAuthenticated, NotGranted
from jlogd.wire import messages
from jlogd.wire.keys import make_pair

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
patterns = st.text("ab.-*?", min_size=1, max_size=6)
short_names = st.text("ab.-", min_size=1, max_size=6).filter(lambda name: name[0] in "ab")
VERBS = ("append", "read", "admin")

# Every message that names a log, and the grants each of which suffices for it.
NEEDS: list[tuple[messages.FromClient, set[str]]] = [
    (messages.Append(1, "x"), {"append"}),
    (messages.Position(1, "x", 5), {"append"}),
    (messages.Subscribe(1, "x", "name"), {"subscribe"}),
    (messages.Subscribe(1, "x"), {"read"}),
    (messages.Stat(1, "x"), {"read", "admin"}),
    (messages.OpenLog(1, "x"), {"append", "subscribe", "read", "admin"}),
    (messages.CreateLog(1, "x"), {"admin"}),
    (messages.SubscriberAdd(1, "x", "name"), {"admin"}),
    (messages.SubscriberRemove(1, "x", "name"), {"admin"}),
    (messages.SubscriberSet(1, "x", "name", 1), {"admin"}),
    (messages.SubscriberCaps(1, "x", "name"), {"admin"}),
    (messages.SubscriberClone(1, "x", "name", "other"), {"admin"}),
]


def matches(pattern: str, name: str) -> bool:
    """What a pattern means, by its definition."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])


@given(st.lists(patterns, max_size=4), short_names)
def test_a_pattern_matches_what_it_says(given_patterns: list[str], name: str) -> None:
    wanted = any(matches(pattern, name) for pattern in given_patterns)
    for verb in VERBS:
        party = Party("x", Grants(**{verb: tuple(given_patterns)}))
        assert party.may(verb, name) == wanted  # type: ignore[arg-type]
        assert [other for other in VERBS if other != verb and party.may(other, name)] == []  # type: ignore[arg-type]
        assert party.sees(name) == wanted


@given(st.lists(st.tuples(patterns, patterns), max_size=3), short_names, short_names)
def test_subscribing_needs_both_halves_of_one_pattern(pairs: list[tuple[str, str]], log: str, name: str) -> None:
    party = Party("x", Grants(subscribe=tuple(":".join(pair) for pair in pairs)))
    wanted = any(matches(logs, log) and matches(subscribers, name) for logs, subscribers in pairs)
    assert party.may("subscribe", log, name) == wanted
    assert not party.may("read", log) and not party.may("append", log) and not party.may("admin", log)


@given(st.text(max_size=12), st.text(max_size=12))
def test_what_is_no_name_is_granted_to_nobody(log: str, name: str) -> None:
    party = Party("x", Grants(append=("*",), subscribe=("*:*",), read=("*",), admin=("*",)))
    real = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", log) is not None
    for verb in VERBS:
        assert party.may(verb, log) == real  # type: ignore[arg-type]
    if not real:
        assert not party.may("subscribe", log, "name") and not party.may("subscribe", log)
        with pytest.raises(NotGranted):
            party.demand_subscription(log, name)


@pytest.mark.parametrize(("message", "needs"), NEEDS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("granted", ["append", "subscribe", "read", "admin"])
def test_each_message_needs_its_grant(message: messages.FromClient, needs: set[str], granted: str) -> None:
    party = Party("client web3", Grants(**{granted: ("x:name" if granted == "subscribe" else "x",)}))
    if granted in needs:
        party.demand(message)
    else:
        with pytest.raises(NotGranted, match=r"client web3 may not .*x"):
            party.demand(message)


def test_a_refusal_names_client_verb_and_log() -> None:
    party = Party("client web3", Grants(read=("other",)))
    for message, told in (
        (messages.Append(1, "x"), "client web3 may not append to log x: its grants are in"),
        (messages.OpenLog(1, "x"), "client web3 may not append to, subscribe to, read or administer log x: "),
        (messages.Stat(1, "x"), "client web3 may not read or administer log x: "),
        (messages.CreateLog(1, "x"), "client web3 may not administer log x: "),
    ):
        with pytest.raises(NotGranted, match=re.escape(told)):
            party.demand(message)


def test_no_message_that_names_a_log_is_forgotten() -> None:
    """A message added to the protocol must be added to the grants as well."""
    with_log = {kind for kind in messages.FromClient.__args__ if "log" in kind.__struct_fields__}
    assert with_log == {type(message) for message, _ in NEEDS}


def test_the_answers_that_are_kept_are_bounded() -> None:
    party = Party("x", Grants(append=("a*",)))
    for number in range(10_000):
        assert party.may("append", f"a{number}") and not party.may("append", f"b{number}")
    assert len(party._known) <= 4096


# Who someone is


def client(name: str, **options: object) -> AuthClient:
    return AuthClient(name=name, **options)  # type: ignore[arg-type]


def test_each_kind_of_peer_finds_its_grants() -> None:
    one, two = make_pair().public, make_pair().public
    access = Access(
        Auth(
            keyless=Grants(read=("open",)),
            client=(
                client("keyed", public_key=(one, two), append=("k",)),
                client("user", uid=1000, append=("u",)),
                client("group", gid=50, append=("g",)),
            ),
        )
    )
    assert access.party(f"key:{one}") is access.party(f"key:{two}")
    assert access.party(f"key:{one}").may("append", "k")
    assert access.party("unix:1000:50").may("append", "u")  # the user first
    assert access.party("unix:1001:50").may("append", "g")
    for user in ("unix:1001:51", "loopback", "insecure", "unix:?:?", "unix:-1:-1", "unix:"):
        assert access.party(user) is access.keyless and not access.party(user).may("append", "k")
    for user in (f"key:{make_pair().public}", "key:", "", "root", "keyless", "unix"[:3]):
        with pytest.raises(NotAuthenticated):
            access.party(user)


@given(st.text(max_size=60))
def test_nobody_becomes_a_client_by_what_is_said_of_him(user: str) -> None:
    access = Access(Auth(keyless=Grants(), client=(client("keyed", public_key=make_pair().public, admin=("*",)),)))
    with contextlib.suppress(NotAuthenticated):
        assert not access.party(user).may("admin", "x")


def test_without_a_table_whoever_has_no_key_may_do_everything_and_with_one_only_that() -> None:
    assert all(Access(Auth()).keyless.may(verb, "x") for verb in VERBS)  # type: ignore[arg-type]
    assert Access(Auth()).keyless.may("subscribe", "x", "name")
    assert not Access(Auth(keyless=Grants())).keyless.sees("x")


# What a listener demands


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://[::]:1", "tcp://[2001:db8::1]:1"])
def test_an_address_beyond_this_host_demands_a_key(address: str) -> None:
    assert demand_of(address, Auth(key="x")) == "key"
    assert demand_of(address, Auth(insecure=True)) == "insecure"
    with pytest.raises(ConfigError, match="needs a key of this daemon"):
        demand_of(address, Auth())


def test_this_host_demands_none_unless_it_should() -> None:
    for address in ("tcp://127.0.0.1:1", "tcp://127.3.4.5:1", "tcp://[::1]:1"):
        assert demand_of(address, Auth()) == demand_of(address, Auth(key="x")) == "loopback"
        assert demand_of(address, Auth(key="x", loopback="key")) == "key"
    assert demand_of("ipc:///run/x", Auth(key="x", loopback="key")) == "unix"


def test_a_name_is_not_listened_on() -> None:
    with pytest.raises(ConfigError, match="numeric"):
        demand_of("tcp://east1.example.com:1", Auth(key="x"))


@pytest.mark.parametrize(
    "options",
    [
        {"append": ("a/b",)}, {"append": ("",)}, {"read": ("[ab]",)}, {"admin": ("..\n",)}, {"subscribe": ("mainlog",)},
        {"subscribe": (":x",)}, {"subscribe": ("x:",)}, {"subscribe": ("a:b:c",)}, {"read": ("x" * 65,)},
        {"public_key": "short"}, {"uid": 1, "gid": 1}, {"uid": None},
    ],
)  # fmt: skip
def test_a_wrong_client_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        client("x", **{"uid": 1, **options})


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="insecure"):
        Auth(key="x", insecure=True)
    with pytest.raises(ConfigError, match="loopback"):
        Auth(loopback="key")
