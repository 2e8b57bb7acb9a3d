"""What the benchmarks of `vip` find gets into the pages: every place is there and filled, nothing else is touched."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.vip.report import filled, report
from bench.vip.results import FailoverRun, KernelRun, Measure, Phase, Result, Scale, ScaleRun, keep

DOCS = Path(__file__).parent.parent / "docs"
MACHINE: dict[str, Any] = {"date": "2026-11-22T23:00:00+00:00", "cores": 2, "kernel": "6.18.44-x", "load": 0.1}


def failover() -> FailoverRun:
    results = [
        Result(system="vip", label="vip, default", fault="clean stop", gap=0.05),
        Result(system="vip", label="vip, default", fault="cut off", gap=0.3),
        Result(system="keepalived", label="keepalived, 1 s", fault="cut off", gap=3.2, spoke_twice=7),
        Result(system="keepalived", label="keepalived, 1 s", fault="dead", failure="it did not start"),
    ]
    return FailoverRun(machine=MACHINE, rounds=1, results=results)


def scale() -> ScaleRun:
    phase = Phase(
        name="cold start", whole=9.0, work=4.0, additions=10_240, daemon_seconds=8.0, ip_batch=4.0, ip_batch_spread=1.0
    )
    return ScaleRun(
        machine=MACHINE,
        found=Scale(addresses=10_240, phases=[phase], quiet_daemon_percent=[2.0], quiet_guard_percent=[0.1]),
    )


def test_every_run_gets_into_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("matplotlib") is None:  # of the benchmarks' libraries, not of the tests'
        monkeypatch.setattr("bench.vip.report.draw", lambda run, path: None)
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    for page in ("vip.md", "vip-kernel.md"):
        shutil.copy(DOCS / page, docs)
    before = (docs / "vip.md").read_text()
    keep(failover(), results / "vip-failover.json")
    keep(scale(), results / "vip-scale.json")
    measure = Measure(name="10,240 IPv4: add, `ip -batch`", value=4.0, runs=[3.9, 4.0, 4.2])
    keep(KernelRun(machine=MACHINE, measures=[measure]), results / "vip-kernel.json")
    for _ in range(2):  # the second time changes nothing
        done = CliRunner().invoke(report, ["--results", str(results), "--docs", str(docs)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    after = (docs / "vip.md").read_text()
    assert "| vip, default | 50 ms | 300 ms |" in after
    assert "| keepalived, 1 s | - | 3.2 s, twice 7x |" in after
    assert "| vip: spoken for twice, in all of it | never | 0 times | met |" in after
    assert "| cold start, additions against `ip -batch` | at most 2x | 1.0x | met |" in after
    assert after.count("![Gap seen by a client") == 1
    if find_spec("matplotlib") is not None:
        assert (docs / "images" / "vip.svg").read_text().startswith("<?xml")
    assert "3.9 s | 4.2 s | 3 |" in (docs / "vip-kernel.md").read_text()
    emptied = re.compile(r"(<!-- measured: \w+ -->).*?(<!-- end -->)", re.DOTALL)
    assert emptied.sub(r"\1\2", after) == emptied.sub(r"\1\2", before)


def test_a_run_that_there_is_not_leaves_its_place(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = CliRunner().invoke(report, ["--results", str(tmp_path / "results"), "--docs", str(DOCS)])
    assert done.exit_code == 0
    assert "there is no vip-failover.json: failover stays as it is" in done.output


def test_a_page_without_the_place_is_told() -> None:
    with pytest.raises(Exception, match="no place for failover"):
        filled("# a page\n", "failover", "text")
