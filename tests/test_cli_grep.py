"""An expression over a whole body finds what it finds record by record."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jlogd.cli.grep import PATTERN_BYTES_MAX, Grep
from jlogd.errors import UsageError
from jlogd.journal.batch import LINES, compress, encode

PIECES = [
    "a", "b", "c", ".", r"\s", r"\S", r"\w", r"\W", r"\b", r"\B", "^", "$", r"\A", r"\Z", "[^a]", "[ab]", "(?:", "(",
    ")", "|", "*", "+", "?", "*?", "++", "{2}", "(?=a)", "(?!b)", "(?<=a)", "(?<!b)", "(?i)", "(?s)", r"\n", r"\r", " ",
    r"\1", "(?>a*)",
]  # fmt: skip
RECORDS = st.lists(st.text("ab c\r", max_size=6).map(str.encode), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), RECORDS)
@example("", [b"", b"a", b""])
@example(r"a\s+b", [b"a", b"b", b"a b"])
@example("[^x]*c", [b"ab", b"c", b""])
@example("b$", [b"ab", b"ba"])
@example(r"c\Z", [b"c", b"a"])
def test_the_same_as_record_by_record(pattern: str, records: list[bytes]) -> None:
    try:
        alone = re.compile(pattern.encode())
    except re.error:
        return
    expected = [(at, record) for at, record in enumerate(records) if alone.search(record)]
    grep = Grep(pattern)
    assert grep.find(encode(records)) == expected
    assert grep.find(compress(encode(records * 50)))[: len(expected)] == expected


def test_records_with_newlines_are_searched_one_by_one() -> None:
    records = [b"one\ntwo", b"two", b"\x00\xff\n"]
    batch = encode(records)
    assert batch.encoding != LINES
    assert Grep("two").find(batch) == [(0, records[0]), (1, records[1])]
    assert Grep("^two").find(batch) == [(1, b"two")]


def test_bytes_that_are_no_text_can_be_searched_for() -> None:
    batch = encode([b"\xff\xfe", "größe".encode()])
    assert Grep("größe").find(batch) == [(1, "größe".encode())]
    assert Grep(r"\xff").find(batch) == [(0, b"\xff\xfe")]


@pytest.mark.parametrize("pattern", ["(", "*a", "[", "a{2,1}", r"(?P<n", "x" * (PATTERN_BYTES_MAX + 1)])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"regular expression|limit"):
        Grep(pattern)
