"""What a route of ours carries, whoever knew it last."""

import dataclasses
from ipaddress import ip_address

import pytest

from handover_nodeagent.network.model import Route
from handover_nodeagent.routes.attributes import RouteAttributes

ROUTE = Route(ip_address("10.65.0.2"), 5, 1024, 254, 88)
ELSEWHERE = dataclasses.replace(ROUTE, oif=6)


def wearing(carried: bytes, route: Route = ROUTE) -> Route:
    return dataclasses.replace(route, carried=carried)


@pytest.mark.parametrize(
    ("owners", "ours", "expected"),
    [
        (None, [], b""),
        (b"mtu", [], b"mtu"),
        (b"mtu", [wearing(b"src")], b"mtu"),
        (b"", [wearing(b"src")], b""),
        (None, [wearing(b"src")], b"src"),
        (None, [wearing(b"src", ELSEWHERE)], b""),
        (None, [ROUTE, wearing(b"src")], b"src"),
    ],
    ids=["nobody", "owner", "owner first", "owner's is bare", "ours", "another device", "any"],
)
def test_the_owners_route_goes_before_ours(
    owners: bytes | None, ours: list[Route], expected: bytes
) -> None:
    assert RouteAttributes().complete(ROUTE, owners, ours).carried == expected


def test_what_was_seen_is_known_when_nothing_shows_it_any_more() -> None:
    carried = RouteAttributes()
    assert carried.complete(ROUTE, b"mtu", []).carried == b"mtu"
    assert carried.complete(ROUTE, None, [wearing(b"src")]).carried == b"mtu"
    assert carried.complete(ELSEWHERE, None, []).carried == b""
    assert carried.complete(wearing(b"old"), b"", []).carried == b""
    assert carried.complete(ROUTE, None, []).carried == b""
    carried.complete(ROUTE, b"mtu", [])
    carried.forget(ROUTE.address)
    assert carried.complete(ROUTE, None, []).carried == b""


def test_what_the_kernel_refused_is_left_out_until_it_may_be_taken() -> None:
    carried = RouteAttributes()
    carried.refuse(carried.complete(ROUTE, b"src", []))
    assert carried.refused == {ROUTE.address}
    assert carried.complete(ROUTE, b"src", []).carried == b""
    assert carried.complete(ROUTE, b"mtu", []).carried == b"mtu"
    carried.allow()
    assert carried.refused == frozenset()
    assert carried.complete(ROUTE, b"src", []).carried == b"src"
    carried.refuse(wearing(b"src"))
    carried.forget(ROUTE.address)
    carried.forget(ROUTE.address)
    assert carried.refused == frozenset()
