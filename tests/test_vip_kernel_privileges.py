"""Without root: three capabilities are enough, two without the gate; what is missing is said in words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from vip_kernel_support import ROOT, Holder, floating, shown, until
from vip_net import TESTS, Net, Sniffer, need_namespaces

NOBODY = "65534"
BPF = "+cap_39"  # CAP_BPF, which older tools do not know by name
# To read the interpreter and this checkout, which may be root's alone; of no use for anything else here.
READ = "+dac_read_search"


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2"]) as made:
        yield made


def unprivileged(*capabilities: str) -> list[str]:
    """A command in front of another one that leaves it with these capabilities and nothing else."""
    wanted = ",".join((READ, *capabilities))
    only = f"-all,{wanted}"
    return [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}",
    ]  # fmt: skip


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field + ":"))


def test_everything_as_an_unprivileged_user(net: Net) -> None:
    some = [floating(net.floating(1)), floating(net.floating6(1))]
    wrap = unprivileged("+net_admin", "+net_raw", BPF)
    with Sniffer(net, [one.address for one in some]) as sniffer, Holder(net, "n1", some, wrap=wrap) as holder:
        assert (holder.start["gate"], holder.start["failed"]) == ("bpf", [])
        for pid in (holder.pid, holder.guard):
            assert status(pid, "Uid") == NOBODY
            assert int(status(pid, "CapEff"), 16) & 1 << 21 == 0  # not CAP_SYS_ADMIN
        until(lambda: sniffer.of(some[0].address, "arp") and sniffer.of(some[1].address, "na"), "they are announced")
        assert {one.address for one in some} <= set(shown(net, "n1"))
        os.kill(holder.pid, signal.SIGKILL)
        until(lambda: not {one.address for one in some} & set(shown(net, "n1")), "the guard removes them")


def test_without_the_capability_for_bpf_lifetimes_alone_and_why(net: Net) -> None:
    one = floating(net.floating(2))
    with Holder(net, "n1", [one], wrap=unprivileged("+net_admin", "+net_raw")) as holder:
        assert (holder.start["gate"], holder.start["failed"]) == ("lifetime", [])
        [remark] = holder.start["remarks"]
        assert "no BPF gate" in remark and "CAP_BPF" in remark and "lifetimes" in remark
        assert holder.start["lateness"] > 1_000_000_000
        holder.end()
    assert one.address not in shown(net, "n1")


@pytest.mark.parametrize(
    "capabilities,settings,words",
    [
        (["+net_raw", BPF], {}, "KernelError: addresses cannot be changed"),
        (["+net_admin", BPF], {}, "CAP_NET_RAW is missing"),
        (["+net_admin", "+net_raw"], {"gate": "bpf"}, "CAP_BPF and CAP_NET_ADMIN"),
    ],
)
def test_what_is_missing_is_named(net: Net, capabilities: Sequence[str], settings: dict[str, str], words: str) -> None:
    wish = {"interfaces": ["lan"], "addresses": [[net.floating(3), "lan", 32]], "window": 3.0, "settings": settings}
    command = [*unprivileged(*capabilities), sys.executable, str(TESTS / "vip_holder.py"), json.dumps(wish)]
    holder = net.popen(
        "n1", command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said, errors = holder.communicate(timeout=60)
    assert words in errors.decode() and "ready" not in said.decode() and holder.returncode != 0
    assert net.floating(3) not in shown(net, "n1")
