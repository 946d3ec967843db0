"""Our routes, as far as what the kernel took and told says."""

import dataclasses
from collections.abc import Callable
from ipaddress import ip_address

from handover_nodeagent.network.model import Route
from handover_nodeagent.routes.observed import ObservedRoutes

ROUTE = Route(ip_address("10.65.0.2"), 5, 1024, 254, 88)
ELSEWHERE = dataclasses.replace(ROUTE, oif=6)
ELEVATED = dataclasses.replace(ROUTE, metric=512)
OTHER = dataclasses.replace(ROUTE, address=ip_address("10.65.0.3"))


def loaded(*routes: Route) -> ObservedRoutes:
    mirror = ObservedRoutes()
    mirror.load(routes)
    return mirror


def test_what_is_loaded_is_all_that_there_is() -> None:
    mirror = loaded(ROUTE, ELEVATED)
    mirror.load([OTHER, ELEVATED])
    assert mirror.addresses() == {ROUTE.address, OTHER.address}
    assert mirror.of(ROUTE.address) == (ELEVATED,)
    assert mirror.of(ip_address("10.65.0.9")) == ()


def test_what_the_kernel_took_has_its_place_and_its_time() -> None:
    mirror = loaded(ROUTE, ELEVATED)
    assert mirror.acknowledged_ns(ROUTE) == 0
    mirror.put(ELSEWHERE, 7)
    assert mirror.of(ROUTE.address) == (ELEVATED, ELSEWHERE)
    assert mirror.acknowledged_ns(ELSEWHERE) == 7
    mirror.put(OTHER, 8)
    assert mirror.of(OTHER.address) == (OTHER,)


def test_what_somebody_else_added_or_removed_is_known() -> None:
    mirror = loaded(ROUTE)
    worn = dataclasses.replace(ROUTE, carried=b"mtu")
    mirror.note(worn)
    mirror.note(ELSEWHERE)
    assert [one.carried for one in mirror.of(ROUTE.address)] == [b"mtu", b""]
    mirror.drop(ROUTE)
    mirror.drop(ROUTE)
    mirror.drop(OTHER)
    assert mirror.of(ROUTE.address) == (ELSEWHERE,)
    mirror.displace(ROUTE)
    mirror.displace(OTHER)
    assert mirror.of(ROUTE.address) == ()


def test_what_goes_with_a_device_is_told_by_address() -> None:
    mirror = loaded(ROUTE, ELEVATED, dataclasses.replace(OTHER, oif=6))
    assert mirror.lose(lambda route: route.oif == 5) == {ROUTE.address}
    assert mirror.lose(lambda route: route.oif == 5) == frozenset()
    assert mirror.of(ROUTE.address) == ()
    assert len(mirror.of(OTHER.address)) == 1


def test_of_an_address_that_nobody_has_nothing_is_kept() -> None:
    mirror = loaded(OTHER)
    mirror.put(ROUTE, 7)
    mirror.put(OTHER, 8)
    mirror.forget(ROUTE.address)
    mirror.forget(ROUTE.address)
    assert mirror.addresses() == {OTHER.address}
    assert (mirror.acknowledged_ns(ROUTE), mirror.acknowledged_ns(OTHER)) == (0, 8)


def test_what_went_in_behind_another_one_is_known_so() -> None:
    mirror = loaded(ROUTE, ELEVATED)
    worn = dataclasses.replace(ROUTE, carried=b"mtu")
    mirror.put(worn, 7)
    mirror.precede(worn, [ROUTE])
    assert [one.carried for one in mirror.of(ROUTE.address)] == [b"", b"", b"mtu"]
    assert mirror.of(ROUTE.address)[0] == ROUTE


def test_each_change_is_another_version() -> None:
    mirror = loaded(ROUTE, ELEVATED)
    seen = [mirror.version]
    changes: tuple[Callable[[], object], ...] = (
        lambda: mirror.put(ELSEWHERE, 7),
        lambda: mirror.note(OTHER),
        lambda: mirror.drop(OTHER),
        lambda: mirror.displace(ELEVATED),
        lambda: mirror.precede(ELSEWHERE, [ROUTE]),
        lambda: mirror.lose(lambda route: route.oif == 5),
        lambda: mirror.forget(ROUTE.address),
        lambda: mirror.load([ROUTE]),
    )
    for change in changes:
        change()
        seen.append(mirror.version)
    assert len(set(seen)) == len(changes) + 1
    mirror.of(ROUTE.address)
    mirror.acknowledged_ns(ROUTE)
    assert mirror.version == seen[-1]
