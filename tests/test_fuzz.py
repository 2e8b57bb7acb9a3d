"""Fuzzing in three sizes: the kept corpus replayed, Hypothesis around it, a fixed number of coverage-guided runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

from targets import TARGETS  # noqa: E402

# About five seconds a target; the number, not the time, so that a slow machine does the same.
RUNS = 6000


def need_atheris() -> None:
    """Skip without atheris; where everything that tests need is to be installed, fail, unless there is none."""
    none_exists = platform.machine() != "x86_64" or sys.version_info >= (3, 14)
    if os.environ.get("CI") != "true" or none_exists:
        pytest.importorskip("atheris", reason="atheris is in the extra `fuzz`, where there are wheels of it")


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_corpus(name: str) -> None:
    inputs = corpus(name)
    assert inputs, "a target without a corpus"
    for data in inputs:
        TARGETS[name](data)


def changed(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of the corpus with a piece of one put into another, cut out, or replaced by anything."""
    piece = st.one_of(st.binary(max_size=40), st.sampled_from(corpus(name)))

    def put(base: bytes, start: float, length: int, other: bytes) -> bytes:
        at = round(start * len(base))
        return base[:at] + other + base[at + length :]

    return st.builds(put, st.sampled_from(corpus(name)), st.floats(0, 1), st.integers(0, 60), piece)


@pytest.mark.parametrize("name", TARGETS)
def test_what_looks_like_the_corpus(name: str) -> None:
    @given(st.one_of(st.binary(max_size=300), changed(name)))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided(name: str, tmp_path: Path) -> None:
    need_atheris()
    ended = subprocess.run(
        [sys.executable, str(FUZZ / "run.py"), name, f"-runs={RUNS}", "-seed=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FUZZ.parent.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]


def test_a_target_that_fails_is_found(tmp_path: Path) -> None:
    """The machinery itself: an exception of a target ends the run with the input that caused it."""
    need_atheris()
    script = tmp_path / "broken.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FUZZ)!r})\n"
        "import run, targets\n"
        "def broken(data):\n"
        "    assert not data.startswith(b'a'), 'found'\n"
        "targets.TARGETS['framing'] = broken\n"
        "run.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script), "framing", "-runs=100000", "-seed=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FUZZ.parent.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode != 0 and "found" in ended.stdout + ended.stderr
