"""The commands of vip without a cluster: help, mistakes, and a whole life on one machine with the store in a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from daemon_support import ROOT, until
from vip_net import Net, need_namespaces

from cluster.solo import SoloStore
from cluster.types import Put, Txn
from jlogd.cli import docs
from jlogd.version import VERSION
from vip.cli.main import cli
from vip.config import parse
from vip.metrics import METRICS
from vip.records import Keys, SessionRecord, encode
from vip.reload import FIXED

COMMANDS = dict(docs.walk(cli))


def vip(*words: str, code: int = 0) -> str:
    """Run a command that must end with `code`; stdout, or stderr when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vip.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stderr if code > 1 else done.stdout


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_with_an_example(path: str):
    shown = vip(*path.split()[1:], "--help")
    assert "Examples:" in shown and "vip " in shown.partition("Examples:")[2]
    for one in COMMANDS[path].params:
        assert not isinstance(one, click.Option) or one.help, (path, one.name)


@pytest.mark.parametrize("line", sorted({line for one in COMMANDS.values() for line in docs.examples(one)}))
def test_every_example_is_accepted(line: str):
    words = shlex.split(line)
    command = COMMANDS[" ".join(words[:2])]
    assert command.make_context(words[1], words[2:])


def test_the_manual_names_every_setting_metric_and_command():
    page = (ROOT / "docs" / "vip.md").read_text()
    for name, (kind, _, _) in METRICS.items():
        assert f"`{name}{'_total' if kind == 'counter' else ''}`" in page, name
    from vip.config import Check, Group, Hooks, Settings, Topology

    for struct in (Settings, Hooks, Check, Topology, Group):
        for field in struct.__struct_fields__:
            assert f"`{field}`" in page or f"[vip.{field}]" in page or f"vip.{field}" in page, (struct, field)
    for path in COMMANDS:
        assert path in page, path


def test_mistakes_in_a_configuration(tmp_path: Path):
    path = tmp_path / "vip.toml"
    path.write_text('[vip]\nnode = "n1"\nstore = "solo"\nnoed = 1\n')
    assert f"{path}:4: vip.noed: unknown setting" in vip("check-config", str(path), code=2)
    assert "cannot be read" in vip("show", "--config", str(tmp_path / "none"), code=2)


def test_a_store_that_is_not_there(tmp_path: Path):
    path = tmp_path / "vip.toml"
    path.write_text('[vip]\nnode = "n1"\nstore = "etcd"\netcd = ["http://127.0.0.1:1"]\n')
    assert "refused" in vip("show", "--config", str(path), code=3)
    assert "is the daemon running?" in vip("history", "--config", str(path), code=3)


def solo_file(directory: Path) -> str:
    """A configuration of one machine whose store is a file; no daemon runs."""
    path = directory / "vip.toml"
    path.write_text(
        f'[vip]\nnode = "n1"\nstore = "solo"\nsolo_file = "{directory}/solo.db"\n'
        '[[vip.topology]]\nblock = "10.77.0.0/16"\ninterface = "lan"\n'
        '[[vip.group]]\nname = "gold"\naddresses = ["10.77.16.1"]\nprefer = ["n1", "n2"]\n'
    )
    return str(path)


def test_only_a_known_node_is_drained(tmp_path: Path):
    path = solo_file(tmp_path)
    vip("drain", "nosuch", "--wait", "0s", "--config", path, code=1)
    assert "nosuch was not drained" in vip("undrain", "nosuch", "--config", path, code=1), "nothing was written"
    for node in ("n1", "n2"):
        assert f"{node} is drained" in vip("drain", node, "--wait", "0s", "--config", path)
    assert "nosuch is drained" in vip("drain", "nosuch", "--force", "--wait", "0s", "--config", path)
    assert "nosuch is drained" in vip("drain", "nosuch", "--wait", "0s", "--config", path), "known by now"


