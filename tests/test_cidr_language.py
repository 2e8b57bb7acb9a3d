"""The query language: what is accepted, what it means, how a mistake is told, and that printing and parsing agree."""

from __future__ import annotations

import string
from zoneinfo import ZoneInfo

import pytest
from cidr_queries import NOW, at
from hypothesis import given
from hypothesis import strategies as st

from cidr.language import tree
from cidr.language.build import Context, build, inline_lists
from cidr.language.complete import complete
from cidr.language.errors import QueryError, nearest, width
from cidr.language.parser import describe, expected, parse
from cidr.types import (
    ALL_V4,
    ALL_V6,
    BLOCKS,
    BY_COUNT,
    HOSTS,
    Block,
    Column,
    CountQuery,
    Family,
    HeavyQuery,
    Levels,
    Minus,
    MoversQuery,
    Order,
    Query,
    Ratio,
    Series,
    Span,
    Union,
)

UTC = ZoneInfo("UTC")
SERIES = ("24-Hour_Block", "count", "ham", "limit", "spam", "spam6", "union", "virus")


def query(text: str, zone: ZoneInfo = UTC, now: int = NOW) -> Query:
    show = parse(text)
    assert isinstance(show, tree.Show)
    return build(text, show, Context(zone, now, SERIES))


def count(clauses: str, blocks: str = "0.0.0.0/0", columns: str = "spam", **options: object) -> CountQuery:
    found = query(f"show count for {blocks} in {columns} {clauses}", **options)  # type: ignore[arg-type]
    assert isinstance(found, CountQuery)
    return found


def mistake(text: str, zone: ZoneInfo = UTC) -> QueryError:
    with pytest.raises(QueryError) as caught:
        query(text, zone)
    return caught.value


# ---- what is accepted, and what it means -----------------------------------------------------------------------------


def test_the_whole_old_grammar():
    found = query(
        "show count for 10.0.0.0/8 in union(spam, virus) since 20080423 cidrsize 24 order by count limit 10 "
        "threshold 5 aggregate daily"
    )
    spam, virus = Series("spam"), Series("virus")
    assert found == CountQuery(
        blocks=(Block(Family.V4, 10 << 24, 8),),
        columns=(Column("union(spam,virus)", Union((spam, virus))),),
        span=Span(at("20080423T000000"), NOW),
        levels=Levels(v4=(24,)),
        threshold=5,
        order=BY_COUNT,
        limit=10,
        every="day",
    )
    assert isinstance(parse("show available"), tree.Available)
    assert isinstance(parse("cache details"), tree.CacheDetails)


def test_clauses_come_in_any_order_and_keywords_in_any_case():
    first = "show count for ::/0 in spam limit 3 ORDER BY count since 20080423"
    second = "SHOW COUNT for ::/0 In spam Since 20080423 order by count limit 3"
    assert query(first) == query(second)
    assert str(parse(first)) == str(parse(second))


@pytest.mark.parametrize("name", ["limit", "union", "count", "24-Hour_Block", '"limit"'])
def test_words_of_the_language_are_names_of_series_too(name):
    assert count("limit 5", columns=name).columns == (Column(name.strip('"'), Series(name.strip('"'))),)


