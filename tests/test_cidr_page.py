"""The page: what it shows, that nothing in it runs or comes from elsewhere, and how it does in a real browser."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from urllib.parse import quote_plus, unquote_plus
from xml.sax.saxutils import escape

import pytest
from browser_support import PROGRAM, Browser, browser
from cidr_model import Model
from cidr_queries import NOW, VECTORS, quarter
from cidr_server import Served, serving
from daemon_support import until
from PIL import Image

from cidr.language.parser import parse
from cidr.web import sparks

EIGHT = "show count for 0.0.0.0/0 in spam, virus cidrsize 8 order by count percent"
NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
# In a name of a series, which comes from a log, and in a query, which comes from a link.
NASTY_NAMES = ["<b>bold</b>", "a&amp;b", "</style><script>alert(1)</script>", "javascript:alert(1)", "'\"x"]


@pytest.fixture(scope="module")
def served():
    with serving(Model(VECTORS), lambda: NOW) as running:
        yield running


def page(served: Served, query: str = "") -> str:
    found = served.get(f"/?q={quote_plus(query)}")
    assert found.status in (200, 400), found.text
    assert found.headers["content-type"].startswith("text/html")
    return found.text


class Outline(HTMLParser):
    """Elements, attributes and addresses of a page; open elements must be closed."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})
    SELF_CLOSED = frozenset({"rect", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.elements if tag == "a"]


def test_the_front_page_offers_series_and_help(served):
    text = page(served)
    assert "2008-04-24 00:00 to 2008-04-25 00:15" in text and "The language" in text
    starts = [unquote_plus(link[4:]) for link in Outline(text).links() if link.startswith("/?q=")]
    assert starts and all(parse(one) for one in starts)


def test_an_answer(served):
    text = page(served, EIGHT)
    outline = Outline(text)
    assert "2 rows; 4 segments" in text and ">exact<" not in text.replace("exact</span>", "")
    assert 'class="spark"' in text and "<circle" in text and "hour by hour" in text
    rects = [attributes for tag, attributes in outline.elements if tag == "rect" and attributes.get("height") == "28"]
    assert len(rects) == 256
    assert "10.0.0.0/8: 15" in text and "11.0.0.0/8: no address counted" in text
    queries = [unquote_plus(link[4:]) for link in outline.links() if link.startswith("/?q=")]
    assert "show count for 10.0.0.0/8 in spam, virus cidrsize 16 order by count percent" in queries
    assert "cidr --server http://127.0.0.1" in text and "curl -s" in text
    downloads = [link for link in outline.links() if link.startswith("/v1/")]
    assert [served.get(link).status for link in downloads] == [200] * 4
    assert served.get(downloads[0]).text.startswith("cidr,spam,virus,percent\n")


def test_one_level_down_again_and_again_to_the_address(served):
    query = "show count for 0.0.0.0/0 in spam cidrsize 8"
    for bits in (8, 16, 24, 32):
        text = page(served, query)
        found = re.search(r'<th scope="row"><a href="/\?q=([^"]+)">10\.[0-9.]+/\d+<', text)
        assert (found is None) == (bits == 32), text
        if found:
            query = unquote_plus(found[1])
            assert f"cidrsize {bits + 8}" in query
    assert 'aria-label="Blocks above"' in text and "10.0.0.1/32" in text


@pytest.mark.parametrize(
    "query",
    [
        "show heavy for 0.0.0.0/0 in spam threshold 20%",
        "show top movers for 0.0.0.0/0 in spam between 20080424 and 20080425 cidrsize 24",
        "show count for all in * cidrsize 8/32 aggregate daily",
        "show count for 10.0.0.1/32 in spam",
        "show count for 10.0.0.0/30 in ratio(spam, virus)",
        "show count for 10.0.0.0/31, 192.0.2.0/24 in spam minus virus cidrsize blocks",
        "show count for 172.16.0.0/12 in spam",
        "show count for 2001:db8::/32 in spam",
        "explain show count for all in spam",
        "show available",
        "cache details",
    ],
)
def test_every_kind_of_answer_is_a_page(served, query):
    text = page(served, query)
    Outline(text)
    assert 'role="status"' in text and 'role="alert"' not in text
    assert ("No rows." in text) == ("172.16" in query or "2001" in query)


def test_a_wrong_query_is_shown_with_its_place(served):
    found = served.get(f"/?q={quote_plus('show count for 10.0.0.0/8 in spm')}")
    assert found.status == 400
    assert f"show count for 10.0.0.0/8 in spm\n{' ' * 29}^^^</pre>" in found.text
    assert "did you mean spam?" in found.text and 'role="alert"' in found.text and 'aria-invalid="true"' in found.text


def test_the_box_offers_what_may_follow(served):
    text = page(served, "show count for 10.0.0.0/8 in spam")
    assert '<option value="show count for 10.0.0.0/8 in spam cidrsize"></option>' in text
    assert "in spm cidrsize" not in page(served, "show count for 10.0.0.0/8 in s")


# ---- nothing runs, nothing comes from elsewhere ----------------------------------------------------------------------


def test_everything_is_escaped():
    data = {name: [quarter("20080424T001500", {"10.0.0.1": 5})] for name in NASTY_NAMES}
    queries = ["", NASTY, f"show count for 10.0.0.0/8 in {NASTY}", "show available", "explain show count for all in *"]
    queries += [f'show count for 10.0.0.0/8 in "{NASTY_NAMES[2]}"', "show count for 0.0.0.0/0 in * cidrsize 8"]
    queries += [
        'show count for all in "javascript:alert(1)" cidrsize 8/32',
        "show count for ::/0 in ~script cidrsize 8",
    ]
    with serving(Model(data), lambda: NOW) as running:
        for query in queries:
            outline = Outline(page(running, query))
            assert not {"img", "b", "iframe", "object"} & {tag for tag, _ in outline.elements}, query
            scripts = [attributes for tag, attributes in outline.elements if tag == "script"]
            assert scripts == [{"src": "/page.js", "defer": None}], query
            for tag, attributes in outline.elements:
                assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
                for name in ("href", "src", "action"):
                    assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
        nasty = quote_plus(f'"{NASTY_NAMES[2]}"')
        picture = running.get(f"/v1/heatmap?block=10.0.0.0/8&format=svg&series={nasty}")
        assert picture.status == 200 and "<script" not in picture.text


def test_the_policy_allows_nothing_in_the_page_and_nothing_from_elsewhere(served):
    for path in ("/", "/style.css", "/v1/series", "/nowhere", "/v1/heatmap?block=10.0.0.0/8&series=spam&format=svg"):
        headers = served.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"
    assert "url(http" not in served.get("/style.css").text and "@import" not in served.get("/style.css").text


def test_a_line_has_gaps_where_there_are_no_values():
    import numpy as np

    drawn = sparks.line(np.array([1, 2, np.nan, 4, 5.0]), "10.0.0.0/8")
    assert drawn.count("<polyline") == 2 and "10.0.0.0/8: 0 to 5" in drawn
    assert sparks.line(np.array([np.nan, np.nan]), "x").count("<polyline") == 0
    assert "NaN" not in sparks.line(np.array([0.0, 0.0]), "x")


# ---- in a real browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if PROGRAM is None:
        assert os.environ.get("CI") != "true", "chromium is missing: packaging/test-packages installs it"
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def inside(chromium: Browser, selector: str, width: int) -> None:
    left, top, right, bottom = chromium.box(selector)
    assert 0 <= left < right <= width and top < bottom, (selector, left, right)


@pytest.mark.slow
def test_in_a_browser_without_scripts(served, chromium, tmp_path):
    """Ask by typing, go down by clicking the map and the table, make a mistake; nothing is loaded from elsewhere."""
    chromium.look(1280, 900)
    chromium.open(served.url + "/")
    chromium.write_and_send("#q", EIGHT)
    assert "2 rows" in chromium.html(".status")
    assert chromium.complaints() == []
    assert all(address.startswith(served.url) for address in chromium.addresses())
    # The map is beside the table, and its cells are links.
    table, chart = chromium.box(".answer"), chromium.box("svg.heat")
    assert chart[0] >= table[2] - 1 and abs((chart[2] - chart[0]) - (chart[3] - chart[1])) < 3
    chromium.click("svg.heat a")
    assert "10.0.0.0/8" in chromium.html(".map p")
    chromium.click("tbody th a")
    assert "10.0.0.0/16" in chromium.html(".map p")
    chromium.click("nav a")
    assert "0.0.0.0/0" in chromium.html(".map p")
    names = chromium.accessible()
    for role, name in (("combobox", "Query"), ("button", "Ask"), ("heading", "Answer"), ("link", "CSV"), ("table", "")):
        assert (role, name) in names, role
    assert any(role == "link" and name.startswith("10.0.0.0/8: ") for role, name in names)
    chromium.write_and_send("#q", "show count for 10.0.0.0/8 in spm")
    assert "did you mean spam?" in chromium.html("#mistake")
    assert chromium.screenshot(tmp_path / "mistake.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_narrow_and_wide_light_and_dark(served, chromium, tmp_path, width, dark):
    chromium.look(width, 1400, dark)
    chromium.open(f"{served.url}/?q={quote_plus(EIGHT)}")
    for selector in ("form", "#q", "button", ".status", ".scroll", "svg.heat", ".ways dl"):
        inside(chromium, selector, width)
    picture = Image.open(chromium.screenshot(tmp_path / "page.png")).convert("RGB")
    assert picture.size == (width, 1400)
    ground = picture.getpixel((2, 2))
    assert isinstance(ground, tuple) and (max(ground) < 60) == dark and (min(ground) > 240) == (not dark)
    # Cells with no data are hatched: two colours in them, in a cell with data one more than its number's.
    left, top, right, bottom = chromium.box("rect.none")
    cell = picture.crop((int(left) + 2, int(top) + 2, int(right) - 2, int(bottom) - 2))
    assert len(cell.getcolors() or []) > 3
    data = chromium.box("rect.s9")
    corner = picture.getpixel((int(data[0]) + 3, int(data[1]) + 3))
    assert corner == ((252, 243, 160) if dark else (22, 11, 57))  # many stand out from the ground


@pytest.mark.slow
def test_nothing_runs_in_a_browser_that_runs_scripts(chromium):
    data = {name: [quarter("20080424T001500", {"10.0.0.1": 5})] for name in NASTY_NAMES}
    with serving(Model(data), lambda: NOW) as running:
        chromium.look(scripts=True)
        policy = running.get("/").headers["content-security-policy"]
        assert "script-src 'self'" in policy  # the page's own script runs; what follows is nothing of its own
        for query in (NASTY, f"show count for 10.0.0.0/8 in {NASTY}", "show count for 0.0.0.0/0 in * cidrsize 8"):
            chromium.open(f"{running.url}/?q={quote_plus(query)}")
            assert not [event for event in chromium.events if "javascriptDialog" in event.get("method", "")]
            assert chromium.complaints() == [] or all("400" in text for text in chromium.complaints())
            assert {address for address in chromium.addresses() if not address.startswith(running.url)} == set()


@pytest.mark.slow
def test_what_may_follow_is_offered_while_it_is_typed(served, chromium):
    chromium.look(scripts=True)
    chromium.open(served.url + "/")
    written = (
        ("show count for 10.0.0.0/8 in s", "show count for 10.0.0.0/8 in spam"),
        ("show count for 10.0.0.0/8 in spam cidrsize 24 or", "show count for 10.0.0.0/8 in spam cidrsize 24 order"),
        ('show count for all in "\U0001f600", sp', 'show count for all in "\U0001f600", spam'),
    )
    for text, whole in written:
        chromium.write("#q", text)
        option = f'<option value="{escape(whole, {chr(34): "&quot;"})}">'
        until(lambda option=option: option in chromium.html("#suggestions"), f"{whole} is offered")
    chromium.write("#q", "show count for nothing of this ")  # a mistake: nothing may follow, and nobody complains
    until(lambda: "<option" not in chromium.html("#suggestions"), "nothing is offered")
    assert chromium.complaints() == []
    assert all(address.startswith(served.url) for address in chromium.addresses())
