"""as_logger, cidr and its server agree about where the counts are: one file says it, for all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cidr.cli.main import cli
from cidr.cli.options import BASE_DIR_VARIABLE, CONFIG_VARIABLE
from cidr.config import load
from cidr.server.config import load as load_server

PACKAGING = Path(__file__).parent.parent / "packaging"
QUERY = "show count for all in spam"


def cidr(*args: object, stdin: str = "", **env: str) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin, env=env, prog_name="cidr")


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A file that names a store with one count, by its whole path."""
    (tmp_path / "counts.csv").write_text("series,end,address,count\nspam,2025-12-10T00:01:00Z,192.0.2.7,1\n")
    assert cidr("import", tmp_path / "counts.csv", "--base-dir", tmp_path / "counts").exit_code == 0
    file = tmp_path / "cidr.toml"
    file.write_text(f'[as_logger]\nbase_dir = "{tmp_path}/counts"\n')
    return file


def test_every_command_takes_the_directory_from_the_file(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for args in (
        ["-e", QUERY],
        ["export"],
        ["rebuild", "--dry-run"],
        ["maintain", "--dry-run"],
        ["heatmap", "192.0.2.0/24", "--series", "spam", "-o", tmp_path / "map.svg"],
        ["import", tmp_path / "counts.csv", "--again"],
    ):
        result = cidr("--config", configured, *args)
        assert result.exit_code == 0, (args, result.output, result.exception)
        assert cidr(*args, **{CONFIG_VARIABLE: str(configured)}).exit_code == 0
        wrong = cidr("--config", configured, "--base-dir", tmp_path / "none", *args)
        assert wrong.exit_code != 0 or args[0] == "import"  # what the command line says comes first
    assert cidr("maintain", "-c", configured, "--dry-run").exit_code == 0
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_file_comes_before_the_environment(configured: Path, tmp_path: Path) -> None:
    elsewhere = {BASE_DIR_VARIABLE: str(tmp_path / "elsewhere")}
    assert cidr("-c", configured, "-e", QUERY, **elsewhere).exit_code == 0
    assert cidr("-e", QUERY, **elsewhere).exit_code != 0


def test_serve_takes_it_too(configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Path] = []
    monkeypatch.setattr("cidr.server.run.run", lambda base, *_: served.append(base) or 0)
    for args in (("-c", configured, "serve"), ("serve", "-c", configured)):
        assert cidr(*args).exit_code == 0
    assert cidr("serve", "-c", configured, "--base-dir", tmp_path / "other").exit_code == 0
    assert served == [tmp_path / "counts", tmp_path / "counts", tmp_path / "other"]


@pytest.mark.parametrize("args", [("maintain", "-c", "../cidr.toml"), ("-c", "../cidr.toml", "-e", QUERY)])
def test_a_path_that_is_not_whole_is_explained(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    configured.write_text('[as_logger]\nbase_dir = "counts"\n')
    monkeypatch.chdir(tmp_path)
    assert cidr("maintain", "-c", "cidr.toml", "--dry-run").exit_code == 0
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    said = cidr(*args).stderr
    assert f"names the directory counts, which is not in {tmp_path}/below but in {tmp_path}" in said


def test_what_is_shipped_fits_together() -> None:
    settings = load(PACKAGING / "cidr.toml").as_logger
    settings.check_counts()
    load_server(PACKAGING / "cidr.toml")
    daemon = tomllib.loads((PACKAGING / "jlogd.toml").read_text())
    assert settings.logs == daemon["node"]["spool"]
    assert {rule.log for rule in settings.extract} <= set(daemon["log"])
    for program in ("as_logger", "cidr"):
        unit = (PACKAGING / f"{program}.service").read_text()
        assert "--base-dir" not in unit
        assert re.findall("--config (.+)", unit) and set(re.findall("--config (.+)", unit)) == {"/etc/jlogd/cidr.toml"}
        assert settings.base_dir.startswith(f"/var/lib/{re.findall('StateDirectory=(.+)', unit)[0]}/")


def test_lines_from_a_pipe_may_ask_for_help_and_end(configured: Path) -> None:
    result = cidr("-c", configured, stdin=f"help\nhelp cidrsize\n{QUERY}\nquit\nnonsense\n")
    assert result.exit_code == 0, result.output
    assert "drill N" in result.stdout
    assert "192.0.2.7/32" in result.stdout
    assert cidr("-c", configured, stdin="EXIT\n").exit_code == 0
    wrong = cidr("-c", configured, stdin="help nonsense\n")
    assert (wrong.exit_code, "no help on 'nonsense'" in wrong.stderr) == (2, True)
