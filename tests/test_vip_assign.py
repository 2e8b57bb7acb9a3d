"""Who should have what: properties of the pure function first, then the tables of an operator's expectations."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vip.assign import Limits, Wish, _Assignment, assign
from vip.fitness import Fitness, Member, mature_after
from vip.units import Bundle, Unit, bundles_of

BLOCK = "10.0.0.0/8"
NODES = ("mta1", "mta2", "mta3", "mta4")


def unit(name: str, **options: object) -> Unit:
    settings = {"group": name, "addresses": (f"10.0.0.{len(name)}",), "blocks": frozenset({BLOCK}), **options}
    return Unit(name=name, **settings)  # type: ignore[arg-type]


def singles(count: int, **options: object) -> tuple[Bundle, ...]:
    return bundles_of(unit(f"u{number:04}", **options) for number in range(count))


def nodes(*names: str, **options: object) -> list[Member]:
    return [Member(name, **options) for name in names]  # type: ignore[arg-type]


def settle(bundles, members, owners=None, pins=None, limits=None, rounds=400) -> tuple[dict[str, str], int]:
    """Carry out plans until nothing moves any more; the owners then, and how many moves it took."""
    owners = dict(owners or {})
    moves = 0
    for _ in range(rounds):
        wishes = assign(bundles, members, owners, pins, limits)
        wanted = {name: wish.node for name, wish in wishes.items() if wish.node}
        changed = {name for name in wanted if owners.get(name) != wanted[name]}
        if not changed:
            return wanted, moves
        moves += len(changed)
        owners = wanted
    raise AssertionError("plans do not come to rest")


members_strategy = st.lists(
    st.builds(
        Member,
        name=st.sampled_from(NODES),
        weight=st.sampled_from([1.0, 1.0, 2.0, 0.5]),
        drained=st.booleans(),
        down=st.sampled_from([frozenset(), frozenset(), frozenset({BLOCK})]),
        failing=st.sampled_from([frozenset(), frozenset(), frozenset({"smtp"})]),
        ready=st.sampled_from([True, True, False]),
        older=st.sampled_from([False, False, True]),
        age=st.sampled_from([0, 3, 8, 40, 10_000]),
        losses=st.sampled_from([0, 0, 1, 3]),
    ),
    max_size=4,
    unique_by=lambda member: member.name,
)


@st.composite
def bundles_strategy(draw: st.DrawFn) -> tuple[Bundle, ...]:
    units = []
    for number in range(draw(st.integers(1, 12))):
        follow = draw(st.sampled_from(["", "", "u0000"])) if number else ""
        units.append(
            unit(
                f"u{number:04}",
                prefer=() if follow else tuple(draw(st.lists(st.sampled_from(NODES), max_size=2, unique=True))),
                checks=frozenset(draw(st.sets(st.sampled_from(["smtp"])))),
                failback=draw(st.sampled_from(["auto", "auto", "never", "manual"])),
                follow=follow,
            )
        )
    return bundles_of(units)


@st.composite
def situations(draw: st.DrawFn):
    bundles = draw(bundles_strategy())
    members = draw(members_strategy)
    owners = {bundle.name: draw(st.sampled_from(["", *NODES])) for bundle in bundles}
    pins = {bundle.name: draw(st.sampled_from(NODES)) for bundle in bundles if draw(st.integers(0, 5)) == 0}
    return bundles, members, owners, pins


@given(situations(), st.randoms(use_true_random=False))
def test_every_node_gets_the_same_answer(situation, random):
    bundles, members, owners, pins = situation
    shuffled_bundles, shuffled_members = list(bundles), list(members)
    random.shuffle(shuffled_bundles)
    random.shuffle(shuffled_members)
    shuffled_owners = dict(random.sample(list(owners.items()), len(owners)))
    assert assign(bundles, members, owners, pins) == assign(shuffled_bundles, shuffled_members, shuffled_owners, pins)


@given(situations())
def test_plans_come_to_rest(situation):
    bundles, members, owners, pins = situation
    settle(bundles, members, owners, pins)


@given(situations())
def test_every_wish_is_explained_and_possible(situation):
    bundles, members, owners, pins = situation
    run = _Assignment(bundles, members, owners, pins, Limits(), {})
    wishes = run.run()
    by_name = {member.name: member for member in members}
    assert set(wishes) == {bundle.name for bundle in bundles}
    for bundle in bundles:
        wish = wishes[bundle.name]
        owner = owners[bundle.name] if owners[bundle.name] in by_name else ""
        assert wish.why
        if not wish.node:
            assert wish.kind == "nobody"
            assert not run.classes(bundle)
        elif wish.node != owner:
            assert run.fitness(bundle, by_name[wish.node]) is not None
        assert (wish.kind == "keep") == (wish.node == owner and bool(owner))


@given(situations())
def test_worse_nodes_only_when_there_is_no_better(situation):
    """Drained and unhealthy nodes come last."""
    bundles, members, owners, _ = situation
    run = _Assignment(bundles, members, owners, {}, Limits(), {})
    for name, wish in run.run().items():
        bundle = next(bundle for bundle in bundles if bundle.name == name)
        classes = run.classes(bundle)
        if wish.node in classes:
            assert classes[wish.node] <= min(classes.values()) or (
                classes[wish.node] is Fitness.FIT and wish.kind == "keep"
            )


@given(situations())
def test_the_best_preferred_node_gets_what_has_no_owner(situation):
    bundles, members, _, _ = situation
    run = _Assignment(bundles, members, {}, {}, Limits(), {})
    for name, wish in run.run().items():
        bundle = next(bundle for bundle in bundles if bundle.name == name)
        classes = run.classes(bundle)
        best = [node for node, fitness in classes.items() if fitness == min(classes.values())]
        preferred = [node for node in bundle.leader.prefer if node in best]
        if preferred:
            assert wish.node == preferred[0]


@given(st.integers(1, 60), st.integers(1, 4), st.data())
def test_no_node_has_more_than_its_share(count, alive, data):
    """From any owners: at most ceil(V/N), and nobody is idle while another has two more."""
    bundles, members = singles(count), nodes(*NODES[:alive])
    owners = {bundle.name: data.draw(st.sampled_from(["", *NODES[:alive]])) for bundle in bundles}
    after, _ = settle(bundles, members, owners)
    load = Counter(after.values())
    assert max(load.values()) <= math.ceil(count / alive)
    assert max(load.values()) - min(load[name] for name in NODES[:alive]) <= 1


@given(st.integers(1, 60), st.integers(1, 4), st.data())
def test_as_few_moves_as_possible(count, alive, data):
    """Only what is over the even share moves, each once."""
    bundles, members = singles(count), nodes(*NODES[:alive])
    owners = {bundle.name: data.draw(st.sampled_from(NODES[:alive])) for bundle in bundles}
    load = Counter(owners.values())
    low, spare = divmod(count, alive)
    # The cheapest even spread leaves the extra ones where most already is.
    shares = sorted((load[name] for name in NODES[:alive]), reverse=True)
    needed = sum(max(0, have - (low + (place < spare))) for place, have in enumerate(shares))
    _, moves = settle(bundles, members, owners)
    assert moves == needed


@given(st.integers(4, 60))
def test_a_lost_node_moves_only_what_it_had(count):
    bundles = singles(count)
    before, _ = settle(bundles, nodes(*NODES))
    after, _ = settle(bundles, nodes(*NODES[1:]), before)
    assert {name for name in before if before[name] != after[name]} == {
        name for name, node in before.items() if node == NODES[0]
    }


@given(st.integers(1, 60), st.integers(1, 10))
def test_at_most_so_many_moves_a_round(count, most):
    bundles, members = singles(count), nodes(*NODES)
    owners = {bundle.name: NODES[0] for bundle in bundles}
    wishes = assign(bundles, members, owners, limits=Limits(max_moves=most))
    assert sum(wish.kind == "shift" for wish in wishes.values()) <= most


@given(
    st.integers(1, 60),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4),
    st.data(),
)
def test_a_plan_that_is_carried_out_in_part_stays_as_it_is(count, weights, data):
    """Nodes claim at the same time and see each other's claims late: nobody may want what another one is claiming."""
    bundles = singles(count)
    members = [Member(NODES[at], weight=weight) for at, weight in enumerate(weights)]
    owners = {bundle.name: data.draw(st.sampled_from(["", "", NODES[0]])) for bundle in bundles}
    plan = {name: wish.node for name, wish in assign(bundles, members, owners).items()}
    open_ = [name for name in plan if not owners[name]]
    done = data.draw(st.sets(st.sampled_from(open_))) if open_ else set()
    assume(set(open_) - done)
    rest = assign(bundles, members, {name: plan[name] if name in done else owners[name] for name in plan})
    assert {name: wish.node for name, wish in rest.items()} == plan


