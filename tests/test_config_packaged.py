"""The built-in configuration, the packaged one, and the unit that runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from config_support import PACKAGING

from jlogd.daemon.config import Listen
from jlogd.daemon.config_file import load, parse
from jlogd.daemon.defaults import DEFAULT_TOML, default_config, paste_lines


def test_the_default_configuration() -> None:
    config = default_config()
    assert config == parse(DEFAULT_TOML)
    assert config.spool == Path("var/spool") and list(config.log) == ["mainlog"]
    assert config.listen == Listen() and str(config.http) == "127.0.0.1:5180"
    assert config.source.syslog[0].listen == ("udp://127.0.0.1:5514", "tcp://127.0.0.1:5514")


def test_lines_to_paste() -> None:
    text = "\n".join(paste_lines(default_config()))
    assert "logger -n 127.0.0.1 -P 5514 --udp" in text and "logger -n 127.0.0.1 -P 5514 --tcp" in text
    assert "jlogctl tail --follow var/spool/mainlog" in text and "tcp://127.0.0.1:5140/mainlog" in text
    assert "jlogctl stat var/spool/mainlog" in text and "curl http://127.0.0.1:5180/metrics" in text
    assert paste_lines(parse("")) == []


def test_lines_to_paste_quote_what_a_shell_would_split() -> None:
    text = '[node]\nspool = "my spool"\n[log.a]\n[[source.syslog]]\nlog = "a"\nlisten = ["unix:///run/a b"]'
    lines = paste_lines(parse(text))
    assert any("'my spool/a'" in line for line in lines) and any("--socket '/run/a b'" in line for line in lines)


def test_the_packaged_example_is_right() -> None:
    config = load(PACKAGING / "jlogd.toml")
    assert config.spool == Path("/var/lib/jlogd/spool") and config.log


def test_everything_commented_out_in_the_example_is_right() -> None:
    """Lines that start with `#` and a setting or table are examples: with the `#` removed they must be accepted too."""
    text = (PACKAGING / "jlogd.toml").read_text()
    enabled = re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", text)
    assert enabled != text
    config = parse(enabled)
    assert config.source.syslog and config.source.file and config.source.stdin
    assert len(config.listen.zmq) == 2


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("CI") != "true", reason="systemd-analyze is not here"
)
def test_the_unit_file_is_right(tmp_path: Path) -> None:
    command = tmp_path / "jlogd"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = (PACKAGING / "jlogd.service").read_text()
    assert "/usr/bin/jlogd" in unit
    # The command and the account need not be installed here.
    unit = unit.replace("/usr/bin/jlogd", str(command)).replace("User=jlogd", "User=root")
    path = tmp_path / "jlogd.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if str(path) in line or "jlogd.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


def test_the_commands_of_the_unit_are_those_there_are() -> None:
    """Every `/usr/bin/jlogd ...` in the unit names a command and options that the command line has."""
    from jlogd.cli.jlogd import cli

    unit = (PACKAGING / "jlogd.service").read_text()
    commands = re.findall(r"(?m)^Exec\w+=/usr/bin/jlogd (.+)$", unit)
    assert len(commands) == 2
    for line in commands:
        name, *arguments = line.split()
        cli.commands[name].make_context(name, arguments)


def test_the_unit_says_what_the_daemon_does() -> None:
    unit = (PACKAGING / "jlogd.service").read_text()
    for line in ("Type=notify", "Restart=on-failure", "ExecReload=/bin/kill -HUP $MAINPID", "ProtectSystem=strict"):
        assert line in unit.splitlines()
    assert "d /var/lib/jlogd" in (PACKAGING / "jlogd.tmpfiles").read_text()
    assert (PACKAGING / "jlogd.sysusers").read_text().count("u jlogd ") == 1
