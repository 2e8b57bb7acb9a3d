"""Where each key of a TOML text stands."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from jlogd.daemon.toml_lines import DEPTH_MAX, key_lines, line_of

KEYS = st.sampled_from(["a", "b", "c-d", '"q.q"', "'lit[x]'", '"\\u0041\\""', "a.b", 'a . "x#"', "1", '""'])
SCALARS = st.sampled_from(
    [
        "1",
        "-1.5e3",
        "true",
        "inf",
        "1979-05-27 07:32:00",
        '"text # ] }"',
        "'lit \\'",
        '"\\"\\\\"',
        '""',
        "''",
        '"""\nmore\nlines"""',
        '"""a "quoted" ""two"" end\\""""',
        '"""""" ',
        '"""x"""""',
        "'''\n[not.a.table]\nk = 1\n'''",
        "'''it''s'''''",
        '"""\\\n   folded \\\\"""',
        '"""#\\\\"""',
    ]
)
VALUES_DEEP = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: "[ # ]\n " + ",\n\n # c ]\n".join(items) + ", \n]"),
        st.dictionaries(st.sampled_from(["x", '"y z"', "p.q"]), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + " }"
        ),
    ),
    max_leaves=6,
)
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES_DEEP),
    st.builds("  {}= {} # comment = 1".format, KEYS, VALUES_DEEP),
    st.builds("[{}]".format, KEYS),
    st.builds("[[ {} ]]  # x".format, KEYS),
    st.just("# [comment]\n\t"),
    st.just(""),
)


def all_paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= all_paths(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            found |= all_paths(item, (*path, at))
    return found


def keep_valid(statements: list[str]) -> str:
    """The statements that make a valid text, in order."""
    text = ""
    for statement in statements:
        try:
            tomllib.loads(text + statement + "\n")
        except tomllib.TOMLDecodeError:
            continue
        text += statement + "\n"
    return text


@given(st.lists(STATEMENTS, max_size=8).map(keep_valid), st.booleans())
def test_every_key_of_a_text_has_a_line(text: str, dos: bool) -> None:
    text = text.replace("\n", "\r\n") if dos else text
    lines = key_lines(text)
    assert set(lines) == all_paths(tomllib.loads(text))
    assert all(1 <= line <= text.count("\n") for line in lines.values())


@given(st.lists(STATEMENTS, max_size=8).map(keep_valid), VALUES_DEEP)
def test_the_line_is_where_the_key_stands(text: str, value: str) -> None:
    """A key of its own, put anywhere after any valid text, is found on exactly its line."""
    before = text + f"[marker]\nfirst = {value}\n"
    lines = key_lines(before + "here = 1\n[[rows]]\nk = 1\n[[rows]]\nk = [1,\n2]\n")
    at = before.count("\n") + 1
    assert lines["marker", "here"] == at
    assert lines["rows",] == lines["rows", 0] == at + 1 and lines["rows", 1] == at + 3
    assert lines["rows", 1, "k"] == lines["rows", 1, "k", 0] == at + 4 and lines["rows", 1, "k", 1] == at + 5


def test_deep_keys_cost_no_more_than_their_text() -> None:
    lines = key_lines("\n" + "a." * 50_000 + "a = [" + "[" * 100 + "]" * 100 + "]")
    assert max(map(len, lines)) == DEPTH_MAX and set(lines.values()) == {2}


def test_line_of_falls_back_to_the_table_above() -> None:
    assert line_of({("a",): 3}, ("a", "b", 0)) == 3 and line_of({}, ("a",)) == 0
