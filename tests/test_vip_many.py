"""Two thousand addresses, IPv4 and IPv6: cold start, a lost node, its return; nothing is announced twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from vip_lab import Lab

pytestmark = pytest.mark.slow

COUNT = 1000  # of each kind


@pytest.mark.timeout(600)
def test_two_thousand_addresses(tmp_path: Path):
    with Lab(tmp_path, nodes=3, settings='max_moves = 2000\nwindow = "6s"\n', sampled=2) as lab:
        net = lab.net
        four = [net.floating(number) for number in range(COUNT)]
        six = [net.floating6(number) for number in range(1, COUNT + 1)]
        lab.addresses = four + six
        lab.groups = (
            f'[[vip.group]]\nname = "many"\naddresses = ["{four[0]}-{four[-1]}", "{six[0]}-{six[-1]}"]\n'
            'spread = true\nfailback_after = "50ms"\n'
        )

        def holders() -> dict[str, set[str]]:
            state: dict[str, set[str]] = {address: set() for address in lab.addresses}
            for change in list(lab.kernel.changes):
                nodes = state.setdefault(change.address, set())
                (nodes.add if change.there else nodes.discard)(change.node)
            return state

        def held(names: set[str]) -> bool:
            state = holders()
            return all(len(state[address]) == 1 and state[address] <= names for address in lab.addresses)

        def share(name: str) -> int:
            return sum(name in nodes for nodes in holders().values())

        lab.start()
        lab.until(lambda: held(set(lab.names)), "all are held", 180)
        lab.kill("n1")
        lab.until(lambda: held({"n2", "n3"}), "the others have all", 180)
        lab.launch("n1")
        lab.until(lambda: share("n1") > COUNT // 3, "n1 has its share again", 180)
        lab.until(lambda: held(set(lab.names)), "all are held", 180)
        for name in lab.names:
            assert "DADFAILED" not in net.run(name, "ip", "-6", "addr", "show", "dev", "lan").upper()
        lab.verdict()