@given(situations())
def test_followers_are_where_their_leader_is(situation):
    """A bundle is placed as one: there is no wish for a follower alone."""
    bundles, members, owners, pins = situation
    wishes = assign(bundles, members, owners, pins)
    followers = {unit.name for bundle in bundles for unit in bundle.units[1:]}
    assert not followers & set(wishes)


@given(st.integers(1, 40), st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=4))
def test_weights_share_out(count, weights):
    bundles = singles(count)
    members = [Member(NODES[at], weight=weight) for at, weight in enumerate(weights)]
    after, _ = settle(bundles, members)
    load = Counter(after.values())
    for member in members:
        share = count * member.weight / sum(weights)
        assert load[member.name] <= math.ceil(share) + len(weights)


@given(situations())
def test_nothing_that_is_frozen_moves(situation):
    bundles, members, owners, pins = situation
    frozen = {bundle.name: "BROKEN: mta2 has other addresses" for bundle in bundles[::2]}
    wishes = assign(bundles, members, owners, pins, frozen=frozen)
    alive = {member.name for member in members}
    for name in frozen:
        owner = owners[name] if owners[name] in alive else ""
        assert wishes[name].node == owner
        assert "BROKEN" in wishes[name].why


# ---- tables --------------------------------------------------------------------------------------------------------


