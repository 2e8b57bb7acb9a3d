"""A daemon that cannot listen leaves no spool behind."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from jlogd.daemon.config_file import parse
from jlogd.daemon.daemon import admitted
from jlogd.daemon.ports import demand_free_ports
from jlogd.errors import CannotListen

USES = {
    "listen.zmq": '[listen]\nzmq = ["tcp://127.0.0.1:{port}"]\nhttp = ""\n',
    "listen.http": '[listen]\nzmq = []\nhttp = "127.0.0.1:{port}"\n',
    "source.syslog.listen": '[listen]\nzmq = []\nhttp = ""\n[log.a]\n'
    '[[source.syslog]]\nlog = "a"\nlisten = ["{kind}://127.0.0.1:{port}"]\n',
}


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("tcp", "listen.zmq"), ("tcp", "listen.http"), ("tcp", "source.syslog.listen"), ("udp", "source.syslog.listen")],
)
def test_a_port_in_use_is_told_before_anything_is_made(tmp_path: Path, kind: str, setting: str) -> None:
    spool = tmp_path / "var" / "spool"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        text = f'[node]\nname = "east1"\nspool = "{spool}"\n' + USES[setting].format(kind=kind, port=port)
        with pytest.raises(CannotListen, match=rf"on .*127\.0\.0\.1:{port}: address already in use; .*{setting}"):
            admitted(parse(text))
    assert not (tmp_path / "var").exists()


def test_ports_that_the_system_chooses_are_free() -> None:
    demand_free_ports(parse('[node]\nname = "east1"\n' + USES["listen.zmq"].format(port=0)))
