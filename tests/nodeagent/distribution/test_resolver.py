"""Each address leads to the node that has the guest, by the best that is known there and then."""

import dataclasses
import itertools

import pytest
from tests.nodeagent.distribution.cluster import (
    ELEVATED,
    GUEST4,
    GUEST6,
    NORMAL,
    A,
    B,
    C,
    D,
    endpoint,
)

from handover_api.workloadendpoint import State
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.resolver import Destination, Resolver
from handover_nodeagent.fsm.machine import RouteLevel

GRACE = 30.0
BOTH = frozenset({GUEST4, GUEST6})
SOURCE = endpoint("a", "a", uid="m", is_source=True)
TARGET = endpoint("b", "b", State.TARGET, "m")
LIVE = endpoint("b", "b", State.LIVE, "m", cutover=(10, "m"))
SETTLED = endpoint("b", "b", uid="m", cutover=(10, "m"))
WITHDRAWN = endpoint("b", "b", State.WITHDRAWN, "m", cutover=(10, "m"))


def resolver(*endpoints: Endpoint, at: str = "c") -> Resolver:
    made = Resolver(at, GRACE)
    for one in (A, B, C, D):
        made.put_node(one)
    for known in endpoints:
        made.put(known)
    return made


def leads(found: Resolver) -> tuple[str, RouteLevel] | None:
    """Return where both addresses of the guest lead."""
    four, six = found.destination(GUEST4), found.destination(GUEST6)
    assert four == six
    return (four.node, four.level) if four else None


CASES: list[tuple[str, list[Endpoint], tuple[str, RouteLevel] | None]] = [
    ("nobody", [], None),
    ("one that rests", [SETTLED], ("b", NORMAL)),
    ("a target that nobody has heard", [TARGET], None),
    ("a source and its target, before the switch", [SOURCE, TARGET], ("a", NORMAL)),
    ("after it", [SOURCE, LIVE], ("b", ELEVATED)),
    ("when it is over and the source lingers", [SOURCE, SETTLED], ("b", NORMAL)),
    ("a target that has withdrawn", [SOURCE, WITHDRAWN], ("a", NORMAL)),
    (
        "a source whose clock is ahead",
        [dataclasses.replace(SOURCE, cutover=LIVE.cutover.replace(hour=23)), LIVE],
        ("b", ELEVATED),
    ),
    (
        "a source that has its guest back",
        [endpoint("a", "a", uid="m", is_source=True, cutover=(11, "m")), LIVE],
        ("a", NORMAL),
    ),
    (
        "a source that is redirected",
        [dataclasses.replace(SOURCE, cutover=LIVE.cutover.replace(hour=23), state=None), LIVE],
        ("b", ELEVATED),
    ),
    (
        "the newer of two migrations",
        [LIVE, endpoint("d", "d", State.TIME_WAIT, "m2", cutover=(20, "m2"))],
        ("d", ELEVATED),
    ),
    (
        "the newer of two migrations, when it is over",
        [LIVE, endpoint("d", "d", uid="m2", cutover=(20, "m2"))],
        ("d", NORMAL),
    ),
    (
        "a guest that was made anew elsewhere",
        [endpoint("a", "a"), endpoint("b", "b")],
        ("b", NORMAL),
    ),
    ("our own guest", [endpoint("c", "c", State.LIVE, "m", cutover=(1, "m"))], None),
    (
        "our own guest, which has left",
        [endpoint("c", "c", uid="m", is_source=True), LIVE],
        ("b", ELEVATED),
    ),
    (
        "our own guest, which is back",
        [endpoint("c", "c", uid="m", is_source=True, cutover=(11, "m")), LIVE],
        None,
    ),
    ("one on a node that nobody knows", [endpoint("x", "x")], None),
]


@pytest.mark.parametrize(("what", "known", "expected"), CASES, ids=[case[0] for case in CASES])
def test_an_address_leads(
    what: str, known: list[Endpoint], expected: tuple[str, RouteLevel] | None
) -> None:
    for order in itertools.permutations(known):
        assert leads(resolver(*order)) == expected, what


def test_a_have_moves_the_route_before_the_api_knows() -> None:
    found = resolver(SOURCE, TARGET)
    prospects = found.prospects(TARGET.key)
    assert found.fire(TARGET.key, "m") == BOTH
    assert leads(found) == ("b", ELEVATED)
    assert prospects == dict.fromkeys(BOTH, found.destination(GUEST4))