@pytest.mark.parametrize(
    ("blocks", "wanted"),
    [
        ("10.0.0.0/8, 192.0.2.0/24", (Block(Family.V4, 10 << 24, 8), Block(Family.V4, 0xC0000200, 24))),
        ("[2001:DB8::]/32", (Block(Family.V6, 0x20010DB8 << 96, 32),)),
        ("all", (ALL_V4, ALL_V6)),
        ("0.0.0.0/0, ::/0, 0.0.0.0/0", (ALL_V4, ALL_V6)),
        ("::ffff:10.0.0.0/104", (Block(Family.V4, 10 << 24, 8),)),
    ],
)
def test_blocks(blocks, wanted):
    assert count("", blocks=blocks).blocks == wanted


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ("spam, virus", [Column("spam", Series("spam")), Column("virus", Series("virus"))]),
        ("spam minus ham", [Column("minus(spam,ham)", Minus(Series("spam"), Series("ham")))]),
        ("minus(spam, ham)", [Column("minus(spam,ham)", Minus(Series("spam"), Series("ham")))]),
        (
            "ratio(spam, union(spam, ham))",
            [Column("ratio(spam,union(spam,ham))", Ratio(Series("spam"), Union((Series("spam"), Series("ham")))))],
        ),
        ("~^spam", [Column("spam", Series("spam")), Column("spam6", Series("spam6"))]),
        ("spam, ~^(spam|ham)", [Column(name, Series(name)) for name in ("spam", "ham", "spam6")]),
        ("*", [Column(name, Series(name)) for name in SERIES]),
        ("union(~^spam)", [Column("union(~^spam)", Union((Series("spam"), Series("spam6"))))]),
        ("union(spam)", [Column("union(spam)", Series("spam"))]),
    ],
)
def test_columns(columns, wanted):
    assert list(count("", columns=columns).columns) == wanted


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("clause", "start", "end"),
    [
        ("on 20080424", "20080424T000000", "20080425T000000"),
        ("on 2008-04-24", "20080424T000000", "20080425T000000"),
        ("on today", "20080425T000000", "20080426T000000"),
        ("on yesterday", "20080424T000000", "20080425T000000"),
        ("on -3d", "20080422T000000", "20080423T000000"),
        ("since 20080423", "20080423T000000", "20080425T120000"),
        ("since -6h", "20080425T060000", "20080425T120000"),
        ("since -1d12h", "20080424T000000", "20080425T120000"),
        ("since today", "20080425T000000", "20080425T120000"),
        ("from 20080423T120000 to 20080423T1300", "20080423T120000", "20080423T130000"),
        ("from 2008-04-23T12:00:30 to now", "20080423T120030", "20080425T120000"),
        ("from 20080423 to 20080424", "20080423T000000", "20080424T000000"),
        ("from 20080423T120000Z to 20080423T150000+0100", "20080423T120000", "20080423T140000"),
    ],
)
def test_times(clause, start, end):
    assert count(clause).span == Span(at(start), at(end))


def test_no_time_is_all_there_is():
    assert count("").span is None


def test_days_are_those_of_the_zone_and_may_be_shorter_or_longer():
    assert count("on 20080424", zone=BERLIN).span == Span(at("20080423T220000"), at("20080424T220000"))
    spring, autumn = count("on 20080330", zone=BERLIN).span, count("on 20071028", zone=BERLIN).span
    assert spring and autumn and (spring.seconds, autumn.seconds) == (23 * 3600, 25 * 3600)


def test_until_now_ends_with_the_last_whole_minute():
    assert count("since today", now=NOW + 59).span == count("since today", now=NOW).span


@pytest.mark.parametrize(
    ("clause", "blocks", "levels"),
    [
        ("", "all", HOSTS),
        ("cidrsize 24", "10.0.0.0/8", Levels(v4=(24,))),
        ("cidrsize 16 to 18", "10.0.0.0/8", Levels(v4=(16, 17, 18))),
        ("cidrsize 48", "2001:db8::/32", Levels(v6=(48,))),
        ("cidrsize 24/64", "all", Levels((24,), (64,))),
        ("cidrsize 8/32 to 9/33", "all", Levels((8, 9), (32, 33))),
        ("cidrsize 24/64", "10.0.0.0/8", Levels(v4=(24,))),
        ("cidrsize blocks", "all", BLOCKS),
    ],
)
def test_prefix_lengths(clause, blocks, levels):
    assert count(clause, blocks=blocks).levels == levels


@pytest.mark.parametrize(
    ("clause", "order"),
    [
        ("order by cidr", Order()),
        ("order by count", BY_COUNT),
        ("order by count ascending", Order("column", 0, True)),
        ("order by count descending", BY_COUNT),
        ("order by 2", Order("column", 1)),
        ("order by virus", Order("column", 1)),
        ("order by hosts", Order("hosts")),
    ],
)
def test_order(clause, order):
    found = count(clause, columns="spam, virus")
    assert found.order == order
    assert found.hosts == (order.by == "hosts")


