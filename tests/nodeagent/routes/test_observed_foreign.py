"""Others' direct host routes, as far as what the kernel showed and told says."""

import dataclasses
from ipaddress import ip_address

import pytest

from handover_api.configuration import Settings
from handover_nodeagent.kernel import foreign_route
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg, ways
from handover_nodeagent.network.model import IPAddress, Route
from handover_nodeagent.routes.observed_foreign import ObservedForeign

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
MAIN = Settings().route_table
CNI = Route(V4, 5, 0, MAIN, 3)


def foreign(route: Route) -> Foreign:
    return Foreign(route, rtmsg.encode_beside(route))


def parked(route: Route) -> Foreign:
    return foreign_route.moved(foreign(route), PARKING_TABLE)


def knowing(*present: Route, parked_ones: tuple[Route, ...] = ()) -> ObservedForeign:
    known = ObservedForeign(Settings())
    known.load(map(foreign, present), map(parked, parked_ones), lambda _: True)
    return known


def nobody(_: IPAddress) -> bool:
    return False


def other(route: Route = CNI, **fields: int) -> Route:
    return dataclasses.replace(route, **fields)  # type: ignore[arg-type]


def test_what_stands_and_what_is_parked_lead_to_devices() -> None:
    known = knowing(CNI, other(oif=6), parked_ones=(other(oif=7),))
    assert known.devices([V4, V6]) == {V4: {5, 6, 7}, V6: set()}
    assert [known.leading_to(oif) for oif in (6, 7, 8)] == [{V4}, {V4}, frozenset()]
    assert known.has(V4)
    assert [known.has(V4, oif=oif) for oif in (5, 7)] == [True, False]
    assert known.has_parked(V4)
    assert not known.has(V6)


def test_what_a_route_of_ours_is_to_carry_is_the_best_ones() -> None:
    mtu = codec.attribute(rtmsg.METRICS, b"mtu")
    better = dataclasses.replace(CNI, metric=3, carried=mtu)
    known = knowing(other(metric=9), parked_ones=(better,))
    assert known.carried(V4, 5) == mtu
    assert known.carried(V4, 6) is None
    assert knowing(CNI).carried(V4, 5) == b""


IN_PLACE = foreign(CNI)


@pytest.mark.parametrize(
    ("message", "is_noted"),
    [
        (IN_PLACE.message, True),
        (rtmsg.encode_beside(other(table=100)), False),
        (rtmsg.encode_beside(other(protocol=Settings().route_protocol)), False),
        (IN_PLACE.message + codec.attribute(ways.GATEWAY, V4.packed), False),
        (IN_PLACE.message[:17] + b"\x18" + IN_PLACE.message[18:], False),
        (IN_PLACE.message[:-1], False),
    ],
    ids=["foreign", "table", "ours", "gateway", "network", "broken"],
)
def test_only_a_foreign_direct_host_route_of_our_table_is_noted(
    message: bytes, *, is_noted: bool
) -> None:
    known = knowing()
    known.note(message)
    assert known.of(V4) == ((IN_PLACE,) if is_noted else ())


def test_another_table_has_other_routes_and_the_same_parked_ones() -> None:
    known = knowing(CNI, parked_ones=(other(oif=6),))
    known.configure(Settings(route_protocol=99))
    assert known.has(V4)
    known.configure(Settings(route_table=100))
    assert not known.has(V4)
    assert known.has_parked(V4)
    known.note(foreign(CNI).message)
    assert not known.has(V4)
    known.note(foreign(other(table=100)).message)
    assert known.has(V4)


def test_a_parked_route_is_the_newest_copy_of_its_device_and_metric() -> None:
    newer = other(protocol=4)
    known = knowing(newer, parked_ones=(CNI, other(metric=7), other(oif=6)))
    known.parked(foreign(newer))
    assert known.of(V4) == ()
    kept = {one.route for one in known.take_parked(V4)}
    assert kept == {parked(one).route for one in (newer, other(metric=7), other(oif=6))}


def test_what_is_given_back_stands_in_our_table_again() -> None:
    known = knowing(parked_ones=(CNI, other(oif=6)))
    first, second = known.take_parked(V4)
    known.given_back(first)
    assert known.of(V4) == (foreign(CNI),)
    assert known.take_parked(V4) == (second,)
    assert known.has_parked(V4)


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_copy_that_somebody_removed_is_known_here_alone(*, is_heard: bool) -> None:
    known = knowing(parked_ones=(CNI,))
    copy = parked(CNI)
    if is_heard:
        assert known.copy_gone(copy.route, is_known=True)
        assert not known.copy_gone(copy.route, is_known=True)
    else:
        known.load([], [], lambda _: True)
    assert not known.has_parked(V4)
    assert known.missing_of(V4) == (copy,)
    assert known.take_parked(V4) == (copy,)
    assert known.missing_of(V4) == ()


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_copy_of_nobodys_address_is_not_missed(*, is_heard: bool) -> None:
    known = knowing(parked_ones=(CNI,))
    if is_heard:
        assert known.copy_gone(parked(CNI).route, is_known=False)
    else:
        known.load([], [], nobody)
    assert (known.missing_of(V4), known.take_parked(V4)) == ((), ())


def test_what_was_missing_is_parked_again_or_went_with_its_link() -> None:
    known = knowing(parked_ones=(CNI, other(oif=6)))
    known.load([], [], lambda _: True)
    first, second = known.missing_of(V4)
    known.restored(V4, [first])
    assert known.missing_of(V4) == ()
    assert known.take_parked(V4) == (first,)
    assert second.route.oif == 6


def test_an_interface_that_goes_takes_its_routes_along() -> None:
    six = dataclasses.replace(CNI, address=V6, oif=6)
    known = knowing(CNI, parked_ones=(other(metric=7), six))
    assert known.lose(5) == {V4}
    assert (known.has(V4), known.has_parked(V4), known.has_parked(V6)) == (False, False, True)
    known.load([], [], lambda _: True)
    assert known.lose(6) == {V6}
    assert known.missing_of(V6) == ()
    assert known.lose(5) == frozenset()


def test_an_address_that_is_forgotten_keeps_what_is_parked() -> None:
    known = knowing(CNI, parked_ones=(other(oif=6),))
    known.forget(V4)
    known.forget(V6)
    assert not known.has(V4)
    assert known.has_parked(V4)
    known.copy_gone(parked(other(oif=6)).route, is_known=True)
    known.forget(V4)
    assert known.take_parked(V4) == ()


def test_a_route_goes_by_its_owners_hand_or_with_its_place() -> None:
    known = knowing(CNI, other(oif=6), other(metric=7))
    known.gone(other(metric=7))
    known.gone(other(metric=8))
    assert [one.route.oif for one in known.of(V4)] == [5, 6]
    # In IPv4 a replace takes whichever device's.
    known.replaced(other(oif=9))
    assert known.of(V4) == ()


def test_the_rival_of_ours_is_the_one_on_its_device() -> None:
    ours = Route(V4, 6, 9, MAIN, Settings().route_protocol)
    known = knowing(other(metric=9), other(oif=6, metric=9), other(oif=6))
    assert known.rival_of(ours) == foreign(other(oif=6, metric=9))
    assert known.rival_of(other(ours, oif=8)) == foreign(other(metric=9))
    assert known.rival_of(other(ours, metric=8)) is None