def test_an_older_version_never_undoes_a_have() -> None:
    found = resolver(SOURCE, TARGET)
    found.fire(TARGET.key, "m")
    found.put(dataclasses.replace(SOURCE, cutover=LIVE.cutover))
    found.put(dataclasses.replace(TARGET, state=State.ASKING))
    assert leads(found) == ("b", ELEVATED)


def test_once_the_api_has_caught_up_it_is_believed() -> None:
    found = resolver(SOURCE, TARGET)
    found.fire(TARGET.key, "m")
    found.put(LIVE)
    assert not found.fired
    found.put(WITHDRAWN)
    assert leads(found) == ("a", NORMAL)


@pytest.mark.parametrize("known", [LIVE, SETTLED, WITHDRAWN])
def test_an_echo_of_a_have_changes_nothing(known: Endpoint) -> None:
    found = resolver(SOURCE, known)
    before = leads(found)
    assert not found.fire(known.key, "m")
    assert leads(found) == before


@pytest.mark.parametrize(
    ("who", "uid"), [(TARGET, "other"), (endpoint("z", "b"), "m"), (endpoint("c", "c"), "m")]
)
def test_what_the_api_has_not_prepared_is_not_fired(who: Endpoint, uid: str) -> None:
    found = resolver(SOURCE, TARGET, endpoint("c", "c", State.TARGET, "m"))
    assert not found.fire(who.key, uid)
    assert leads(found) == ("a", NORMAL)


def test_the_last_of_two_haves_counts() -> None:
    source = endpoint("d", "d", uid="m", is_source=True)
    found = resolver(source, TARGET)
    found.fire(TARGET.key, "m")
    found.fire(source.key, "m")
    assert leads(found) == ("d", ELEVATED)
    # It may be repeated by one who has not heard that we know.
    assert not found.fire(TARGET.key, "m")
    assert leads(found) == ("d", ELEVATED)


def test_our_own_guest_that_answers_undoes_what_was_heard_before() -> None:
    own = endpoint("c", "c", uid="m", is_source=True)
    found = resolver(own, TARGET)
    found.fire(TARGET.key, "m")
    assert leads(found) == ("b", ELEVATED)
    back = endpoint("c", "c", uid="m", is_source=True, cutover=(11, "m"))
    assert found.put(back) == BOTH
    assert leads(found) is None


def test_another_migration_ends_the_memory_of_a_have() -> None:
    found = resolver(SOURCE, TARGET)
    found.fire(TARGET.key, "m")
    found.put(dataclasses.replace(TARGET, migration_uids=frozenset({"m2"})))
    assert leads(found) == ("a", NORMAL)


def test_an_object_that_was_made_anew_has_heard_nothing() -> None:
    found = resolver(SOURCE, TARGET)
    found.fire(TARGET.key, "m")
    found.drop(TARGET.key, 0)
    found.put(dataclasses.replace(TARGET, uid="another"))
    assert leads(found) == ("a", NORMAL)


def test_what_is_gone_keeps_its_route_for_the_grace() -> None:
    found = resolver(LIVE)
    found.drop(LIVE.key, 100)
    assert leads(found) == ("b", ELEVATED)
    assert found.deadline() == 130
    assert not found.expire(129.9)
    assert leads(found) == ("b", ELEVATED)
    assert found.expire(130) == BOTH
    assert leads(found) is None
    assert found.deadline() is None


def test_what_comes_back_within_the_grace_was_never_gone() -> None:
    found = resolver(LIVE)
    found.drop(LIVE.key, 100)
    assert found.put(LIVE) == BOTH
    assert not found.expire(1000)
    assert leads(found) == ("b", ELEVATED)


def test_a_source_does_not_get_the_guest_of_a_target_whose_object_was_deleted() -> None:
    found = resolver(SOURCE, LIVE)
    found.drop(LIVE.key, 100)
    found.put(dataclasses.replace(SOURCE, state=State.ASKING))
    assert leads(found) == ("b", ELEVATED)