def test_shares_hosts_and_thresholds():
    found = count("percent cumulative distinct hosts threshold -2.5 aggregate")
    assert (found.share, found.hosts, found.threshold, found.every) == (True, True, -2.5, None)
    # Beyond 2^53 fractions know every second whole number only.
    assert count("threshold 9007199254740993").threshold == (1 << 53) + 1
    assert query("show heavy for 10.0.0.0/12 in spam threshold 9007199254740993").least == (1 << 53) + 1
    assert count("cumulative").share and not count("").share


def test_heavy_and_movers():
    heavy = query("show heavy for 10.0.0.0/12 in spam since 20080423 threshold 5% cidrsize 16 to 24 limit 3")
    assert isinstance(heavy, HeavyQuery)
    assert (heavy.least, heavy.percent, heavy.shortest[0], heavy.longest[0], heavy.limit) == (5, True, 16, 24, 3)
    plain = query("show heavy for 10.0.0.0/12 in spam")
    assert isinstance(plain, HeavyQuery) and (plain.least, plain.percent, plain.shortest) == (1, True, (12, 16))
    movers = query("show top movers for 0.0.0.0/0 in spam between yesterday and -6h to now cidrsize 24")
    assert isinstance(movers, MoversQuery)
    assert movers.before == Span(at("20080424T000000"), at("20080425T000000"))
    assert movers.after == Span(at("20080425T060000"), at("20080425T120000"))
    assert (movers.levels, movers.limit) == (Levels(v4=(24,)), 10)


def test_lists_of_blocks():
    def resolved(text: str, *lines: str) -> tuple[Block, ...]:
        show = parse(text)
        assert isinstance(show, tree.Show)
        inlined = inline_lists(text, show, lambda path: {"x y": "\n".join(lines)}[path])
        assert "@" not in str(inlined) and parse(str(inlined)) == inlined
        return build(text, inlined, Context(UTC, NOW, SERIES)).blocks

    ten = Block(Family.V4, 10 << 24, 8)
    host = Block(Family.V4, 0xC0000201, 32)
    assert resolved('show count for list @"x y", ::/0 in spam', "# head", "10.0.0.0/8", " 192.0.2.1 # me") == (
        ten,
        host,
        ALL_V6,
    )
    inside = 'show count for 10.0.0.0/8 in spam in list @"x y"'
    assert resolved(inside, "0.0.0.0/0", "10.1.0.0/16") == (ten,)
    assert resolved(inside, "10.1.0.0/16", "192.0.2.1", "::/0") == (Block(Family.V4, (10 << 24) + (1 << 16), 16),)
    for lines, word in ((["192.0.2.1"], "no block of the list"), ([], "holds no blocks"), (["10.1/8"], "line 1")):
        with pytest.raises(QueryError, match=word):
            resolved(inside, *lines)


# ---- mistakes --------------------------------------------------------------------------------------------------------

