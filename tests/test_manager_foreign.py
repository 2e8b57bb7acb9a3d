"""What others append to a file while a round fails is never cut, whatever fails and whenever they do it."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from crc32c import crc32c
from manager_support import ROOT, Manager, Medium, Node, batches
from model_disk import Fault

from jlogd.journal.batch import encode
from jlogd.manager.handles import FileOptions
from jlogd.manager.ledger import Changes, LedgerFailed, SourceState
from jlogd.manager.parcel import Parcel

SMALL = FileOptions(open_files_max=2)
BY_HAND = b"by hand\n"
FIRST = b"record 0\nrecord 1\nrecord 2\n"
REST = b"record 3\nrecord 4\nrecord 5\n"


def begun(options: FileOptions | None = None) -> tuple[Medium, Manager, Node, Node]:
    """A manager that wrote three of six batches of two nodes."""
    medium = Medium()
    manager = Manager(medium, options)
    found = []
    for name in ("n0", "n1"):
        items = [encode([b"record %d" % n]).stamped(n + 1, 1, 1_800_014_400 * 10**9, 1) for n in range(6)]
        found.append(Node(name, items))
    manager.pull([Node(node.source.origin.node, node.items[:3]) for node in found])
    return medium, manager, found[0], found[1]


def path_of(medium: Medium, name: str) -> str:
    return next(path for path in medium.paths() if path.endswith(f"/{name}"))


def one_round(manager: Manager, nodes: list[Node], batches: int) -> None:
    """One round with the next batches of these nodes."""
    for node in nodes:
        state = manager.ledger.source(node.source.key)
        start = state.next if state else 1
        manager.rounds.put(Parcel(node.source, "uuid", node.items[start - 1 : start - 1 + batches], 100))
    manager.rounds.step()


def meddle(medium: Medium, path: str, text: bytes = BY_HAND) -> None:
    """Someone appends."""
    node = medium.disk._file(Path(path))
    node.write(len(node.cached), text)


def test_behind_what_a_failed_round_appended() -> None:
    """The two stand one behind the other: nothing can be taken away, and the records are in the next part as well."""
    medium, manager, node, other = begun()
    path = path_of(medium, "n0")
    medium.disk.faults.append(Fault(op="sync", path="*/n1", error=errno.EIO, action=lambda: meddle(medium, path)))
    one_round(manager, [node, other], 3)
    manager.run()
    assert medium.text(path) == FIRST + REST + BY_HAND
    assert medium.text(f"{path}.part2") == REST
    state = medium.ledger[1][path]
    assert (state.status, state.length, state.crc) == ("left", len(FIRST), crc32c(FIRST))


def test_before_what_a_failed_round_appended() -> None:
    """What is ours is taken away from behind it."""
    medium, manager, node, other = begun()
    path = path_of(medium, "n0")
    medium.disk.faults.append(Fault(op="append", path="*/n0", action=lambda: meddle(medium, path)))
    medium.disk.faults.append(Fault(op="sync", path="*/n1", error=errno.EIO))
    one_round(manager, [node, other], 3)
    manager.run()
    assert medium.text(path) == FIRST + BY_HAND
    assert medium.text(f"{path}.part2") == REST
    assert medium.ledger[1][path].status == "left"


def test_where_nothing_could_be_appended() -> None:
    medium, manager, node, _ = begun()
    path = path_of(medium, "n0")
    fault = Fault(op="append", path="*/n0", error=errno.ENOSPC, action=lambda: meddle(medium, path))
    medium.disk.faults.append(fault)
    manager.pull([node])
    assert medium.text(path) == FIRST + BY_HAND
    assert medium.text(f"{path}.part2") == REST


def test_as_long_as_what_a_failed_round_appended() -> None:
    """The length proves nothing."""
    medium, manager, node, _ = begun()
    path = path_of(medium, "n0")
    line = b"rocord 9\n"
    fault = Fault(op="append", path="*/n0", error=errno.ENOSPC, action=lambda: meddle(medium, path, line))
    medium.disk.faults.append(fault)
    manager.pull([node])
    assert medium.text(path) == FIRST + line
    assert medium.text(f"{path}.part2") == REST


def test_a_part_of_what_a_failed_round_appended_is_cut() -> None:
    medium, manager, node, _ = begun()
    path = path_of(medium, "n0")
    medium.disk.faults.append(Fault(op="append", path="*/n0", short=4))
    medium.disk.faults.append(Fault(op="append", path="*/n0", error=errno.EIO))
    manager.pull([node])
    assert medium.text(path) == FIRST + REST and f"{path}.part2" not in medium.paths()


def failing(manager: Manager, then: object, took_effect: bool) -> None:
    """The next commit of positions fails, and `then` happens."""
    commit = manager.ledger.commit

    def once(changes: Changes) -> None:
        if not changes.sources:
            return commit(changes)
        manager.ledger.commit = commit  # type: ignore[method-assign]
        if took_effect:
            commit(changes)
        then()  # type: ignore[operator]
        raise LedgerFailed("no space")

    manager.ledger.commit = once  # type: ignore[method-assign]


@pytest.mark.parametrize("took_effect", [False, True])
@pytest.mark.parametrize("name", ["n0", "n1"])
def test_while_the_ledger_failed(name: str, took_effect: bool) -> None:
    """Into the file of the round, and into one that is open and has no part in it."""
    medium, manager, node, other = begun()
    path = path_of(medium, name)
    failing(manager, lambda: meddle(medium, path), took_effect)
    one_round(manager, [node], 1)
    manager.pull([node, other])
    taken = b"record 3\n" if name == "n0" else b""
    assert medium.text(path) == FIRST + taken + BY_HAND
    assert medium.ledger[1][path].status == "left"
    assert medium.text(f"{path}.part2") == (REST.removeprefix(taken) if took_effect else REST)


def test_to_a_file_that_is_closed_to_make_room_after_a_failure() -> None:
    medium, manager, node, other = begun(FileOptions(open_files_max=1))
    path = path_of(medium, "n0")
    medium.disk.faults.append(Fault(op="sync", path="*/n0", error=errno.EIO, action=lambda: meddle(medium, path)))
    one_round(manager, [node, other], 3)
    manager.run()
    assert medium.text(path) == FIRST + REST + BY_HAND and medium.text(f"{path}.part2") == REST


def test_a_ledger_that_is_away_for_longer_is_asked_before_anything_is_cut() -> None:
    """The transaction took effect, and whether it did cannot be known for a while."""
    medium, manager, node, other = begun()
    path = path_of(medium, "n0")
    closed = {"times": 0}
    source, reopen = manager.ledger.source, manager.ledger.reopen

    def shut() -> None:
        closed["times"] = 3

    def reopened() -> None:
        closed["times"] -= 1
        if closed["times"] > 0:
            raise LedgerFailed("it cannot be opened")
        reopen()

    def asked(key: str) -> SourceState | None:
        if closed["times"] > 0:
            raise LedgerFailed("it is closed")
        return source(key)

    manager.ledger.source, manager.ledger.reopen = asked, reopened  # type: ignore[method-assign]
    failing(manager, shut, took_effect=True)
    one_round(manager, [node], 1)
    assert closed["times"] > 0 and medium.text(path) == FIRST + b"record 3\n"
    manager.rounds.step()
    assert medium.text(path) == FIRST + b"record 3\n", "cut although the ledger has it"
    manager.run()
    manager.pull([node, other])
    assert medium.text(path) == FIRST + REST


def calls_of_a_run(seed: int) -> int:
    medium, rng = Medium(), random.Random(seed)
    Manager(medium, SMALL).pull([Node(f"n{at}", batches(rng, f"n{at}", 5)) for at in range(3)], rng)
    return medium.disk.calls


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_at_every_call_that_fails(seed: int, after: bool) -> None:
    for call in range(1, calls_of_a_run(seed) + 1):
        medium, rng, other = Medium(), random.Random(seed), random.Random(call)
        nodes = [Node(f"n{at}", batches(rng, f"n{at}", 5)) for at in range(3)]
        hands: list[bytes] = []

        def by_hand(medium: Medium = medium, other: random.Random = other, hands: list[bytes] = hands) -> None:
            paths = [path for path in medium.paths() if path.startswith(ROOT)]
            for path in other.sample(paths, min(len(paths), 2)):
                hands.append(b"by hand %d\n" % len(hands))
                meddle(medium, path, hands[-1])

        medium.disk.faults.append(Fault(error=errno.EIO, at=call, after=after, op="[!c]*", action=by_hand))
        Manager(medium, SMALL).pull(nodes, rng)
        everything = b"".join(medium.text(path) for path in medium.paths() if path.startswith(ROOT))
        for line in hands:
            assert everything.count(line) == 1, (call, line)
        assert sorted(recorded(medium, hands)) == sorted(b"".join(node.text() for node in nodes).splitlines()), call


def recorded(medium: Medium, hands: list[bytes]) -> list[bytes]:
    """The lines of ours in what the ledger knows, each of whose files must be as it says."""
    lines: list[bytes] = []
    for path, state in medium.ledger[1].items():
        text = medium.text(path)[: state.length]
        assert (len(text), crc32c(text), text.count(b"\n")) == (state.length, state.crc, state.lines), path
        for line in hands:
            text = text.replace(line, b"")
        lines += text.splitlines()
    return lines


def test_a_cut_that_fails_too_is_tried_again_with_what_is_known() -> None:
    medium, manager, node, _ = begun()
    path = path_of(medium, "n0")
    failing(manager, lambda: None, took_effect=False)
    medium.disk.faults.append(Fault(op="sync", path="*/n0", error=errno.EIO, at=2, action=lambda: meddle(medium, path)))
    manager.pull([node])
    assert medium.text(path) == FIRST + BY_HAND and medium.text(f"{path}.part2") == REST