GOLD = bundles_of([unit("gold", prefer=("mta1", "mta3"), checks=frozenset({"smtp"})), unit("inject", follow="gold")])


def gold(members: list[Member], owner: str = "", bundles=GOLD, **options) -> Wish:
    return assign(bundles, members, {"gold": owner} if owner else {}, **options)["gold"]


def test_second_best():
    assert gold(nodes("mta2", "mta3")).node == "mta3"
    assert gold(nodes("mta2", "mta4")).node in ("mta2", "mta4")
    assert "number 2 of its preference" in gold(nodes("mta2", "mta3")).why


def with_failback(failback: str) -> tuple[Bundle, ...]:
    return bundles_of([unit("gold", prefer=("mta1", "mta3"), failback=failback, failback_after=30.0)])


@pytest.mark.parametrize(
    ("failback", "age", "losses", "node"),
    [
        ("auto", 29, 0, "mta3"),
        ("auto", 30, 0, "mta1"),
        ("auto", 30, 1, "mta3"),  # it lost its session lately: twice as long
        ("auto", 60, 1, "mta1"),
        ("never", 9999, 0, "mta3"),
        ("manual", 9999, 0, "mta3"),
    ],
)
def test_failback(failback: str, age: int, losses: int, node: str):
    members = [Member("mta1", age=age, losses=losses), Member("mta3")]
    wish = gold(members, "mta3", with_failback(failback))
    assert wish.node == node
    assert wish.kind == ("keep" if node == "mta3" else "shift")


def test_a_failing_check_and_a_lost_link_move():
    fit = Member("mta3")
    failing = gold([Member("mta1", failing=frozenset({"smtp"})), fit], "mta1")
    assert (failing.node, failing.kind) == ("mta3", "move")
    assert "failing smtp" in failing.why
    dark = gold([Member("mta1", down=frozenset({BLOCK})), fit], "mta1")
    assert (dark.node, dark.kind) == ("mta3", "move")
    assert "no link for 10.0.0.0/8" in dark.why


def test_all_fail_then_it_stays():
    members = nodes("mta1", "mta3", failing=frozenset({"smtp"}))
    assert gold(members, "mta3").kind == "keep"
    wish = gold(members)
    assert wish.node == "mta1", "somebody failing is better than nobody"
    assert wish.why == (
        "was without an owner; mta1 is number 1 of its preference; "
        "it was failing a check when this was decided, and no node better"
    ), "words that stay true when they are read later"


