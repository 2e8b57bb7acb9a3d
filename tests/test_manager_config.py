"""`[manager]` of the configuration: mistakes are named, rules choose, keys are demanded beyond the host."""

from __future__ import annotations

import pytest

from jlogd.daemon.config_file import parse
from jlogd.errors import ConfigError
from jlogd.manager.config import ManagedNode, ManagerConfig, PullRule, wanted

NODE = '[[manager.node]]\nname = "east1"\naddress = "tcp://127.0.0.1:5140"\n'
KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"

MISTAKES = [
    ('[manager]\nfiles = "/a/../b"', "manager.files: found \"/a/../b\"; accepted: a path with %{node}"),
    ('[manager]\nfiles = "/a/%{nod}"', "there is no %{nod}"),
    ('[manager]\nfile_mode = "rw"', 'manager.file_mode: found "rw"; accepted: a mode in octal digits'),
    ('[manager]\nmemory = "1MiB"', "manager.memory: found 1048576; accepted: a size of at least"),
    ('[manager]\nopen_files_max = 1', "manager.open_files_max: found 1; accepted: 8 to"),
    ('[[manager.node]]\nname = "a b"\naddress = "tcp://127.0.0.1:1"', "manager.node[0].name: found \"a b\""),
    ('[[manager.node]]\nname = "a"\naddress = "127.0.0.1"', "is not an address"),
    (NODE + NODE, "manager.node[1].name: found \"east1\", which another node has"),
    ('[[manager.node]]\nname = "a"\naddress = "tcp://10.0.0.1:5141"', "its public key, because its address is beyond"),
    (NODE + f'key = "{KEY}"', "a key of the node needs one of the manager"),
    (NODE + 'key = "short"', "manager.node[0].key: 'short' is not a key: found 5 characters; accepted: the 40"),
    ('[[manager.pull]]\nfiles = "/a"\nstdout = true', "manager.pull[0].stdout: given beside files; accepted: one"),
    ('[[manager.pull]]\nsyslog = "udp://127.0.0.1:514"', "manager.pull[0].syslog: found"),
    ('[[manager.pull]]\njournal = "/spool/%Y"', "manager.pull[0].journal: found"),
    ('[[manager.pull]]\nnodes = []', "manager.pull[0].nodes: found an empty array"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value), str(caught.value)


def test_keys_are_demanded_beyond_the_host_only() -> None:
    assert parse(NODE).manager.node[0].keys == ()
    far = NODE.replace("127.0.0.1", "10.0.0.11")
    assert parse(f'[manager]\nkey = "/k"\n{far}key = ["{KEY}", "{KEY}"]\n').manager.node[0].keys == (KEY, KEY)
    assert parse(f"[manager]\ninsecure = true\n{far}").manager.insecure
    assert parse('[[manager.node]]\nname = "a"\naddress = "ipc:///run/jlogd.sock"\n').manager.node[0].keys == ()


def test_the_first_rule_that_fits_decides_and_others_add_as_other_subscribers() -> None:
    node = ManagedNode(name="east1", subcluster="east", address="tcp://127.0.0.1:1")
    rules = (
        PullRule(nodes=("west*",), files="/west"),
        PullRule(logs=("main*",), files="/main"),
        PullRule(files="/rest"),
        PullRule(logs=("mainlog", "absent"), journal="/spool/all", subscriber="copy"),
    )
    found = {
        (s.origin.log, s.subscriber): s.output
        for s in wanted(ManagerConfig(pull=rules), "mgr1", node, ["mainlog", "x"])
    }
    assert found == {
        ("mainlog", "mgr1"): "files:/main", ("x", "mgr1"): "files:/rest",
        ("mainlog", "copy"): "journal:/spool/all", ("absent", "copy"): "journal:/spool/all",
    }  # fmt: skip
    assert [s.output for s in wanted(ManagerConfig(files="/f"), "m", node, ["a"])] == ["files:/f"]
