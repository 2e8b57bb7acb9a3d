"""A place that vip may not write: it is said who may not write where, before it runs and while it does."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from daemon_support import ROOT

from cluster import rights

NOBODY = 65534
# To read the interpreter and this checkout, which may be root's alone; of no use for writing.
READ = "-all,+dac_read_search"


def vip(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command run by a user that may not write what only its owner may."""
    unprivileged = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={READ}", f"--ambient-caps={READ}", f"--bounding-set={READ}",
    ]  # fmt: skip
    command = [*(unprivileged if os.geteuid() == 0 else []), sys.executable, "-m", "vip.cli.main", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def refusal(place: Path) -> str:
    """What is said of a place that belongs to whoever runs the tests, and may be read by it alone."""
    owner = pwd.getpwuid(os.geteuid()).pw_name
    reader = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else owner
    return f"user {reader} may not write {place}, which belongs to {owner} (mode 0{place.stat().st_mode & 0o777:o})"


@pytest.fixture
def config() -> Iterator[Path]:
    """Where another user may look: pytest's own directories are for one alone."""
    with tempfile.TemporaryDirectory(prefix="vip-rights-") as place:
        os.chmod(place, 0o755)
        path = Path(place) / "vip.toml"
        store = f'store = "solo"\nsolo_file = "{place}/run/solo.db"\n'
        path.write_text(f'[vip]\nnode = "n1"\n{store}')
        path.chmod(0o644)
        yield path


def test_the_store_of_a_machine_that_may_not_be_written_says_who_and_where(config: Path) -> None:
    directory = config.parent / "run"
    directory.mkdir(mode=0o500)
    told = vip("show", "--config", config)
    assert (told.returncode, told.stdout) == (3, "")
    assert f"error: {directory}/solo.db: {refusal(directory)}" in told.stderr
    assert "unable to open" not in told.stderr


def test_what_is_mounted_read_only_is_not_blamed_on_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rights.obstacle(tmp_path / "new") == ""
    monkeypatch.setattr(os, "access", lambda *_words, **_options: False)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert rights.obstacle(tmp_path / "new" / "file").startswith(f"{tmp_path} is read-only here")