def test_a_hold_can_be_ended_early_and_orders_are_checked(tmp_path: Path):
    path = solo_file(tmp_path)
    with Path(path).open("a") as file:
        file.write('[[vip.group]]\nname = "next"\naddresses = ["10.77.16.2"]\nfollow = "gold"\n')
        file.write('[[vip.group]]\nname = "pool"\naddresses = ["10.77.16.3-10.77.16.4"]\nspread = true\n')
    for words in (("pool", "n1"), ("gold",), ("gold", "n1", "--release"), ("gold", "--release", "--for", "1h")):
        assert "error: " in vip("move", *words, "--config", path, code=2)
    assert "pool is spread" in vip("move", "pool", "n1", "--config", path, code=2)
    keys, record = Keys("default"), SessionRecord(at=time.time(), wait=10**11)
    with contextlib.closing(SoloStore(tmp_path / "solo.db")) as store:
        store.commit(Txn(success=(Put(keys.session("n1"), encode(record)),)), within=5)
    assert "gold, next: nobody held it" in vip("move", "next", "--release", "--config", path, code=1)
    vip("move", "next", "n1", "--for", "1h", "--wait", "0s", "--config", path)
    shown = [json.loads(line) for line in vip("show", "--json", "--config", path, code=1).splitlines()]
    held = {row["address"] for row in shown if row["held_until"] > time.time() + 3000}
    assert held == {"10.77.16.1", "10.77.16.2"}
    assert all("held on n1 until 20" in row["why"] for row in shown if row["address"] in held)
    assert re.search(r"^gold is held on n1 until 20\S+ by \S+$", vip("plan", "--config", path, code=1), re.M)
    assert '"kind":"held"' in vip("plan", "--json", "--config", path, code=1)
    assert "gold, next: no longer held on n1 until" in vip("move", "gold", "--release", "--config", path)
    assert "held" not in vip("plan", "--config", path, code=1)


# ---- one machine -----------------------------------------------------------------------------------------------------


class Solo:
    """A daemon on one machine, in a namespace."""

    def __init__(self, net: Net, directory: Path) -> None:
        self.net, self.directory = net, directory
        self.config = directory / "vip.toml"
        self.config.write_text(
            f'[vip]\nnode = "n1"\nstore = "solo"\nsolo_file = "{directory}/solo.db"\nlog = "{directory}/log"\n'
            'round = "500ms"\nmature = "50ms"\nprobe = "20ms"\n'
            f'[vip.hooks]\ntake = ["/bin/sh", "-c", "cat >> {directory}/taken"]\n'
            '[[vip.topology]]\nblock = "10.77.0.0/16"\ninterface = "lan"\n'
            '[[vip.topology]]\nblock = "fd77::/64"\ninterface = "lan"\n'
            '[[vip.group]]\nname = "gold"\naddresses = ["10.77.16.1", "fd77::1:1"]\n'
            '[[vip.group]]\nname = "pool"\naddresses = ["10.77.16.10-10.77.16.19"]\nspread = true\n'
        )
        self.addresses = ["10.77.16.1", "fd77::1:1", *(f"10.77.16.{number}" for number in range(10, 20))]

    def launch(self, *program: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, *(program or ("-m", "vip.cli.main")), "run", "--config", str(self.config)]
        with (self.directory / "daemon.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            return self.net.popen("n1", command, stdout=log, stderr=log, env=environment)

    def present(self) -> set[str]:
        shown = json.loads(self.net.run("n1", "ip", "-j", "addr", "show", "dev", "lan"))
        found = {info["local"] for link in shown for info in link["addr_info"]}
        return found & set(self.addresses)

    def history(self, *words: str) -> str:
        """What `vip history` says, asked where the daemon is."""
        command = [sys.executable, "-m", "vip.cli.main", "history", *words, "--config", str(self.config)]
        return self.net.run("n1", *command)

    def states(self) -> set[str]:
        """What `vip show` says about the addresses, whatever its exit code."""
        command = [sys.executable, "-m", "vip.cli.main", "show", "--json", "--config", str(self.config)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment).stdout
        return {json.loads(line)["state"] for line in shown.splitlines()}


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Solo]:
    need_namespaces()
    with Net(["n1"]) as net:
        yield Solo(net, tmp_path)


