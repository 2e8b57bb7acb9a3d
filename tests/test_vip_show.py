"""`vip show` and `vip plan` from a store that stands still: what they answer to words, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vip.cli.main import cli

# stdout and stderr of a command that must end with the code given.
Ask = Callable[..., tuple[str, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command on a cluster of one machine, whose store is a file; no daemon runs."""
    config = tmp_path / "vip.toml"
    config.write_text(
        f'[vip]\nnode = "mta1"\nstore = "solo"\nsolo_file = "{tmp_path}/solo.db"\n'
        '[[vip.topology]]\nblock = "10.77.0.0/16"\ninterface = "lan"\n'
        '[[vip.topology]]\nblock = "fd77::/64"\ninterface = "lan"\n'
        '[[vip.group]]\nname = "gold"\naddresses = ["10.77.16.1", "fd77::1:1"]\nprefer = ["mta1", "mta2"]\n'
        '[[vip.group]]\nname = "pool"\naddresses = ["10.77.16.8-10.77.16.11"]\nspread = true\n'
    )

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--config", str(config)], prog_name="vip")
        shown = capsys.readouterr()
        assert ended.value.code == code, shown
        return shown.out, shown.err

    return run


def test_what_there_is_not_is_not_shown(ask: Ask) -> None:
    for words in (("show", "nosuch"), ("show", "nosuch", "--json"), ("show", "gold", "nosuch")):
        told = "error: there is no address, group or node nosuch; groups: gold, pool; nodes: mta1, mta2\n"
        assert ask(*words, code=1) == ("", told)
    assert ask("show", "glod", code=1)[1] == "error: there is no address, group or node glod; did you mean gold?\n"
    assert "10.77.16.12 is in no group of this configuration" in ask("show", "10.77.16.12", code=1)[1]


def test_what_there_is_is_shown_however_it_is_written(ask: Ask) -> None:
    for word in ("gold", "fd77::1:1", "FD77:0::0001:1"):
        shown, _ = ask("show", word, code=1)
        assert "fd77::1:1" in shown and "pool" not in shown, word
    for node in ("mta1", "mta2"):
        assert "there are no addresses to show" in ask("show", node)[0]
