"""The engine answers queries given as text as dictionaries do, and answers fit together."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from cidr_model import Model
from cidr_queries import NOW, at, build_store

from cidr.ask import Local, Rows
from cidr.engine import Engine
from cidr.formats import render

ADDRESSES = [f"10.{b}.{c}.{d}" for b in (0, 1, 7) for c in (0, 18, 255) for d in (0, 1, 9, 255)]
ADDRESSES += ["192.0.2.7", "255.255.255.255", "0.0.0.0", *(f"2001:db8:{n:x}::{m:x}" for n in (0, 1, 9) for m in (1, 2))]
BLOCKS = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/15, 10.7.0.0/16", "::/0", "2001:db8::/32"]
COLUMNS = [
    "spam",
    "virus, spam",
    "union(spam, virus)",
    "spam minus virus",
    "ratio(spam, union(spam, virus))",
    "*",
    "~^s, ham",
]
TIMES = [
    "",
    "on 20080424",
    "since 20080423",
    "from 20080424T001500 to 20080424T010000",
    "from 20080424T00:07 to 20080425",
]
ENDS = [
    "", "order by count", "order by count limit 3", "order by count ascending", "threshold 3", "threshold 1 limit 2",
    "percent cumulative order by count", "distinct hosts order by hosts", "aggregate hourly",
    "aggregate daily limit 2 order by count",
]  # fmt: skip


def random_counts(rng: random.Random) -> dict[str, list[tuple[int, int, dict[str, int]]]]:
    data = {}
    for name in ("spam", "virus", "ham"):
        ends = [at("20080424T000000") + 900 * step for step in range(1, 7)]
        data[name] = [
            (end - 900, end, {a: rng.randrange(0 if name == "ham" else -2, 9) for a in rng.sample(ADDRESSES, 12)})
            for end in ends
        ]
    return data


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    rng = random.Random(20080424)
    data = random_counts(rng)
    with Engine(build_store(tmp_path_factory.mktemp("store"), data)) as engine:
        yield Local(Model(data), clock=lambda: NOW), Local(engine, clock=lambda: NOW)


def shown(local: Local, text: str) -> tuple[list[dict[str, object]], int]:
    reply = local.ask(text)
    assert isinstance(reply, Rows)
    return [msgspec.json.decode(line) for line in render(reply, "ndjson").splitlines()], reply.answer.matched


@pytest.mark.parametrize("ending", ENDS, ids=lambda text: text or "plain")
def test_the_engine_answers_as_dictionaries_do(both, ending):
    model, engine = both
    rng = random.Random(ending)
    for blocks in BLOCKS:
        four = ["", "cidrsize 16 to 24", "cidrsize blocks", "cidrsize 17"]
        sizes = ["", "cidrsize 33 to 48"] if ":" in blocks else four
        for number, size in enumerate(sizes):
            column, time = COLUMNS[(number + rng.randrange(9)) % len(COLUMNS)], rng.choice(TIMES)
            text = f"show count for {blocks} in {column} {time} {size} {ending}"
            assert shown(engine, text) == shown(model, text), text


@pytest.mark.parametrize(
    "text",
    [
        "show heavy for 0.0.0.0/0 in ham threshold 20%",
        "show heavy for 10.0.0.0/8 in ham threshold 9 cidrsize 12 to 30",
        "show top movers for 0.0.0.0/0 in ham between 20080424 to 20080424T0030 and 20080424T0030 to 20080424T0100",
        "show top movers for ::/0 in ham between 20080424 and 20080425 cidrsize 48 limit 3",
    ],
)
def test_heavy_and_movers_too(both, text):
    model, engine = both
    assert shown(engine, text) == shown(model, text)


def values(local: Local, text: str) -> dict[str, object]:
    return {str(row["cidr"]): next(v for k, v in row.items() if k != "cidr") for row in shown(local, text)[0]}


def test_answers_fit_together(both):
    """Rows add up to the row above, unions to their parts; a limit shows the beginning of what a longer one does."""
    engine = both[1]
    hosts = values(engine, "show count for 0.0.0.0/0 in spam")
    for bits in (0, 8, 15, 24, 31):
        sums = values(engine, f"show count for 0.0.0.0/0 in spam cidrsize {bits}")
        assert sum(sums.values()) == sum(hosts.values())  # type: ignore[arg-type]
    parts = [values(engine, f"show count for 0.0.0.0/0 in {name} cidrsize 16") for name in ("spam", "virus")]
    for order in ("spam, virus", "virus, spam"):
        both_ = values(engine, f"show count for 0.0.0.0/0 in union({order}) cidrsize 16")
        assert both_ == {b: parts[0].get(b, 0) + parts[1].get(b, 0) for b in both_}  # type: ignore[operator]
    full = shown(engine, "show count for all in spam, virus order by count")[0]
    for limit in (1, 2, 5, len(full) - 1):
        text = f"show count for all in spam, virus order by count limit {limit}"
        assert shown(engine, text)[0] == full[:limit]


def test_families_never_mix(both):
    for local in both:
        assert all(":" not in block for block in values(local, "show count for 0.0.0.0/0 in spam"))
        assert all(":" in block for block in values(local, "show count for ::/0 in spam"))


def test_a_store_without_counts(tmp_path: Path):
    with Engine(tmp_path) as engine:
        local = Local(engine, clock=lambda: NOW)
        assert render(local.ask("show available"), "csv").decode().splitlines() == [
            "series,families,first,last,segments,rows,bytes"
        ]