@pytest.mark.slow
def test_a_life_on_one_machine(solo: Solo):
    import jlogd

    jlogd.create(solo.directory / "log", subscribers=["all"])
    assert "moving as 11" in vip("check-config", str(solo.config))
    daemon = solo.launch()
    everything = set(solo.addresses)
    until(lambda: solo.present() == everything, "all are there")
    rows = [json.loads(line) for line in vip("show", "--json", "--config", str(solo.config)).splitlines()]
    assert {(row["address"], row["owner"], row["state"]) for row in rows} == {(a, "n1", "owned") for a in everything}
    until(lambda: len((solo.directory / "taken").read_text().splitlines()) == len(everything), "the hook was told")

    solo.net.run("n1", "ip", "addr", "del", "10.77.16.1/32", "dev", "lan")
    until(lambda: solo.present() == everything, "what was removed by hand is back")

    stays = f"addresses that stay on n1, because no other node can have them: {len(everything)}"
    assert vip("plan", "--drain", "n1", "--config", str(solo.config), code=1).splitlines() == [
        "nothing would move",
        stays,
    ]
    assert "has 12 addresses still" in vip("drain", "n1", "--wait", "0s", "--config", str(solo.config), code=1)
    vip("undrain", "n1", "--config", str(solo.config))

    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not solo.present(), "the guard removed everything")
    until(lambda: solo.states() == {"free"}, "and ended the session, so that nobody is said to own them")
    nodes = vip("show", "--nodes", "--config", str(solo.config), code=1)
    assert re.search(r"n1 +died +.*its daemon died; its guard removed everything", nodes)
    log = (solo.directory / "daemon.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING guard: the daemon died; removed 12", log, re.M)
    daemon = solo.launch()
    until(lambda: solo.present() == everything, "it is back after a kill")
    changes = [json.loads(line) for line in solo.history("--json").splitlines()]
    assert sorted(change["address"] for change in changes) == sorted(everything), "one change each: what it took"
    assert {(change["before"], change["after"]) for change in changes} == {("", "n1")}

    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    assert not solo.present()
    vip("show", "--config", str(solo.config), code=1)
    with jlogd.open(solo.directory / "log") as log, log.subscriber() as reader:
        told = [json.loads(record) for batch in reader for record in batch]
    assert {entry["address"] for entry in told if entry.get("after") == "n1"} == everything
    assert any(not entry.get("after") for entry in told), "the end is told as well"


@pytest.mark.slow
def test_a_daemon_that_fails_ends_its_session_itself(solo: Solo):
    """By an exception, not a signal: its guard sees a daemon that says goodbye, so nobody else would say it."""
    flag = solo.directory / "fail"
    program = (
        "import sys, pathlib; from vip.daemon import Daemon; turn = Daemon.turn\n"
        "def failing(daemon):\n"
        f"    if pathlib.Path({str(flag)!r}).exists(): raise ZeroDivisionError('on purpose')\n"
        "    turn(daemon)\n"
        "Daemon.turn = failing; from vip.cli.main import main; main()"
    )
    daemon = solo.launch("-c", program)
    until(lambda: solo.present() == set(solo.addresses), "all are there")
    flag.touch()
    assert daemon.wait(60) not in (0, 1)
    assert not solo.present()
    assert solo.states() == {"free"}
    nodes = vip("show", "--nodes", "--config", str(solo.config), code=1)
    assert re.search(r"n1 +died +.*its daemon failed, and removed everything before it ended", nodes)


@pytest.mark.slow
def test_an_interface_that_is_not_there(solo: Solo):
    solo.config.write_text(solo.config.read_text().replace('interface = "lan"', 'interface = "wan0"', 1))
    daemon = solo.launch()
    assert daemon.wait(60) in (2, 3)
    assert re.search(r"error: .*wan0", (solo.directory / "daemon.log").read_text())


def test_the_example_of_the_manual_is_right():
    page = (ROOT / "docs" / "vip.md").read_text()
    cluster, solo = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(parse(cluster).group) == 3 and parse(cluster).log
    assert parse(solo).store == "solo"


def test_the_manual_lists_what_needs_a_restart():
    page = (ROOT / "docs" / "vip.md").read_text()
    (listed,) = re.findall(r"These need\s+a restart: (.*?)\.\n", page, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == list(FIXED)


def test_without_its_libraries_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['urllib3'] = None; from vip.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 3
    assert ended.stderr == (
        b"error: floating addresses need urllib3: pip install 'jlogd[vip]',"
        b" or pip install '.[vip]' in a checkout of jlogd\n"
    )


@pytest.mark.parametrize(("module", "library"), [("vip.cli.main", "urllib3"), ("cidr.cli.main", "lark")])
def test_the_version_can_be_had_without_its_libraries(module: str, library: str) -> None:
    name = module.partition(".")[0]
    program = (
        f"import sys; sys.modules[{library!r}] = None; sys.argv[:] = ['/usr/bin/{name}', '--version']; "
        f"from {module} import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, f"{name} {VERSION}\n".encode()), ended.stderr
