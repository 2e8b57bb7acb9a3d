"""The configuration of vip: what is accepted, and that every mistake is told with line, field, found and accepted."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.errors import ConfigError
from vip.addresses import block_of, count_addresses, outside_finder, parse_addresses
from vip.config import Settings, load, parse
from vip.places import blocks_down, floatings_of, interfaces_of
from vip.reload import load_again
from vip.units import bundles_of, definitions_of, differing, digest_of, disagreements, units_of

BASE = """\
[vip]
node = "mta1"
store = "etcd"
etcd = ["http://10.0.0.1:2379"]

[vip.check.smtp]
tcp = "127.0.0.1:25"

[[vip.topology]]
block = "10.1.0.0/16"
interface = "eth1"

[[vip.topology]]
block = "2001:db8::/64"
interface = "eth2"

[[vip.group]]
name = "gold"
addresses = ["10.1.1.10", "2001:db8::10"]
prefer = ["mta1", "mta3"]
checks = ["smtp"]

[[vip.group]]
name = "inject"
addresses = ["10.1.2.10"]
follow = "gold"

[[vip.group]]
name = "pool"
addresses = ["10.1.3.1-10.1.3.200"]
spread = true
"""


def changed(*changes: tuple[str, str], base: str = BASE) -> Settings:
    for old, new in changes:
        assert old in base
        base = base.replace(old, new, 1)
    return parse(base, "vip.toml")


def test_the_example_is_accepted():
    settings = changed()
    units = units_of(settings)
    assert len(units) == 202
    gold = units[0]
    assert gold.addresses == ("10.1.1.10", "2001:db8::10")
    assert gold.blocks == {"10.1.0.0/16", "2001:db8::/64"}
    bundles = {bundle.name: bundle for bundle in bundles_of(units)}
    assert [unit.name for unit in bundles["gold"].units] == ["gold", "inject"]
    assert len(bundles) == 201


def test_where_addresses_go():
    settings = changed()
    floatings = floatings_of(settings)
    assert floatings["10.1.1.10"] == ("10.1.1.10", "eth1", 32)
    assert floatings["2001:db8::10"] == ("2001:db8::10", "eth2", 128)
    assert interfaces_of(settings) == ("eth1", "eth2")
    assert blocks_down(settings, {"eth2"}) == ["10.1.0.0/16"]


def test_the_smallest_block_holds_an_address():
    extra = '[[vip.topology]]\nblock = "10.1.1.0/24"\ninterface = "eth7"\nprefix_length = 24\n'
    assert floatings_of(parse(BASE + extra))["10.1.1.10"] == ("10.1.1.10", "eth7", 24)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('node = "mta1"', "", 1, "vip.node: missing"),
        ('node = "mta1"', 'node = "a b"', 2, 'found "a b"; accepted: 1 to 64 letters'),
        ('node = "mta1"', 'node = "mta1"\nnoed = 1', 3, "unknown setting; did you mean node?"),
        ('store = "etcd"', 'store = "redis"', 3, 'found "redis"; accepted: "etcd" or "solo"'),
        ('etcd = ["http://10.0.0.1:2379"]', "", 1, 'missing with store = "etcd"'),
        ("http://10.0.0.1:2379", "10.0.0.1:2379", 4, 'accepted: the address of a member, "http://HOST:PORT"'),
        ('"http://10.0.0.1:2379"', '"http://a:1", "http://a:1"', 4, "twice"),
        ('node = "mta1"', 'node = "mta1"\ntiming = "fast"', 3, 'accepted: "default", "lan" or "patient"'),
        ('node = "mta1"', 'node = "mta1"\nwindow = "500ms"', 3, 'accepted: "1s" to "5m"'),
        ('node = "mta1"', 'node = "mta1"\nheartbeat = "2s"', 3, "a quarter of the window"),
        ('node = "mta1"', 'node = "mta1"\nwindow = 3', 3, "a number needs a unit"),
        ('node = "mta1"', 'node = "mta1"\nprobe = "2s"', 3, 'found "2s"'),
        ('node = "mta1"', 'node = "mta1"\nhttp = "0.0.0.0:1"', 3, "other addresses are refused"),
        ('node = "mta1"', 'node = "mta1"\nweight = 0', 3, "accepted: a number from 0.01 to 100"),
        ('node = "mta1"', 'node = "mta1"\netcd_user = "root"', 3, "both or none"),
        ('tcp = "127.0.0.1:25"', "", 6, "found none of them; accepted: exactly one of tcp"),
        ('tcp = "127.0.0.1:25"', 'tcp = "here"', 7, 'found "here"; accepted: "HOST:PORT"'),
        ('tcp = "127.0.0.1:25"', 'exec = ["check"]', 7, "the full path of a program first"),
        ('tcp = "127.0.0.1:25"', 'tcp = "127.0.0.1:25"\ninterval = "2h"', 8, 'accepted: "100ms" to "1h"'),
        ("[vip.check.smtp]", '[vip.check."s m"]', 6, 'found "s m"; accepted: 1 to 64 letters'),
        ('node = "mta1"', 'node = "mta1"\nhooks.take = ["notify"]', 3, 'which "notify" is not'),
        ('node = "mta1"', 'node = "mta1"\netcd_keep = "1s"', 3, 'accepted: "1m" to "30d", or "0s" for never'),
        ("10.1.0.0/16", "10.1.0.1/16", 10, "without bits set after the prefix"),
        ('interface = "eth1"', 'interface = "a name that is too long"', 11, "1 to 15 characters"),
        ('"10.1.1.10", ', '"10.1.1.999", ', 19, 'found "10.1.1.999"; accepted: an address such as'),
        ('"10.1.1.10", ', '"127.0.0.1", ', 19, "of a kind that is never moved"),
        ('"10.1.1.10", ', '"10.9.0.1", ', 19, "which no [[vip.topology]] block holds"),
        ("10.1.3.1-10.1.3.200", "10.0.255.250-10.1.0.9", 30, "found 10.0.255.250, which no [[vip.topology]] block"),
        ("10.1.3.1-10.1.3.200", "10.1.255.250-10.2.0.9", 30, "found 10.2.0.0, which no [[vip.topology]] block"),
        ('interface = "eth1"', 'interface = "e\\u0000"', 11, "control characters"),
        ('interface = "eth1"', 'interface = "e\\u001b[2J"', 11, "control characters"),
        ('"10.1.1.10", ', '"10.1.3.7", ', 30, "found 10.1.3.7, which group gold has"),
        ('"10.1.1.10", ', '"10.1.1.10-10.1.2.0", ', 19, "at most 100, or spread = true"),
        ("10.1.3.1-10.1.3.200", "10.1.3.200-10.1.3.1", 30, "from a lower to a higher"),
        ("10.1.3.1-10.1.3.200", "10.1.0.0-10.1.255.255", 30, "a range of at most 10240"),
        ('name = "inject"', 'name = "gold"', 24, "twice; accepted: a name of its own"),
        ('checks = ["smtp"]', 'checks = ["stmp"]', 21, "did you mean smtp?"),
        ('"mta1", "mta3"', '"mta1", "mta1"', 20, "each node once, the best first"),
        ('follow = "gold"', 'follow = "glod"', 26, "did you mean gold?"),
        ('follow = "gold"', 'follow = "inject"', 26, "found its own name"),
        ('follow = "gold"', 'follow = "pool"', 26, "groups that move as one"),
        ('follow = "gold"', 'follow = "gold"\nprefer = ["mta2"]', 27, "beside follow"),
        ("spread = true", 'failback = "sometimes"', 31, 'accepted: "auto", "never" or "manual"'),
    ],
)
def test_mistakes_are_told_where_they_are(old: str, new: str, line: int, words: str):
    with pytest.raises(ConfigError) as caught:
        changed((old, new))
    told = [text for text in str(caught.value).splitlines() if words in text]
    assert told, str(caught.value)
    assert told[0].startswith(f"vip.toml:{line}: vip"), told


def holes(*blocks: str) -> str:
    """A configuration with a range from 10.98.0.1 to 10.98.0.9 over these blocks."""
    topology = "".join(f'[[vip.topology]]\nblock = "{block}"\ninterface = "eth1"\n' for block in blocks)
    group = '[[vip.group]]\nname = "g"\nspread = true\naddresses = ["10.98.0.1-10.98.0.9"]\n'
    return f'[vip]\nnode = "n1"\nstore = "solo"\n{topology}{group}'


def test_a_range_lies_in_blocks_from_end_to_end():
    with pytest.raises(ConfigError, match=r"found 10\.98\.0\.4, which no .* accepted: an address inside a block"):
        parse(holes("10.98.0.0/30", "10.98.0.8/30"))
    assert parse(holes("10.98.0.8/30", "10.98.0.0/30", "10.98.0.4/30"))
    assert parse(holes("10.98.0.8/29", "10.98.0.0/16", "10.98.0.0/30"))


@given(st.data())
def test_what_lies_outside_is_found_as_by_looking_at_every_address(data: st.DataObject):
    blocks = data.draw(st.lists(st.builds(block, st.integers(0, 63), st.integers(26, 32)), max_size=6))
    first = data.draw(st.integers(0, 63))
    text = f"10.0.0.{first}-10.0.0.{data.draw(st.integers(first, 63))}"
    slow = next((address for address in parse_addresses(text) if block_of(address, blocks) is None), None)
    assert outside_finder(blocks)(text) == slow
    assert count_addresses(text) == len(parse_addresses(text))


def block(number: int, prefix: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((f"10.0.0.{number}", prefix), strict=False)


def test_a_chain_of_followers_is_refused():
    extra = '[[vip.group]]\nname = "third"\naddresses = ["10.1.2.11"]\nfollow = "inject"\n'
    with pytest.raises(ConfigError, match="which follows itself"):
        parse(BASE + extra)


def test_what_does_not_fit_together_is_told_once_every_setting_is_right():
    """As the help says: all of the first kind at once, then all of the second."""
    unfit = (('checks = ["smtp"]', 'checks = ["imap"]'), ('follow = "gold"', 'follow = "nosuch"'))
    wrong = (("[vip]\n", "[vip]\nweight = 1000\nnoed = 1\n"), *unfit)
    with pytest.raises(ConfigError) as caught:
        changed(*wrong)
    told = str(caught.value)
    assert "weight" in told and "noed" in told and "imap" not in told and "nosuch" not in told
    with pytest.raises(ConfigError) as caught:
        changed(*unfit)
    assert "imap" in str(caught.value) and "nosuch" in str(caught.value)


def test_all_that_is_wrong_by_itself_is_told_at_once():
    """Texts that no type knows among it: a block, a range, a member, a time, an address to listen at."""
    wrong = (
        ('node = "mta1"', 'node = "a b"\nhttp = "0.0.0.0:1"\nmature = "1h"'),
        ("http://10.0.0.1:2379", "10.0.0.1:2379"),
        ("10.1.0.0/16", "10.1.1.0/33"),
        ("10.1.3.1-10.1.3.200", "10.1.1.100-10.1.1.99"),
        ('checks = ["smtp"]', 'checks = ["imap"]'),
    )
    with pytest.raises(ConfigError) as caught:
        changed(*wrong)
    told = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert told == [
        "vip.node", "vip.http", "vip.mature", "vip.etcd[0]", "vip.topology[0].block", "vip.group[2].addresses[0]"
    ]  # fmt: skip


def test_too_many_addresses_are_refused():
    with pytest.raises(ConfigError, match="accepted: at most 10240"):
        changed(("10.1.3.1-10.1.3.200", "10.1.4.0-10.1.43.255"))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"[vip]\n\xff")
    with pytest.raises(ConfigError, match=r"bytes\.toml:2: not valid TOML: found byte 0xff"):
        load(tmp_path / "bytes.toml")


def test_solo_needs_no_etcd():
    assert changed(('store = "etcd"\netcd = ["http://10.0.0.1:2379"]', 'store = "solo"')).etcd == ()


def test_addresses_are_made_canonical():
    assert parse_addresses("2001:DB8:0::10") == ("2001:db8::10",)
    assert parse_addresses("10.0.0.254 - 10.0.1.1") == ("10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1")


# ---- configurations that differ ------------------------------------------------------------------------------------


def definitions(*changes: tuple[str, str]):
    return definitions_of(changed(*changes))


def test_what_does_not_concern_others_makes_no_difference():
    one = definitions()
    assert digest_of(one) == digest_of(definitions(('node = "mta1"', 'node = "mta2"\nweight = 2.0')))
    assert digest_of(one) != digest_of(definitions(("10.1.2.10", "10.1.2.11")))


@pytest.mark.parametrize(
    ("change", "broken", "unsafe"),
    [
        (("10.1.2.10", "10.1.2.11"), {"inject": "mta2 has other addresses under this name"}, {}),
        (('name = "inject"', 'name = "other"'), {"inject": "mta2 has 10.1.2.10 in its group other"}, {}),
        (('follow = "gold"', ""), {"inject": "mta2 has it with another spread or follow"}, {}),
        (('checks = ["smtp"]', 'services = ["smtp"]'), {}, {"gold": "mta2 serves smtp on it"}),
        (('prefer = ["mta1", "mta3"]', ""), {}, {}),
    ],
)
def test_disagreements(change: tuple[str, str], broken: dict[str, str], unsafe: dict[str, str]):
    assert disagreements(definitions(), {"mta2": definitions(change)}) == (broken, unsafe)


def test_a_group_that_a_node_does_not_have_is_no_disagreement():
    without = definitions_of(parse(BASE.split('[[vip.group]]\nname = "pool"')[0]))
    assert disagreements(definitions(), {"mta2": without}) == ({}, {})
    assert differing(definitions(), without) == {"pool"}


def test_a_configuration_that_is_a_pipe_is_not_read_again(tmp_path: Path) -> None:
    """It would wait for a writer, and the daemon with it."""
    path = tmp_path / "vip.toml"
    path.write_text(BASE)
    assert load_again(path) == load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="no regular file"):
        load_again(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_again(tmp_path / "absent.toml")
