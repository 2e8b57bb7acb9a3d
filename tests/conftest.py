"""What all tests share: a fresh model disk, a fresh directory, and how long Hypothesis looks for trouble.

Profiles, by `HYPOTHESIS_PROFILE`: `dev` (the default), `ci` (more examples, the same ones every time: nobody is to
be stopped by what another one broke), `thorough` (minutes, new ones every time). What reproduces a failure is
printed. A failing seed belongs into the test as a named regression, not only into `.hypothesis/`.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # the tests import each other's helpers by name

from model_disk import ModelDisk, ModelProcess
from wire_support import Daemon, make_log

_COMMON = {
    "deadline": None,
    "print_blob": True,
    "report_multiple_bugs": False,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("dev", max_examples=100, stateful_step_count=50, **_COMMON)
settings.register_profile("ci", max_examples=200, stateful_step_count=50, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=3000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "dev"))


@pytest.fixture
def disk() -> ModelProcess:
    """One process on a fresh model disk whose root is `/spool`; `disk.disk` is the medium."""
    return ModelDisk().process()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty directory on a real disk."""
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture
def daemon(spool: Path) -> Iterator[Daemon]:
    """A server in this process, with a log `mainlog` and its subscriber `master`."""
    make_log(spool, subscribers=["master"])
    with Daemon(spool) as daemon:
        yield daemon


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers; the seed is printed when the test fails, and JLOGD_TEST_SEED sets it."""
    seed = int(os.environ.get("JLOGD_TEST_SEED") or random.SystemRandom().getrandbits(32))
    request.node.add_report_section("setup", "seed", f"JLOGD_TEST_SEED={seed}")
    return random.Random(seed)