BASE = "show count for 10.0.0.0/8 in spam "
MISTAKES = [
    # query, the marked word, what the message says
    ("", "", "the query is empty; expected: cache, explain, show"),
    ("shwo count", "shwo", "did you mean show?"),
    ("show count 10.0.0.0/8 in spam", "10.0.0.0/8", "expected: for"),
    ("show count for 10.0.0.0/8 in spam cidersize 24", "cidersize", "did you mean cidrsize?"),
    ("show count for 10.0.0.0/8 in viruss", "viruss", 'unknown series "viruss"; did you mean virus?'),
    ("show count for 10.0.0.0/8 in xyz", "xyz", "expected: 24-Hour_Block, count, ham"),
    ("show count for 10.0.0.0/8 in union(spam, viruss)", "viruss", "did you mean virus?"),
    ("show count for 10.0.0.0/8 in ~xyz", "~xyz", "no series matches ~xyz"),
    ("show count for 10.0.0.0/8 in ~[", "~[", "is not a regular expression"),
    ("show count for 10.0.0.0/8 in spam, spam", "spam", "spam is there twice"),
    ("show count for 10.0.0.0/8 in union(ratio(spam, ham), ham)", "ratio(spam, ham)", "a ratio is no count"),
    ('show count for 10.0.0.0/8 in "spam', '"spam', "the quote is not closed"),
    ("show count for 10.0.0.0 in spam", "10.0.0.0", "a block has a prefix length: write 10.0.0.0/32"),
    ("show count for 10.0.0.1/8 in spam", "10.0.0.1/8", "the block is 10.0.0.0/8"),
    ("show count for 10.0.0.0/33 in spam", "10.0.0.0/33", "not a prefix length"),
    ("show count for 10.0.0.999/8 in spam", "10.0.0.999/8", "not an IPv4 or IPv6 address"),
    (BASE + "since", "", "the query ends too early; expected: now, today, yesterday, a date"),
    (BASE + "since yesterda", "yesterda", "did you mean yesterday?"),
    (BASE + "since 20081340", "20081340", "month must be in 1..12"),
    (BASE + "since 2008", "2008", "no date"),
    (BASE + "since 20990101", "20990101", "nothing is counted yet"),
    (BASE + "on 20990101", "20990101", "lies in the future"),
    (BASE + "from 20080424 to 20080423", "20080423", "ends before it begins; write 20080423 to 20080424"),
    (BASE + "from 20080424 to 20080424", "20080424", "no time lies between"),
    (BASE + "cidrsize 4", "4", "cidrsize 4 is wider than the /8 asked about; use 8 to 32"),
    (BASE + "cidrsize 33", "33", "at most 32 bits"),
    (BASE + "cidrsize 24 to 16", "16", "from the shorter prefix to the longer: 16 to 24"),
    ("show count for all in spam cidrsize 24", "24", "say both prefix lengths, such as 24/48"),
    (BASE + "order count", "count", "expected: by"),
    (BASE + "order by 2", "order by 2", "there is no column 2; there are 1: spam"),
    (BASE + "order by spamm", "spamm", "did you mean spam?"),
    (BASE + "limit 5 limit 6", "limit 6", "limit is given twice: limit 5, and limit 6"),
    (BASE + "on 20080424 since 20080423", "since 20080423", "the time is given twice"),
    (BASE + "limit 0", "0", "from 1"),
    (BASE + "limit 1.5", "1.5", "whole number"),
    (BASE + "threshold 5%", "5%", "expected: a number"),
    ("show heavy for 10.0.0.0/8 in spam, ham", ",", "only one column"),
    ("show heavy for 10.0.0.0/8 in spam threshold 101%", "threshold 101%", "more than 100%"),
    ("show heavy for 10.0.0.0/8 in spam threshold 0", "threshold 0", "above 0"),
    ("show top movers for 10.0.0.0/8 in spam", "", "add, for example, between yesterday and today"),
    ("show top movers for 10.0.0.0/8 in spam between -1h and today", "-1h", "is an instant"),
    ("show count for list @x in spam", "list @x", "cannot be read here"),
    ("show available now", "now", "expected: the end"),
    ("show count for all in ~(fa", "~", "brackets are not closed, or the regular expression needs quotes"),
    ("show count for all in ~fa(il limit 5", "(", "the regular expression needs quotes"),
    ("show count for all in ~((a|b)c|d)", "~", "the regular expression needs quotes"),
    ("show count for all in union(~a, ~b(c d))", "(", "the regular expression needs quotes"),
    ('show count for all in ~"(fa', "~", "the quote is not closed"),
]


@pytest.mark.parametrize(("text", "word", "message"), MISTAKES, ids=[one[0] or "empty" for one in MISTAKES])
def test_a_mistake_is_told_at_its_place(text, word, message):
    error = mistake(text)
    assert error.exit_code == 2
    assert message in error.explanation()
    marked = text[error.mark.start : error.mark.end]
    assert marked == word
    query_line, carets = error.caret("cidr> ").splitlines()
    assert query_line == f"cidr> {text}"
    assert carets.index("^") == 6 + error.mark.start
    assert carets.split(" ", 6 + error.mark.start)[-1].startswith("^" * max(1, len(word)) + " ")


