"""What is shipped to run vip as a service, and the steps of the manual for it: they fit each other and the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from config_support import PACKAGING

from vip.cli.main import cli
from vip.config import parse

UNIT = (PACKAGING / "vip.service").read_text()
MANUAL = (PACKAGING.parent / "docs" / "vip.md").read_text()


def setting(name: str) -> str:
    (value,) = re.findall(rf"(?m)^{name}=(.*)$", UNIT)
    return value


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("CI") != "true", reason="systemd-analyze is not here"
)
def test_the_unit_file_is_right(tmp_path: Path) -> None:
    command = tmp_path / "vip"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    path = tmp_path / "vip.service"
    # The command and the account need not be installed here.
    path.write_text(re.sub(r"(?m)^(User|Group)=vip$", r"\1=root", UNIT.replace("/usr/bin/vip", str(command))))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "vip.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


def test_the_commands_of_the_unit_are_those_there_are() -> None:
    commands = re.findall(r"(?m)^Exec\w+=/usr/bin/vip (.+)$", UNIT)
    assert len(commands) == 2
    for line in commands:
        name, *arguments = line.split()
        cli.commands[name].make_context(name, arguments)


def test_the_service_may_write_the_log_and_the_store_of_the_manual() -> None:
    cluster, solo = (parse(text) for text in re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL))
    assert setting("ProtectSystem") == "strict", "it may write where the unit says, and nowhere else"
    assert Path(cluster.log).is_relative_to(Path("/var/lib") / setting("StateDirectory"))
    assert Path(solo.solo_file).is_relative_to(Path("/run") / setting("RuntimeDirectory"))
    assert "DynamicUser" not in UNIT, "jlogctl could not act as the owner of the log"


def test_the_steps_of_the_manual_make_what_the_service_needs() -> None:
    (steps,) = re.findall(r"```\n(python3 -m venv .*?)```", MANUAL, re.DOTALL)
    account = setting("User")
    assert setting("Group") == account
    assert (PACKAGING / "vip.sysusers").read_text().count(f"\nu {account} - ") == 1
    for shipped in re.findall(r"packaging/(\S+)", steps):
        assert (PACKAGING / shipped).is_file()
    (state,) = re.findall(
        rf"install -d -o {account} -g {account} -m (\d+) /var/lib/{setting('StateDirectory')}\n", steps
    )
    assert int(state, 8) == int(setting("StateDirectoryMode"), 8)
    cluster, _ = (parse(text) for text in re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL))
    in_order = ("packaging/vip.sysusers ", "systemd-sysusers\n", "install -d -o ", f"jlogctl create {cluster.log} ")
    assert [steps.index(step) for step in in_order] == sorted(steps.index(step) for step in in_order)
    linked = re.search(r"(?m)^ln -sf (.*) /usr/bin/$", steps)
    assert linked is not None and {Path(word).name for word in linked[1].split()} == {"vip", "jlogctl"}
