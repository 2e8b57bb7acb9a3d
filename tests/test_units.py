"""The unit files of as_logger, cidr and vip: systemd accepts them, and what they start is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from fault_support import missing

from cidr.cli.as_logger import as_logger
from cidr.cli.main import cli as cidr
from vip.cli.main import cli as vip

PACKAGING = Path(__file__).parent.parent / "packaging"
PROGRAMS: dict[str, click.Command] = {"as_logger": as_logger, "cidr": cidr, "vip": vip}


@pytest.mark.parametrize("program", PROGRAMS)
def test_systemd_accepts_it(program: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not here")
    command = tmp_path / program
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = (PACKAGING / f"{program}.service").read_text().replace(f"/usr/bin/{program}", str(command))
    path = tmp_path / f"{program}.service"
    path.write_text(unit.replace("User=jlogd", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert done.returncode == 0 and complaints == [], done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_it_starts_is_a_command_with_these_options(program: str) -> None:
    unit = (PACKAGING / f"{program}.service").read_text()
    lines = re.findall(rf"(?m)^Exec(?:Start|StartPre)=/usr/bin/{program} (.+)$", unit)
    assert lines
    for line in lines:
        command, words = PROGRAMS[program], line.split()
        if isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(program, words)