@pytest.mark.parametrize(
    "newer",
    [
        endpoint("d", "d"),
        dataclasses.replace(SOURCE, cutover=LIVE.cutover.replace(hour=23), cutover_uid="m"),
    ],
)
def test_what_is_gone_yields_to_what_came_after_it(newer: Endpoint) -> None:
    found = resolver(newer, LIVE)
    found.drop(LIVE.key, 100)
    assert leads(found) == (newer.node, NORMAL)


def test_what_is_gone_yields_to_a_have() -> None:
    next_target = endpoint("D", "d", State.TARGET, "m2")
    found = resolver(next_target, LIVE)
    found.drop(LIVE.key, 100)
    assert not found.fire(LIVE.key, "m")
    found.fire(next_target.key, "m2")
    assert leads(found) == ("d", ELEVATED)


def test_what_attracts_nothing_leaves_nothing() -> None:
    found = resolver(SOURCE, TARGET)
    found.drop(TARGET.key, 100)
    assert found.deadline() is None
    assert not found.drop(TARGET.key, 100)


def test_our_own_endpoint_is_gone_at_once() -> None:
    own = endpoint("c", "c")
    found = resolver(own)
    assert found.drop(own.key, 100) == BOTH
    assert found.deadline() is None


def test_a_node_that_is_gone_takes_its_routes_along_after_the_grace() -> None:
    found = resolver(LIVE)
    found.drop_node("b", 100)
    found.drop_node("nobody", 100)
    assert leads(found) == ("b", ELEVATED)
    assert found.expire(130) == BOTH
    assert leads(found) is None
    assert found.put_node(B) == BOTH
    assert leads(found) == ("b", ELEVATED)


def test_nobody_is_to_be_reached_on_a_node_that_is_gone() -> None:
    """Its endpoints may stay in the API for long: that is no trouble of anybody's."""
    it = resolver(LIVE)
    assert it.hosts() == {"b"}
    it.drop_node("b", 0)
    assert it.hosts() == {"b"}
    it.expire(GRACE)
    assert it.hosts() == frozenset()


def test_the_cluster_leads_to_a_guests_home() -> None:
    assert resolver(at="c").has_other_home(GUEST4)
    assert not resolver(at="a").has_other_home(GUEST4)
    it = Resolver("c", GRACE)
    it.put_node(Node("a", A.addresses))
    assert not it.has_other_home(GUEST4)


def test_a_node_that_comes_back_within_the_grace_was_never_gone() -> None:
    found = resolver(LIVE)
    found.drop_node("b", 100)
    assert not found.put_node(B)
    assert not found.expire(1000)
    assert leads(found) == ("b", ELEVATED)


def test_no_route_leads_to_an_address_of_a_node() -> None:
    found = resolver(TARGET)
    assert found.put_node(Node("x", (GUEST4,))) == {GUEST4}
    assert list(found.prospects(TARGET.key)) == [GUEST6]
    found.fire(TARGET.key, "m")
    assert found.destination(GUEST4) is None
    assert found.destination(GUEST6) == Destination("b", ELEVATED, TARGET.key)
    found.put_node(Node("x", (GUEST4 + 1,)))
    assert found.put_node(Node("x", (GUEST4,))) == {GUEST4}
    found.drop_node("x", 0)
    assert found.expire(GRACE) == {GUEST4}
    assert leads(found) == ("b", ELEVATED)


def test_only_what_may_come_has_prospects() -> None:
    found = resolver(LIVE, endpoint("d", "d"))
    assert found.prospects(LIVE.key) == {}
    assert found.prospects(endpoint("d", "d").key) == {}
    assert found.prospects(endpoint("x", "x").key) == {}


def test_an_address_that_an_endpoint_lost_is_affected() -> None:
    found = resolver(LIVE)
    assert not found.put(LIVE)
    assert found.put(dataclasses.replace(LIVE, addresses=(GUEST4,))) == BOTH
    assert found.destination(GUEST6) is None
    assert found.everything() == {GUEST4}


def test_the_work_is_bounded_by_what_changed() -> None:
    found = resolver(LIVE)
    for number in range(500):
        other = dataclasses.replace(
            endpoint("d", "d"),
            key=endpoint("d", "d").key._replace(name=f"d{number}"),
            addresses=(GUEST4 + 1 + number,),
        )
        assert found.put(other) == {GUEST4 + 1 + number}
    assert found.put(dataclasses.replace(LIVE, state=State.TIME_WAIT)) == BOTH
