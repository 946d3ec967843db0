"""The kernel's routes to our addresses: what each word of the kernel's makes of what is known."""

import dataclasses
from ipaddress import ip_address

import pytest

from handover_api.configuration import Settings
from handover_nodeagent.kernel import foreign_route
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.network.model import Encapsulated, Nexthop, Route, Via, Way
from handover_nodeagent.routes.known import KnownRoutes, Observed

SETTINGS = Settings()
V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
OURS = Route(V4, 5, 512, SETTINGS.route_table, SETTINGS.route_protocol)
CNI = Route(V4, 5, 0, SETTINGS.route_table, 3)
OURS_6, CNI_6 = (dataclasses.replace(one, oif=6) for one in (OURS, CNI))
CNI_512 = dataclasses.replace(CNI, metric=512)
BIRD = Route(V4, 9, 512, SETTINGS.route_table, 12)


def foreign(route: Route) -> Foreign:
    return Foreign(route, rtmsg.encode_beside(route))


def parked(route: Route) -> Foreign:
    return foreign_route.moved(foreign(route), PARKING_TABLE)


def knowing(
    ours: tuple[Route, ...] = (), theirs: tuple[Route, ...] = (), copies: tuple[Route, ...] = ()
) -> KnownRoutes:
    known = KnownRoutes(SETTINGS)
    observed = Observed(ours, tuple(map(parked, copies)), tuple(map(foreign, theirs)))
    known.load(observed, lambda _: True)
    return known


def told(
    route: Route, *, present: bool = True, direct: bool = True, replaced: bool = False
) -> RouteChanged:
    return RouteChanged(route, present, direct, foreign(route).message, replaced)


def there(known: KnownRoutes) -> list[Route]:
    """Return what stands in our table: ours, then others' direct ones."""
    return [*known.ours.of(V4), *(one.route for one in known.foreign.of(V4))]


@pytest.mark.parametrize(
    ("changed", "left", "concerns"),
    [
        (told(OURS, present=False), [CNI], True),
        (told(OURS_6), [OURS, OURS_6, CNI], True),
        (told(CNI, present=False), [OURS], True),
        (told(CNI_6), [OURS, CNI, CNI_6], True),
        # By a gateway: it concerns us only where it took a place.
        (told(BIRD, direct=False), [OURS, CNI], False),
        (told(BIRD, direct=False, replaced=True), [CNI], True),
        (told(CNI_6, replaced=True), [OURS, CNI_6], True),
        (told(CNI_512, replaced=True), [CNI, CNI_512], True),
    ],
    ids=[
        "ours removed",
        "ours added",
        "theirs removed",
        "theirs added",
        "a gateway's",
        "a gateway's for ours",
        "theirs for theirs",
        "theirs for ours",
    ],
)
def test_what_somebody_else_did_is_known(
    changed: RouteChanged, left: list[Route], *, concerns: bool
) -> None:
    known = knowing((OURS,), (CNI,))
    assert known.take(changed, is_known=True) == concerns
    assert there(known) == left


def test_a_foreign_route_to_nobodys_address_is_not_kept() -> None:
    known = knowing()
    assert not known.take(told(CNI), is_known=False)
    assert not known.take(told(BIRD, direct=False, replaced=True), is_known=False)
    assert there(known) == []
    # One of ours is: nobody else would take it out.
    assert not known.take(told(OURS), is_known=False)
    assert there(known) == [OURS]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_parked_copy_that_goes_concerns_whoever_has_its_address(*, is_known: bool) -> None:
    known = knowing(copies=(CNI,))
    gone = told(parked(CNI).route, present=False)
    assert known.take(gone, is_known=is_known) == is_known
    assert known.foreign.missing_of(V4) == ((parked(CNI),) if is_known else ())
    # What was never known to be parked is nobody's.
    assert not known.take(gone, is_known=is_known)


def test_ours_carries_what_its_owners_has() -> None:
    mtu = codec.attribute(rtmsg.METRICS, b"mtu")
    known = knowing(theirs=(dataclasses.replace(CNI, carried=mtu),))
    assert known.complete(OURS).carried == mtu
    assert known.complete(OURS_6).carried == b""


def test_a_link_that_goes_takes_everybodys_routes_along() -> None:
    of_ipv6 = dataclasses.replace(CNI, address=V6)
    known = knowing((OURS, OURS_6), (CNI,), (of_ipv6,))
    assert known.lose(5) == {V4, V6}
    assert there(known) == [OURS_6]
    assert not known.foreign.has_parked(V6)


def test_an_address_of_the_nodes_that_goes_takes_what_speaks_from_it() -> None:
    source = ip_address("192.0.2.1")
    speaking = dataclasses.replace(OURS, carried=codec.attribute(rtmsg.SOURCE, source.packed))
    known = knowing((speaking, dataclasses.replace(OURS, metric=1024)))
    assert known.readdressed(frozenset({V6})) == frozenset()
    known.attributes.refuse(dataclasses.replace(speaking, address=V6))
    # What was refused may be taken now.
    assert known.readdressed(frozenset({source})) == {V4, V6}
    assert there(known) == [dataclasses.replace(OURS, metric=1024)]
    assert known.attributes.refused == frozenset()


def test_ours_are_asked_for_by_address_and_device() -> None:
    elsewhere = OURS_6
    known = knowing((OURS, elsewhere))
    assert known.ours_to([V6, V4], 6) == (elsewhere,)
    assert known.ours_to([V6], 5) == ()


def test_an_address_that_is_forgotten_leaves_no_trace() -> None:
    known = knowing((OURS,), (CNI,))
    known.collisions.note(OURS.key)
    known.attributes.refuse(OURS)
    known.forget(V4)
    assert known.ours.addresses() == frozenset()
    assert there(known) == []
    assert not known.collisions.has_gateway(OURS)
    assert known.attributes.refused == frozenset()


def test_other_settings_make_other_routes_ours() -> None:
    known = knowing()
    known.configure(Settings(route_protocol=99))
    known.take(told(OURS), is_known=True)
    assert there(known) == [OURS]
    assert known.ours.of(V4) == ()


def test_what_the_distribution_has_is_no_affair_of_ours() -> None:
    away = dataclasses.replace(
        OURS, protocol=SETTINGS.private_route_protocol, metric=513, way=Nexthop(5)
    )
    known = knowing((OURS,), (CNI,))
    for present in (True, False):
        assert not known.take(told(away, present=present, direct=present), is_known=True)
        assert there(known) == [OURS, CNI]


@pytest.mark.parametrize("protocol", SETTINGS.route_protocols)
@pytest.mark.parametrize("way", [Encapsulated(ip_address("192.0.2.9")), Via(ip_address("fe80::9"))])
def test_one_of_ours_that_leads_on_is_no_gateways(way: Way, protocol: int) -> None:
    """Somebody puts it there or takes it away: it is ours, whatever it leads by."""
    away = dataclasses.replace(OURS, oif=9, way=way, protocol=protocol)
    known = knowing((OURS,), (CNI,))
    assert known.take(told(away, direct=False, replaced=True), is_known=True)
    assert there(known) == [away, CNI]
    assert known.take(told(away, present=False, direct=False), is_known=True)
    assert there(known) == [CNI]
