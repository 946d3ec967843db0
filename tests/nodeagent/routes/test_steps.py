"""How a plan is carried out: no guest is cut off, and nobody else's route is taken."""

import dataclasses
import datetime as dt
from ipaddress import ip_address

import pytest

from handover_api.configuration import Advertise, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel.foreign_route import Foreign
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.network.desired import DesiredNetwork, LocalEndpoint
from handover_nodeagent.network.model import Encapsulated, Link, Route
from handover_nodeagent.network.plan import Plan
from handover_nodeagent.routes import steps
from handover_nodeagent.routes.collisions import Collisions
from handover_nodeagent.routes.observed import ObservedRoutes
from handover_nodeagent.routes.observed_foreign import ObservedForeign
from handover_nodeagent.routes.steps import Steps

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
LINK = Link(5, "tap5", "ee:ee:ee:ee:ee:ee", up=True)
ROUTE = Route(V4, 5, 512, 254, 88)
FORMER = dataclasses.replace(ROUTE, oif=6)
OF_IPV6, FORMER_IPV6 = (dataclasses.replace(one, address=V6) for one in (ROUTE, FORMER))


def ours(*routes: Route) -> ObservedRoutes:
    observed = ObservedRoutes()
    observed.load(routes)
    return observed


def crowded(*routes: Route) -> Collisions:
    """Know of a gateway's route in the place of each."""
    collisions = Collisions()
    collisions.load([route.key for route in routes])
    return collisions


@pytest.mark.parametrize(
    ("plan", "observed", "collisions", "expected"),
    [
        (Plan(add=(ROUTE,)), ours(), crowded(ROUTE), Steps((ROUTE,), (), (), ())),
        (Plan(replace=(ROUTE,)), ours(FORMER), crowded(), Steps((), (ROUTE,), (), ())),
        (Plan(replace=(ROUTE,)), ours(FORMER), crowded(ROUTE), Steps((), (), (ROUTE,), (FORMER,))),
        # In IPv6 a replace takes no route by a gateway.
        (
            Plan(replace=(OF_IPV6,)),
            ours(FORMER_IPV6),
            crowded(OF_IPV6),
            Steps((), (OF_IPV6,), (), ()),
        ),
        # Two that carry different things: a replace would be refused for the second one.
        (Plan(replace=(ROUTE,)), ours(ROUTE, ROUTE), crowded(), Steps((), (), (ROUTE,), ())),
        # What is to go anyway goes once.
        (
            Plan(replace=(ROUTE,), remove=(FORMER,)),
            ours(FORMER),
            crowded(ROUTE),
            Steps((), (), (ROUTE,), (FORMER,)),
        ),
        # Of another key nothing goes for it.
        (
            Plan(replace=(ROUTE,)),
            ours(dataclasses.replace(FORMER, metric=1024)),
            crowded(ROUTE),
            Steps((), (), (ROUTE,), ()),
        ),
    ],
    ids=["add", "replace", "beside", "IPv6", "twins", "removed anyway", "another key"],
)
def test_a_replace_takes_no_gateways_place(
    plan: Plan, observed: ObservedRoutes, collisions: Collisions, expected: Steps
) -> None:
    assert steps.order(plan, observed, collisions) == expected


LOCAL = LocalEndpoint(
    ObjectKey("ns", "a"),
    (V4,),
    RouteLevel.NORMAL,
    State.BASE,
    LINK,
    None,
    dt.datetime(2026, 8, 1, tzinfo=dt.UTC),
)
NOT_OWNED = dataclasses.replace(LOCAL, is_owned=False)
UNPLACED = dataclasses.replace(LOCAL, link=None)


def foreign(*devices: int) -> ObservedForeign:
    """Know of somebody else's routes by these devices."""
    known = ObservedForeign(Settings())
    theirs = [Route(V4, oif, 0, 254, 3) for oif in devices]
    known.load([Foreign(one, rtmsg.encode_beside(one)) for one in theirs], [], bool)
    return known


def test_what_held_bgp_back_goes_also_by_a_device_that_no_endpoint_has() -> None:
    """It wins over all routes of this node's own, and whoever put it in does not live any more."""
    held = Route(V4, 99, 513, 254, 89, way=Encapsulated(ip_address("192.0.2.2")))
    known, others = frozenset({5}), foreign()
    for advertise, expected in ((Advertise.BGP, True), (Advertise.AGENTS, False)):
        desired = DesiredNetwork(Settings(advertise=advertise))
        desired.put(LOCAL)
        assert steps.may_go(held, known, desired, others) is expected
        for other in (
            dataclasses.replace(held, metric=1024),
            dataclasses.replace(held, way=None),
        ):
            assert not steps.may_go(other, known, desired, others)


@pytest.mark.parametrize(
    ("local", "removable", "others", "expected"),
    [
        (None, None, foreign(), True),
        (LOCAL, None, foreign(), True),
        (LOCAL, frozenset({5}), foreign(), True),
        (LOCAL, frozenset({6}), foreign(5), False),
        (NOT_OWNED, None, foreign(), False),
        (NOT_OWNED, None, foreign(6), True),
        (UNPLACED, None, foreign(), False),
        (UNPLACED, None, foreign(6), False),
        (UNPLACED, None, foreign(5), True),
    ],
    ids=[
        "nobody's",
        "moved",
        "known device",
        "unknown device",
        "not ours, the last",
        "not ours, another's",
        "unplaced, the last",
        "unplaced, elsewhere",
        "unplaced, same device",
    ],
)
def test_the_last_route_of_a_guest_does_not_go(
    local: LocalEndpoint | None,
    removable: frozenset[int] | None,
    others: ObservedForeign,
    *,
    expected: bool,
) -> None:
    desired = DesiredNetwork(Settings())
    if local:
        desired.put(local)
    assert steps.may_go(ROUTE, removable, desired, others) == expected