def test_the_caret_stands_under_its_word_whatever_is_before_it():
    wide = mistake('show count for 10.0.0.0/8 in "\u6f22\u5b57", viruss')
    assert "\u6f22" in wide.caret() and wide.mark.start == 29
    second = mistake("show count for 10.0.0.0/8 in spam\n\tlmit 5")
    assert second.caret().splitlines()[0] == " lmit 5" and second.caret().splitlines()[1].startswith(" ^^^^ ")
    hostile = mistake("show count for 10.0.0.0/8 in spam \x1b[31m\x07")
    assert "\x1b" not in hostile.caret() + str(hostile) and "\x07" not in hostile.caret()
    assert width("a\u6f22e\u0301") == 4


def test_a_regular_expression_cannot_keep_the_server_busy():
    text = r"show count for 10.0.0.0/8 in ~(a+)+b"
    show = parse(text)
    assert isinstance(show, tree.Show)
    with pytest.raises(QueryError, match=r"takes too long|no series"):
        build(text, show, Context(UTC, NOW, ["a" * 200]))
    assert "at most 200" in mistake("show count for 10.0.0.0/8 in ~" + "a" * 201).explanation()


def test_depth_and_length_are_bounded():
    deep = "union(" * 5000 + "spam" + ")" * 5000
    assert "nested deeper than 16" in mistake(f"show count for ::/0 in {deep}").explanation()
    assert "nested deeper" in mistake("show count for ::/0 in " + " minus ".join(["spam"] * 5000)).explanation()
    assert "the limit is" in mistake("x" * (1 << 21)).explanation()
    assert "at most 64" in _too_many_columns().explanation()


def _too_many_columns() -> QueryError:
    text = "show count for ::/0 in *"
    show = parse(text)
    assert isinstance(show, tree.Show)
    with pytest.raises(QueryError) as caught:
        build(text, show, Context(UTC, NOW, [f"s{number}" for number in range(65)]))
    return caught.value


def test_the_nearest_name():
    assert nearest("SPAM", ["ham", "spam"]) == "spam"
    assert nearest("zzz", ["ham", "spam"]) == ""


# ---- printing, parsing, completing -----------------------------------------------------------------------------------

names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=8).filter(lambda s: s[0] not in ".-")
words = st.one_of(names, st.sampled_from(["limit", "since", "union", "minus", "list", "in", "order"]))
quoted = st.text(
    st.characters(codec="utf-8", exclude_characters='"\n\r', exclude_categories=["C"]), min_size=1, max_size=6
)
series = st.one_of(words, quoted.map(lambda text: f'"{text}"'))
expressions = st.recursive(
    st.one_of(series, st.just("*"), st.sampled_from(["~^spam", "~(a|b)$", '~"x y"'])),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"union({', '.join(parts)})"),
        st.tuples(inner, inner).map(lambda two: f"minus({two[0]} , {two[1]})"),
        st.tuples(inner, series).map(lambda two: f"{two[0]} minus {two[1]}"),
    ),
    max_leaves=6,
)
columns = st.one_of(expressions, st.tuples(expressions, expressions).map(lambda two: f"ratio({two[0]},{two[1]})"))
blocks = st.sampled_from(["10.0.0.0/8", "[2001:DB8::]/32", "::/0", "all", "list @a.txt", 'list @"a b"'])
dates = st.sampled_from(
    ["20080424", "2008-04-24", "20080424t1200", "20080424T120000Z", "-6h", "-1d12h", "today", "Yesterday", "now"]
)
time_clauses = st.one_of(
    dates.map("since {}".format),
    dates.map("on {}".format),
    st.tuples(dates, dates).map(lambda d: f"from {d[0]} to {d[1]}"),
)
other_clauses = st.one_of(
    st.sampled_from(
        [
            "cidrsize 24", "cidrsize 24/64", "cidrsize 16 to 24", "cidrsize blocks", "aggregate", "aggregate daily",
            "order by cidr", "order by count ascending", 'order by "count"', "order by 2", "order by x descending",
            "limit 10", "threshold -2.5", "distinct hosts", "percent", "cumulative", "in list @f",
        ]
    )
)  # fmt: skip
stretches = st.one_of(dates, st.tuples(dates, dates).map(lambda d: f"{d[0]} to {d[1]}"))