def test_drained():
    members = [Member("mta1", drained=True), Member("mta2")]
    assert gold(members, "mta1").node == "mta2"
    assert gold([Member("mta1", drained=True)], "mta1").kind == "keep", "there is nobody else"


def test_pins():
    members = nodes(*NODES)
    wish = gold(members, "mta1", pins={"gold": "mta4"})
    assert (wish.node, wish.kind) == ("mta4", "move")
    assert gold(members, "mta4", pins={"gold": "mta4"}).kind == "keep"
    assert gold(nodes("mta1"), "mta1", pins={"gold": "mta4"}).node == "mta1", "the node of the pin is gone"
    drained = [Member("mta1"), Member("mta4", drained=True)]
    assert gold(drained, "mta1", pins={"gold": "mta4"}).node == "mta1"


def test_an_older_configuration_keeps_and_never_takes():
    old, new = Member("mta1", older=True), Member("mta2")
    assert gold([old, new]).node == "mta2"
    assert gold([old, new], "mta1").kind == "keep"
    assert gold([old]).kind == "nobody"
    assert "older" in gold([old]).why


def test_no_balance_while_a_node_is_young():
    bundles = singles(8)
    owners = {bundle.name: "mta1" for bundle in bundles}
    young = [Member("mta1"), Member("mta2", age=4)]
    assert all(wish.kind == "keep" for wish in assign(bundles, young, owners).values())
    old = [Member("mta1"), Member("mta2", age=5)]
    assert any(wish.kind == "shift" for wish in assign(bundles, old, owners).values())


def test_the_penalty_doubles_to_a_quarter_of_an_hour():
    assert [mature_after(5, losses) for losses in (0, 1, 2, 7, 8, 100)] == [5, 10, 20, 640, 900, 900]


def test_a_flapping_node_gets_what_nobody_else_can_have():
    flapping = Member("mta1", age=8, losses=3)
    assert gold([flapping, Member("mta2")]).node == "mta2"
    assert gold([flapping]).node == "mta1"


def test_two_alike_nodes_share_what_a_third_cannot():
    """A block that only two nodes carry is spread over these."""
    bundles = singles(10)
    members = [Member("mta1"), Member("mta2"), Member("mta3", down=frozenset({BLOCK}))]
    after, _ = settle(bundles, members)
    assert Counter(after.values()) == {"mta1": 5, "mta2": 5}


def test_definitions_that_differ_are_not_handed_over():
    wish = gold([Member("mta1", drained=True), replace(Member("mta2"), lacks=frozenset({"gold"}))], "mta1")
    assert wish.kind == "keep"


@pytest.mark.slow
def test_ten_thousand_addresses_are_planned_in_a_moment():
    """A plan that were quadratic in what there is to place would not end here."""
    bundles, members = singles(10_240), nodes(*NODES)
    owners = {name: wish.node for name, wish in assign(bundles, members, {}).items()}
    assert Counter(owners.values()) == dict.fromkeys(NODES, 2560)
    wishes = assign(bundles, nodes(*NODES[1:]), owners)
    assert sum(wish.kind == "take" for wish in wishes.values()) == 2560


@given(situations())
def test_a_plan_is_never_empty_handed_when_a_fit_node_is_there(situation):
    bundles, members, owners, _ = situation
    assume(any(member.ready and not member.down and not member.older for member in members))
    assert all(wish.node for wish in assign(bundles, members, owners).values())


def test_a_cluster_that_has_just_started_does_not_say_of_every_address_that_its_node_is_new():
    told = assign(singles(4), nodes("mta1", "mta2", age=1.0), {})
    assert not any("not yet stable" in wish.why for wish in told.values())
    unstable = [*nodes("mta1", age=1.0, losses=1), *nodes("mta2", age=1.0)]
    assert all("not yet stable" in wish.why for wish in assign(singles(4), unstable, {}).values())
    one_old = [*nodes("mta1", age=1.0), *nodes("mta2", down=frozenset({BLOCK}))]
    assert all("it was not yet stable when" in wish.why for wish in assign(singles(4), one_old, {}).values())
