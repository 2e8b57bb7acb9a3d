"""An expression over all records at once finds what it finds record by record."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cidr import lines
from cidr.extract import Extractor, Records, Rule
from cidr.lines import over_lines
from jlogd.errors import FormatError
from jlogd.journal.batch import encode, from_body

# Letters that expressions and records share, of every class there is; bytes around the newline and beyond ASCII.
CHARACTERS = "aAb1_ .-\t\r\x0b\x0c\x09\xff"
ATOMS = [
    "a", "b", "1", "_", " ", r"\.", ".", "[ab]", "[^a]", "[^ab1]", "[a-b1]", r"[\x00-\x20]", r"[^\x0b-\xff]", r"[\s-]",
    r"[^\s]",
    r"[\D1]", r"\s", r"\S", r"\d", r"\D", r"\w", r"\W", r"[\W\d]", "^", "$", r"\A", r"\Z", r"\b", r"\B", "",
    r"\n", r"[\n]", r"[a\n]", r"[^\n]", r"\x09", "(?!)",
]  # fmt: skip
WRAPS = [
    "(?:{})", "({})", "({})?", "(?:{})*", "(?:{})+?", "(?:{}){{1,2}}", "(?={})", "(?!{})", "(?>{})", "(?:{})?+",
    "(?i:{})", "(?s:{})", "(?m:{})", "(?:{})*+",
]  # fmt: skip
BEHIND = ["(?<=a)", "(?<!a)", r"(?<=[^a])", r"(?<!\s)", r"(?<=^)", r"(?<!.)", r"(?<=\W)"]

atoms = st.sampled_from(ATOMS) | st.sampled_from(BEHIND)
expressions = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map("|".join)
        | st.builds(lambda wrap, text: wrap.format(text), st.sampled_from(WRAPS), inner)
    ),
    max_leaves=8,
)
records = st.lists(st.text(CHARACTERS, max_size=6).map(lambda text: text.encode("latin-1")), max_size=5)
FLAGS = ["", "(?i)", "(?s)", "(?m)", "(?x)", "(?ims)"]
TAILS = ["", r"\1", "(?(1)a|b)", "(?(1)a)", "(?P=ip)"]


def by_record(expression: bytes, found: Sequence[bytes]) -> list[object]:
    pattern = re.compile(expression)
    matches = [match for match in map(pattern.search, found) if match is not None]
    return [match[1] or b"" if pattern.groups == 1 else match.groups(b"") for match in matches]


@settings(max_examples=800)
@given(st.sampled_from(FLAGS), expressions, expressions, st.sampled_from(TAILS), records)
@example("", "", r"\d*", "", [b"a", b"", b"1a1"])  # an empty match at the end of a record is not a second one
@example("", "[^a]", "b", "", [b"a", b"b"])
@example("", r"a\s*", "b", "", [b"a", b"b"])
@example("(?s)", ".*", "b", "", [b"a", b"b"])
@example("", "$", "", "", [b"", b"a"])
@example("", "", "(?:a|ab)", "", [b"ab"])
def test_over_lines_is_record_by_record(flags: str, before: str, group: str, tail: str, found: list[bytes]) -> None:
    expression = f"{flags}(?:{before})(?P<ip>{group}){tail}".encode("latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "possible nested set" and the like: what `re` says of odd expressions
        try:
            wanted = by_record(expression, found)
        except re.error:
            return
        whole = over_lines(expression)
    if whole is not None:
        assert whole.findall(b"".join(record + b"\n" for record in found)) == wanted


@pytest.mark.parametrize(
    "expression",
    [
        rb"@R@.*@(?P<ip>[0-9a-fA-F.:]+)@.*spam",
        rb"^(?P<time>[0-9]+)@.*@R@.*@(?P<ip>[0-9a-fA-F.:]+)@.*spam$",
        rb"Failed password for .* from (?P<ip>\S+)",
        rb"client=[^[]*\[(?P<ip>[^\]]+)\]",
        rb"(?i)rejected\s+(?P<ip>\S+)\b(?!.*whitelisted)",
        rb"\A(?:a|b)(?P<ip>\W\D?)\Z",
    ],
)
def test_what_people_write_runs_over_all_records_at_once(expression: bytes) -> None:
    assert over_lines(expression) is not None


@pytest.mark.parametrize("expression", [rb"a\n(?P<ip>b)", rb"\B(?P<ip>b)", rb"(?L)(?P<ip>\w)", rb"(?P<ip>[\n])"])
def test_what_is_not_known_is_given_up(expression: bytes) -> None:
    assert over_lines(expression) is None


def test_without_the_private_parser_records_do_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_parser", None)
    rule = Extractor(Rule(log="x", series="s", match=r"from (?P<ip>\S+)"))
    assert rule.addresses(Records(encode([b"from 1.1.1.1 from 2.2.2.2", b"from 3.3.3.3"]))) == [b"1.1.1.1", b"3.3.3.3"]


@settings(max_examples=100)
@given(
    st.sampled_from([
        r"(?P<ip>a+)", r"(?P<ip>a+)(?P<n>1?)", r"(?P<n>1)?.*?(?P<ip>[^ ]+)", r"(b)?(?P<time>1)?(?P<ip>a|_)?",
        "(x)?(?P<ip>a)",
    ]),
    st.lists(st.text("ab1 _\n", max_size=6).map(str.encode), min_size=1, max_size=6),
)  # fmt: skip
def test_events_are_those_of_each_record(match: str, found: list[bytes]) -> None:
    rule, pattern = Extractor(Rule(log="x", series="s", match=match)), re.compile(match.encode())
    matches = [one for one in map(pattern.search, found) if one is not None]
    named = [{name: one.groupdict().get(name) or b"" for name in ("ip", "time", "n")} for one in matches]
    batch = Records(encode(found))
    if rule.plain:
        assert rule.addresses(batch) == [one["ip"] for one in named]
    wanted = Counter((one["ip"], one["time"], one["n"]) for one in named if one["ip"])
    assert rule.events(batch, []) == wanted


def test_a_batch_that_lies_about_its_records_is_refused() -> None:
    with pytest.raises(FormatError):
        Records(from_body(b"a\nb", 3))
    with pytest.raises(FormatError):
        Records(from_body(b"a\nb\nc\nd", 3))
    assert Records(from_body(b"a\n\nc", 3)).each == [b"a", b"", b"c"]