@st.composite
def statements(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["count", "count", "heavy", "top movers"]))
    text = f"show {kind} for {', '.join(draw(st.lists(blocks, min_size=1, max_size=3)))} in "
    if kind == "count":
        text += ", ".join(draw(st.lists(columns, min_size=1, max_size=3)))
        clauses = draw(st.lists(other_clauses, max_size=4, unique_by=lambda one: one.split()[0]))
        clauses += draw(st.lists(time_clauses, max_size=1))
    elif kind == "heavy":
        text += draw(expressions)
        clauses = [
            *draw(st.lists(time_clauses, max_size=1)),
            *draw(st.sampled_from([[], ["threshold 5%"], ["limit 3"]])),
        ]
    else:
        text += draw(expressions)
        clauses = [f"between {draw(stretches)} and {draw(stretches)}", *draw(st.sampled_from([[], ["cidrsize 24"]]))]
    return " ".join([draw(st.sampled_from(["", "explain "])) + text, *draw(st.permutations(clauses))])


@given(statements())
def test_printing_and_parsing_is_the_identity(text):
    first = parse(text)
    printed = str(first)
    assert parse(printed) == first
    assert str(parse(printed)) == printed


@given(statements(), st.data())
def test_every_beginning_of_a_query_says_what_may_follow(text, data):
    pieces = text.split(" ")
    beginning = " ".join(pieces[: data.draw(st.integers(0, len(pieces) - 1))])
    if beginning.count('"') % 2 or beginning.endswith(","):
        return
    assert describe(expected(beginning))


@given(st.one_of(st.text(max_size=60), statements()), st.data())
def test_no_text_is_a_traceback(text, data):
    """Random text, and queries with a piece cut out, doubled or put elsewhere: a tree, or a mistake in its place."""
    if text:
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        junk = data.draw(
            st.sampled_from(["", text[start:end] * 2, '"', "(", ",", "@", "~", "9" * 400, "\x00", "\u6f22"])
        )
        text = text[:start] + junk + text[end:]
    try:
        found = parse(text)
        if isinstance(found, tree.Explain):
            found = found.show
        if isinstance(found, tree.Show):
            build(text, inline_lists(text, found, lambda _: "10.0.0.0/8"), Context(BERLIN, NOW, SERIES))
    except QueryError as error:
        assert 0 <= error.mark.start <= len(text)
        assert error.explanation() and "^" in error.caret()
    complete(text, SERIES)


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("", ["show", "cache", "explain"]),
        ("sh", ["show"]),
        ("show ", ["available", "count", "heavy", "top"]),
        (BASE, ["aggregate", "cidrsize", "limit", "since", "minus", "in"]),
        (BASE + "ord", ["order"]),
        (BASE + "order by ", ["cidr", "count", "hosts", "spam"]),
        ("show count for 10.0.0.0/8 in v", ["virus"]),
        ("show count for 10.0.0.0/8 in union(spam,vi", ["virus"]),
        ("show count for 10.0.0.0/8 in union", ["union("]),
        ("show count for 10.7", ["10.79.18.0/24"]),
        (BASE + "since y", ["yesterday"]),
        (BASE + "cidrsize ", ["24", "blocks"]),
        (BASE + "in ", ["list @"]),
    ],
)
def test_completion(text, some):
    found = [one.text for one in complete(text, SERIES, ["10.79.18.0/24"])]
    assert set(some) <= set(found)
    assert all(one.replaced <= len(text) for one in complete(text, SERIES))


def test_completion_offers_only_what_is_accepted():
    for text in (BASE, BASE + "order ", "show count for 10.0.0.0/8 in "):
        for one in complete(text, SERIES, ["10.0.0.0/8"]):
            expected(text[: len(text) - one.replaced] + one.text.replace("list @", "list @x"))
    assert complete("show xyz ", SERIES) == []


def test_what_follows_a_name_in_quotes_is_offered():
    for name in ('"a b"', '~"^a(b|c)"', '"\U0001f600"'):
        found = complete(f"show count for all in {name}, sp", ["spam"])
        assert [(one.text, one.replaced) for one in found] == [("spam", 2)]
        assert "cidrsize" in [one.text for one in complete(f"show count for all in {name} ", ["spam"])]
    assert [one.text for one in complete('show count for all in "a b', ["a b c"])] == ['"a b c"']
