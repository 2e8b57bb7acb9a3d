"""How input is cut into records: any way the blocks fall, the same records; what is wrong is named with its place."""

from __future__ import annotations

import itertools
import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jlogd.cli.framing import InputError, Part, count_of, framer, without_first
from jlogd.journal.batch import RECORD_BYTES_MAX

CUTS = st.lists(st.integers(0, 400), max_size=12)


def blocks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [block for start, end in itertools.pairwise(edges) if (block := data[start:end])]


def records_of(part: Part) -> list[bytes]:
    return part.split(b"\n")[:-1] if isinstance(part, bytes) else part


def read(framing: str, pieces: list[bytes]) -> tuple[list[bytes], str]:
    """All records given out, and the mistake, if there was one."""
    found: list[bytes] = []
    cut = framer(framing)
    try:
        for piece in pieces:
            for part in cut.feed(piece):
                assert count_of(part) == len(records_of(part))
                found += records_of(part)
        for part in cut.finish():
            found += records_of(part)
    except InputError as error:
        return found, str(error)
    return found, ""


@given(st.binary(max_size=300), CUTS)
@example(b"", [])
@example(b"\n", [])
@example(b"no newline at the end", [3])
@example(b"a\r\n\n\x00\xff\n", [2, 2])
def test_lines(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert read("lines", blocks(data, cuts)) == (expected, "")


@given(st.lists(st.binary(max_size=60), max_size=8), CUTS)
def test_lengths(records: list[bytes], cuts: list[int]) -> None:
    data = b"".join(struct.pack("<I", len(record)) + record for record in records)
    assert read("length", blocks(data, cuts)) == (records, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(JSON, max_size=6), CUTS, st.booleans())
def test_json_documents_are_kept_byte_for_byte(values: list[object], cuts: list[int], blanks: bool) -> None:
    documents = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    between = b"\n  \n\n" if blanks else b"\n"
    assert read("json", blocks(between.join(documents), cuts)) == (documents, "")


@given(st.binary(max_size=200), CUTS)
def test_no_bytes_break_a_framer(data: bytes, cuts: list[int]) -> None:
    for framing in ("lines", "length", "json"):
        whole = read(framing, [data] if data else [])
        assert read(framing, blocks(data, cuts)) == whole


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nul", "truncated"),
        (b"nulx", "malformed"),
        (b'{"a":1', "truncated"),
        (b'{"a":1} {"b":2}', "trailing"),
        (b'"\xff"', "utf-8"),
        (b"01", "malformed"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_is_not_json_is_named(bad: bytes, why: str) -> None:
    good = [b'{"n":1}', b'{"n":2}']
    found, mistake = read("json", [b"\n".join(good) + b"\n\n" + bad + b'\n{"n":3}\n'])
    assert found == good
    assert mistake.startswith("line 4 (byte 17) is not a JSON document")
    assert why in mistake.lower()


def test_a_wrong_line_in_a_later_block_has_the_right_number() -> None:
    found, mistake = read("json", [b"1\n2\n3", b"3\n", b"4\nfive\n"])
    assert found == [b"1", b"2", b"33", b"4"]
    assert mistake.startswith("line 5 (byte 9) ") and "'five'" in mistake


def test_a_line_over_the_limit_is_named_and_the_lines_before_it_are_kept() -> None:
    long = b"x" * (RECORD_BYTES_MAX + 1)
    whole = b"one\ntwo\n" + long + b"\nfour\n"
    for size in (len(whole), 1 << 20, 3 << 20):
        found, mistake = read("lines", [whole[at : at + size] for at in range(0, len(whole), size)])
        assert found == [b"one", b"two"]
        assert mistake == f"line 3 (byte 8) is longer than {RECORD_BYTES_MAX} bytes, the limit of a record"
    assert read("lines", [b"one\n" + long])[0] == [b"one"]


def test_a_line_of_exactly_the_limit_is_a_record() -> None:
    line = b"x" * RECORD_BYTES_MAX
    for size in (1 << 20, len(line) + 2):
        data = line + b"\n" + line
        found, mistake = read("lines", [data[at : at + size] for at in range(0, len(data), size)])
        assert (list(map(len, found)), mistake) == ([RECORD_BYTES_MAX] * 2, "")


def test_lengths_that_cannot_be_are_named() -> None:
    good = struct.pack("<I", 3) + b"abc"
    found, mistake = read("length", [good + good + b"GET / HTTP/1.1\r\n"])
    assert found == [b"abc", b"abc"]
    assert mistake.startswith("record 3 (byte 14) claims 542393671 bytes") and "little-endian" in mistake
    for tail in (b"\x01", b"\x05\x00\x00\x00abc"):
        found, mistake = read("length", [good, tail])
        assert found == [b"abc"]
        assert mistake == f"the input ends inside record 2 (byte 7): {len(tail)} bytes are left over"


@given(
    st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line), min_size=1, max_size=6), st.integers(0, 6)
)
def test_the_first_records_can_be_left_out(lines: list[bytes], skip: int) -> None:
    skip = min(skip, len(lines))
    assert without_first(lines, skip) == lines[skip:]
    assert without_first(b"".join(line + b"\n" for line in lines), skip) == b"".join(
        line + b"\n" for line in lines[skip:]
    )
