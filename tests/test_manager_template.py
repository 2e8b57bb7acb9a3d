"""Path templates: what they give, what they refuse, and that nothing they give leaves its base directory."""

from __future__ import annotations

import os
import time
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.manager.ledger import KEY_BYTES_MAX
from jlogd.manager.template import CONVERSIONS, PATH_BYTES_MAX, SUFFIX_BYTES, Origin, Template

EAST1 = Origin("east1", "east", "mainlog", "mgr1")
# 2009-11-23 22:58:59.9 UTC
MOMENT = 1_259_017_139_900_000_000

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
WORDS = st.sampled_from(
    [
        "logs",
        "a b",
        "%%",
        "-",
        ".",
        "..",
        "...",
        "%{node}",
        "%{log}",
        "%{subcluster}",
        "%{manager}",
        "%{n}",
        "%{l}",
        "%{s}",
    ]
    + [f"%{letter}" for letter in CONVERSIONS]
)
TEXTS = st.lists(st.one_of(WORDS, st.just("/"), st.text("ab_%{}/.", max_size=4)), min_size=1, max_size=12).map("".join)


def template(text: str) -> Template | None:
    try:
        return Template(text, "utc")
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/var/log/eccluster/%Y/%m/%d/%{l}/%{s}/%{n}", "/var/log/eccluster/2009/11/23/mainlog/east/east1"),
        ("/var/log/cluster/%Y/%m/%d/%{log}/%{subcluster}/%{node}", "/var/log/cluster/2009/11/23/mainlog/east/east1"),
        ("var/%F-%H%M%S.%{manager}", "var/2009-11-23-225859.mgr1"),
        ("/a/100%%-%{node}", "/a/100%-east1"),
        ("/a/%{node}%{log}", "/a/east1mainlog"),
    ],
)
def test_what_a_template_gives(text: str, path: str) -> None:
    assert Template(text, "utc").expand(EAST1, MOMENT) == path


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "/a/", "/a/../b", "/a/./b", "../a", "/a/%", "/a/%{nod}", "/a/%{node", "/a/%c", "/a/%x", "/a/%D",
        "/a/%n", "/a/%n\n", "/a\0", "/a/\x1b[2J", "/a/%{}", "/a/%-d",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a path with"):
        Template(text)


def test_the_zone_is_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert Template("%d-%H%M", "local").expand(EAST1, MOMENT) == "24-0428"
        assert Template("%d-%H%M", "utc").expand(EAST1, MOMENT) == "23-2258"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "base"),
    [("/a/b/%Y/%{node}", "/a/b"), ("/a/b/c", "/a/b"), ("x", "."), ("%{node}", "."), ("/%{node}", "/"), ("a%Y/b", ".")],
)
def test_the_base(text: str, base: str) -> None:
    assert str(Template(text).base) == base


@given(TEXTS, NAMES, NAMES, NAMES, st.integers(0, 2**62))
def test_nothing_leaves_the_base(text: str, node: str, subcluster: str, log: str, moment: int) -> None:
    made = template(text)
    if made is None:
        return
    try:
        path = made.expand(Origin(node, subcluster, log, "m"), moment)
    except ValueError:  # too long
        return
    normal = os.path.normpath(path)
    base = str(made.base)
    assert PurePosixPath(normal).is_relative_to(base) or (base == "." and not normal.startswith(("/", "..")))
    assert ".." not in path.split("/") and path.isprintable()
    assert len(path.encode()) + SUFFIX_BYTES <= PATH_BYTES_MAX < KEY_BYTES_MAX - 30


@given(TEXTS, st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10**14)), max_size=20))
def test_what_is_remembered_is_what_would_be_made_anew(text: str, moments: list[tuple[str, int]]) -> None:
    made = template(text)
    if made is None:
        return
    for node, seconds in moments:
        origin = Origin(node, "s", "l", "m")
        fresh = Template(text, "utc")
        assert made.expand(origin, seconds * 10**7) == fresh.expand(origin, seconds * 10**7)


@given(NAMES, NAMES)
def test_different_names_have_different_paths(one: str, other: str) -> None:
    made = Template("/a/%{node}/%{log}")
    paths = {made.expand(Origin(node, "s", "l", "m"), 0) for node in (one, other)}
    assert len(paths) == len({one, other})
