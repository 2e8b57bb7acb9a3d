"""Mounts for tests, in namespaces of their own: nothing of it is seen outside, and it goes when the test ends.

`run(scenario, work)` starts `mount_scenarios.py` in new mount, network and process namespaces (and a new user
namespace, when this is not root), where it mounts, checks and prints what came of it as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cli_support import ROOT

SCENARIOS = Path(__file__).with_name("mount_scenarios.py")
SECONDS_MAX = 120
_UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation=private"]


def missing(what: str) -> NoReturn:
    """Skip the test; where everything that tests need is to be installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; packaging/test-packages and the extra `dev` install what tests need")
    pytest.skip(what)


def need_program(*names: str) -> None:
    """Skip unless the programs are there."""
    for name in names:
        if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            missing(f"the program {name} is not installed")


def need_fuse() -> None:
    """Skip unless FUSE file systems can be mounted, also ones in Python."""
    need_program("fusermount3")
    pytest.importorskip("mfusepy") if os.environ.get("CI") != "true" else __import__("mfusepy")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this machine has no /dev/fuse that this user may open")


@cache
def _namespaces() -> str:
    """Why namespaces cannot be made here, or ""."""
    if shutil.which("unshare") is None:
        return "the program unshare is not installed"
    tried = subprocess.run([*_command(), "true"], capture_output=True, text=True, timeout=SECONDS_MAX)
    return "" if tried.returncode == 0 else f"this machine allows no mounts in namespaces: {tried.stderr.strip()}"


def _command() -> list[str]:
    return [*_UNSHARE, *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]


def run(scenario: str, work: Path) -> Any:
    """What the scenario found; see `mount_scenarios.py`."""
    if why := _namespaces():
        pytest.skip(why)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    ended = subprocess.run(
        [*_command(), sys.executable, str(SCENARIOS), scenario, str(work)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        env=environment,
    )
    assert ended.returncode == 0, (ended.stdout[-3000:], ended.stderr[-3000:])
    return json.loads(ended.stdout.splitlines()[-1])
