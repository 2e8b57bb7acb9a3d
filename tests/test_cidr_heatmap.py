"""Heat maps: every block in its place, neighbours beside each other, and no data told apart from zero."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from ipaddress import IPv4Address
from xml.etree import ElementTree

import numpy as np
import pytest
from cidr_model import Model
from cidr_queries import NOW, quarter
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cidr.addresses import parse_block
from cidr.ask import Local, Rows
from cidr.heatmap import colours, heat, png, svg, words
from cidr.heatmap.hilbert import places
from cidr.heatmap.sparse import corner, is_sparse
from cidr.types import Block
from cidr.web.page import style
from jlogd.errors import UsageError

DATA = {
    "spam": [
        quarter(
            "20080424T001500",
            {"0.0.0.1": 1, "10.0.0.1": 1000, "10.0.0.2": 0, "11.0.0.1": 0, "12.0.0.1": -5, "255.1.1.1": 30},
        )
    ],
    "spam6": [quarter("20080424T001500", {"2001:db8::1": 3, "2001:db8:ff00::1": 4, "2001:dbff::": 5})],
}


def drawn(block: str, expression: str = "spam", detail: int = 8) -> heat.Heat:
    one = parse_block(block)
    reply = Local(Model(DATA), clock=lambda: NOW).ask(heat.query_text(one, expression, "", detail))
    assert isinstance(reply, Rows)
    return heat.heat(reply, one, detail)


@pytest.mark.parametrize("order", range(1, 9))
def test_the_curve_visits_every_cell_once_and_never_jumps(order):
    xs, ys = places(order)
    assert sorted(zip(xs.tolist(), ys.tolist(), strict=True)) == [
        (x, y) for x in range(1 << order) for y in range(1 << order)
    ]
    assert (np.abs(np.diff(xs)) + np.abs(np.diff(ys)) == 1).all()
    assert (xs[0], ys[0]) == (0, 0)


@pytest.mark.parametrize("order", range(1, 7))
def test_a_longer_prefix_lies_inside_its_block(order):
    outer, inner = places(order), places(order + 1)
    for one, finer in zip(outer, inner, strict=True):
        assert (finer.reshape(-1, 4) // 2).min(axis=1).tolist() == (finer.reshape(-1, 4) // 2).max(axis=1).tolist()
        assert len(one) * 4 == len(finer)


def test_no_data_zero_and_negative_are_three_things():
    found = drawn("0.0.0.0/0")
    assert found.values[10] == 1000 and found.values[11] == 0 and found.values[12] == -5
    assert np.isnan(found.values[13])
    levels = found.levels()
    assert levels[[0, 10, 11, 12, 13, 255]].tolist() == [1, heat.STEPS, heat.ZERO, heat.NEGATIVE, heat.NO_DATA, 5]
    assert (found.least, found.most) == (1, 1000)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 12).map(lambda half: 2 * half), st.sampled_from([2, 4, 8]))
def test_an_address_is_in_the_cell_of_its_prefix(number, bits, detail):
    block = Block(heat.Family.V4, number >> 32 - bits << 32 - bits if bits else 0, bits)
    data = {"s": [quarter("20080424T001500", {str(IPv4Address(number)): 7})]}
    reply = Local(Model(data), clock=lambda: NOW).ask(heat.query_text(block, "s", "", detail))
    assert isinstance(reply, Rows)
    found = heat.heat(reply, block, detail)
    (cell,) = np.flatnonzero(~np.isnan(found.values))
    assert found.cell(int(cell)).holds(Block(heat.Family.V4, number, 32)) and found.values[cell] == 7


@pytest.mark.parametrize("bits", range(28, 41, 2))
def test_ipv6_cells_below_around_and_above_the_middle(bits):
    number = 0x20010DB8_1234_5678_9ABC_DEF0_1234_5678
    for prefix in (bits, bits + 28, 60, 62, 64, 118):
        block = Block(heat.Family.V6, number >> 128 - prefix << 128 - prefix, prefix)
        data = {"s": [quarter("20080424T001500", {"2001:db8:1234:5678:9abc:def0:1234:5678": 7})]}
        reply = Local(Model(data), clock=lambda: NOW).ask(heat.query_text(block, "s", "", 8))
        assert isinstance(reply, Rows)
        found = heat.heat(reply, block, 8)
        (cell,) = np.flatnonzero(~np.isnan(found.values))
        assert found.cell(int(cell)).holds(Block(heat.Family.V6, number, 128))


def test_the_picture_in_pixels():
    found = drawn("0.0.0.0/0")
    picture = Image.open(io.BytesIO(png.file(found))).convert("RGB")
    assert picture.size == (1024, 1024 + png.HEAD_PIXELS + png.LEGEND_PIXELS)
    xs, ys = places(4)
    middle = {
        n: picture.getpixel((int(xs[n]) * 64 + 33, int(ys[n]) * 64 + 33 + png.HEAD_PIXELS)) for n in (0, 10, 11, 12)
    }
    assert middle[10] == colours.rgb(colours.RAMP[-1]) and middle[0] == colours.rgb(colours.RAMP[0])
    assert middle[11] == colours.rgb(colours.ZERO) and middle[12] == colours.rgb(colours.NEGATIVE)
    hatched = {picture.getpixel((int(xs[13]) * 64 + d, int(ys[13]) * 64 + 33 + png.HEAD_PIXELS)) for d in range(4, 24)}
    assert hatched == {colours.rgb(colours.HATCH_DARK), colours.rgb(colours.HATCH_LIGHT)}


def test_the_picture_in_squares():
    found = drawn("0.0.0.0/0")
    root = ElementTree.fromstring(svg.file(found))
    name = "{http://www.w3.org/2000/svg}"
    squares = [rect for rect in root.iter(f"{name}rect") if rect.find(f"{name}title") is not None]
    titles = {rect.find(f"{name}title").text: rect.get("class") for rect in squares}  # type: ignore[union-attr]
    assert len(titles) == 256
    assert titles["10.0.0.0/8: 1,000"] == "s9" and titles["11.0.0.0/8: 0"] == "zero"
    assert titles["12.0.0.0/8: -5"] == "minus" and titles["13.0.0.0/8: no address counted"] == "none"
    assert str(root.find(f"{name}title").text).startswith("spam in 0.0.0.0/0; cells of /8; 2008-04-24")  # type: ignore[union-attr]


def test_links_only_where_there_is_something_below():
    text = svg.grid(drawn("0.0.0.0/0"), lambda block: f"/?q={block}&x", 'a "name"')
    assert text.count("<a href") == 5 and 'href="/?q=10.0.0.0/8&amp;x"' in text
    assert "aria-label='a \"name\"'" in text


def test_ipv6_cells_have_hexadecimal_numbers():
    text = svg.grid(drawn("2001:db8::/32", "spam6"), lambda _: None, "six")
    assert ">ff</text>" in text and "2001:db8:ff00::/40: 4" in text


def test_what_cannot_be_drawn():
    for block, wanted in (("10.0.0.0/8", 3), ("10.0.0.0/8", 26), ("10.0.0.0/30", 4), ("10.0.0.0/8", 0)):
        with pytest.raises(UsageError, match="even number of bits"):
            heat.check_detail(parse_block(block), wanted)
    assert [heat.detail_of(parse_block(f"10.0.0.0/{bits}")) for bits in (8, 24, 26, 27, 30, 31, 32)] == [
        8,
        8,
        6,
        4,
        2,
        0,
        0,
    ]


def test_a_map_of_several_times_is_refused():
    one = parse_block("0.0.0.0/0")
    reply = Local(Model(DATA), clock=lambda: NOW).ask(heat.query_text(one, "spam", "on 20080424 aggregate hourly", 8))
    assert isinstance(reply, Rows)
    with pytest.raises(UsageError, match="one sum"):
        heat.heat(reply, one, 8)


def test_a_ratio_has_a_linear_scale():
    found = drawn("0.0.0.0/0", "ratio(spam, union(spam, spam6))")
    assert found.linear and found.levels()[10] == heat.STEPS


def test_the_words_say_what_where_and_when():
    found = drawn("10.0.0.0/8", detail=12)
    assert words.title(found) == "spam in 10.0.0.0/8"
    assert words.subtitle(found).startswith("cells of /20, squares of /16; 2008-04-24 00:00 to 2008-04-24 00:15 UTC")
    assert words.subtitle(drawn("10.0.0.0/8")).startswith("cells of /16; 2008")
    squares = words.squares(found)
    assert [str(block) for block in squares[:2]] == ["10.0.0.0/16", "10.1.0.0/16"] and len(squares) == 256
    assert [words.short(block) for block in (squares[255], parse_block("0.0.0.0/0"), parse_block("10.128.0.0/9"))] == [
        "10.255/16",
        "0/0",
        "10.128/9",
    ]
    assert words.short(parse_block("2001:db8::/32")) == "2001:db8::/32"
    assert [len(words.squares(drawn("10.0.0.0/8", detail=detail))) for detail in (2, 4)] == [4, 16]


def test_the_scale_has_numbers_that_are_its_steps():
    found = drawn("0.0.0.0/0")
    assert words.ticks(found) == [(0, "1"), (3, "10"), (6, "100"), (9, "1,000")]
    for step, text in words.ticks(found)[1:]:  # what is just below a number has the colour before it
        value = float(text.replace(",", ""))
        values = np.array([1.0, value - 0.01, min(value + 0.01, 1000.0), 1000.0])
        assert replace(found, values=values, detail=2).levels().tolist()[1:3] == [step, min(step + 1, heat.STEPS)]
    assert words.ticks(drawn("10.0.0.0/24")) == [(9, "1,000")]
    assert words.ticks(replace(found, values=np.array([3.0, 5.0, np.nan, 4.0]))) == [(0, "3"), (9, "5")]
    assert words.ticks(replace(found, values=np.array([0.0, -1.0, np.nan, 0.0]))) == []
    assert words.ticks(replace(found, values=np.array([0.5, 0.25, 0.0, 0.0]), linear=True))[-1] == (9, "0.5")
    assert (words.scale(found), words.scale(replace(found, linear=True))) == ("logarithmic scale", "linear scale")


def test_below_zero_is_in_the_legend_when_it_is_in_the_map():
    found = drawn("0.0.0.0/0")
    assert b"below 0" in svg.file(found)
    without = replace(found, values=np.where(found.values < 0, np.nan, found.values))
    assert b"below 0" not in svg.file(without)


@pytest.mark.parametrize("detail", [2, 4, 8, 10, 16])
@pytest.mark.parametrize("block", ["10.0.0.0/8", "2001:db8::/32"])
def test_head_map_and_legend_have_their_places(block, detail):
    found = replace(drawn(block, "spam6" if ":" in block else "spam", detail), when="a long time " * 60)
    picture = np.asarray(Image.open(io.BytesIO(png.file(found))).convert("L"))
    assert picture.shape == (1024 + png.HEAD_PIXELS + png.LEGEND_PIXELS, 1024)
    for part in (picture[: png.HEAD_PIXELS], picture[png.HEAD_PIXELS + 1024 :]):
        assert (part < 80).any()  # there is ink,
        assert (part[:, -4:] > 200).all()  # and it ends before the edge
    assert (picture[png.HEAD_PIXELS - 6 : png.HEAD_PIXELS] > 200).all()
    if detail <= svg.DETAIL_SVG_MAX:
        assert svg.file(found).count(b" ...") == 1


# A few cells of a million


def _luminance(colour: object) -> float:
    red, green, blue = colour  # type: ignore[misc]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_more_the_farther_from_the_ground():
    on_white = [_luminance(colours.rgb(one)) for one in colours.RAMP]
    assert on_white == sorted(on_white, reverse=True) and on_white[0] < 200
    text = style()
    light, dark = (re.findall(r"--s[1-9]: (#[0-9a-f]{6})", part) for part in text.split("prefers-color-scheme: dark"))
    assert tuple(light) == colours.RAMP
    on_black = [_luminance(colours.rgb(one)) for one in dark]
    assert on_black == sorted(on_black) and on_black[0] > _luminance(colours.rgb("#1b1f26"))


def _sparse(cells: dict[str, float], detail: int) -> heat.Heat:
    values = np.full(1 << detail, np.nan)
    for text, value in cells.items():
        values[parse_block(f"{text}/32").first >> (32 - detail)] = value
    return heat.Heat(parse_block("0.0.0.0/0"), detail, values, "spam", "now")


@pytest.mark.parametrize(("detail", "least"), [(10, 32), (16, png.MARK_PIXELS), (20, png.MARK_PIXELS)])
def test_a_lone_cell_is_large_enough_to_be_seen(detail, least):
    found = _sparse({"60.0.0.1": 286, "5.188.0.1": 1}, detail)
    pixels = np.asarray(Image.open(io.BytesIO(png.file(found))).convert("RGB"))[png.HEAD_PIXELS : -png.LEGEND_PIXELS]
    for colour in (colours.RAMP[-1], colours.RAMP[0]):
        rows, columns = np.nonzero((pixels == colours.rgb(colour)).all(axis=2))
        assert len(rows) >= (least - 2) ** 2  # the line around a square may lie over an edge of it
        wide = len(pixels) // 16
        assert len({(row // wide, column // wide) for row, column in zip(rows, columns, strict=True)}) == 1


def test_the_higher_of_two_marks_is_above():
    """Cells side by side: every pixel between them is of the higher one, and what is below 0 has a mark too."""
    for first, second in ((1.0, 286.0), (286.0, 1.0), (-5.0, 1.0), (1.0, -5.0), (-5.0, 0.0)):
        found = _sparse({"60.128.0.1": first, "60.128.32.1": second, "90.0.0.1": 286}, 20)
        xs, ys = places(10)
        levels = png._levels(found)
        pair = [levels[ys[number], xs[number]] for number in np.flatnonzero(~np.isnan(found.values))[:2]]
        near = levels[:512]  # without the one that is there for the scale
        sizes = dict(zip((first, second), [int((near == level).sum()) for level in pair], strict=True))
        assert sizes[max(sizes)] >= png.MARK_PIXELS**2 - 1 > sizes[min(sizes)] > 1, sizes


def test_a_map_that_is_not_sparse_is_drawn_as_it_is():
    found = _sparse({f"{n}.{m}.0.0": n + 1 for n in range(256) for m in range(0, 256, 16)}, 16)
    assert not is_sparse(found)
    xs, ys = places(8)
    assert (png._levels(found)[ys * 4 + 1, xs * 4 + 2] == found.levels()).all()
    assert ((png._levels(found) != heat.NO_DATA).sum()) == 16 * (~np.isnan(found.values)).sum()


def test_a_label_gives_way():
    square = np.zeros((64, 64), np.bool_)
    assert corner(square, (20, 12), 3) == (3, 3)
    square[5, 5] = True
    assert corner(square, (20, 12), 3) == (41, 3)
    square[5, 60] = True
    assert corner(square, (20, 12), 3) == (3, 49)
    for detail in (10, 12):
        place = re.search(rb'class="square" x="(\d+)" y="(\d+)">60<', svg.file(_sparse({"60.0.0.1": 286}, detail)))
        first = re.search(rb'class="square" x="(\d+)" y="(\d+)">60<', svg.file(_sparse({"61.0.0.1": 286}, detail)))
        assert place and first and place.groups() != first.groups()


def test_a_hatched_cell_says_why():
    found = drawn("0.0.0.0/0")
    assert b"no address counted" in svg.file(found) and b"no data" not in svg.file(found)
    assert b"no ratio" in svg.file(replace(found, linear=True))
