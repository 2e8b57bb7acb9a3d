"""The configuration of a daemon that was given none, and the lines it prints to be pasted next.

The text is parsed like any file: what works here works in a `jlogd.toml`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from shlex import quote

from jlogd.daemon.config import Config
from jlogd.daemon.config_file import parse
from jlogd.sources.config import Address

DEFAULT_ORIGIN = "built-in configuration"
DEFAULT_TOML = """\
[node]
spool = "var/spool"

[listen]
zmq = ["tcp://127.0.0.1:5140"]
http = "127.0.0.1:5180"

[log.mainlog]
subscribers = ["master"]
# Nobody may ever read what a first try leaves behind: at the cap the oldest records go, and "master" is told.
max_lag_bytes = "10GiB"
on_full = "drop-oldest"

[[source.syslog]]
log = "mainlog"
listen = ["udp://127.0.0.1:5514", "tcp://127.0.0.1:5514"]
"""


def default_config() -> Config:
    return parse(DEFAULT_TOML, DEFAULT_ORIGIN)


def paste_lines(config: Config) -> list[str]:
    """Commands that work against a daemon running `config`, each with a word on what it does."""
    name = next(iter(config.log), "")
    if not name:
        return []
    log = quote(str(config.spool / name))
    commands = []
    for source in config.source.syslog:
        for address in source.addresses():
            commands.append((f"logger {_logger_target(address)} 'hello, log'", f"send a record to {source.log}"))
    jlogctl = _jlogctl()
    commands.append((f"{jlogctl} tail --follow {log}", "watch the records come in"))
    remote = next((text for text in config.listen.zmq if text), "")
    if remote:
        commands.append((f"{jlogctl} tail --follow {quote(f'{remote}/{name}')}", "the same over ZeroMQ"))
    commands.append((f"{jlogctl} stat {log}", "see who lags"))
    if config.http:
        commands.append((f"curl http://{config.http}/metrics", "metrics; health is at /healthz"))
    width = max(len(command) for command, _ in commands)
    return [f"{command.ljust(width)}  # {what}" for command, what in commands]


def _jlogctl() -> str:
    """How to call jlogctl from a shell that does not have this environment on its PATH."""
    beside = Path(sys.executable).with_name("jlogctl")
    if shutil.which("jlogctl") or not beside.exists():
        return "jlogctl"
    return quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


def _logger_target(address: Address) -> str:
    """The options of logger(1) that reach a syslog listener."""
    if address.kind in ("unix", "unixgram"):
        return f"--socket {quote(address.host)}"
    return f"-n {address.host} -P {address.port} --{address.kind}"
