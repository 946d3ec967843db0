"""What keeps our routes out, and how often somebody looks for it."""

from ipaddress import ip_address

from handover_nodeagent.network.model import Route
from handover_nodeagent.routes.collisions import RESYNCS, Collisions

ROUTE = Route(ip_address("10.65.0.2"), 5, 1024, 254, 88)
OTHER = Route(ip_address("10.65.0.3"), 5, 1024, 254, 88)


def test_a_gateways_place_is_known_until_a_look_shows_otherwise() -> None:
    collisions = Collisions()
    collisions.note(ROUTE.key)
    assert collisions.has_gateway(ROUTE)
    assert not collisions.has_gateway(OTHER)
    collisions.load([OTHER.key])
    assert not collisions.has_gateway(ROUTE)
    assert collisions.has_gateway(OTHER)


def test_what_no_look_explains_is_not_looked_for_for_ever() -> None:
    collisions = Collisions()
    assert [collisions.try_resync(ROUTE) for _ in range(RESYNCS + 2)] == [True] * RESYNCS + [
        False
    ] * 2
    assert collisions.try_resync(OTHER)
    collisions.solved(ROUTE)
    assert collisions.try_resync(ROUTE)


def test_of_an_address_that_nobody_has_nothing_is_kept() -> None:
    collisions = Collisions()
    collisions.note(ROUTE.key)
    collisions.note(OTHER.key)
    for _ in range(RESYNCS):
        assert collisions.try_resync(ROUTE)
    collisions.forget(ROUTE.address)
    collisions.forget(ROUTE.address)
    assert not collisions.has_gateway(ROUTE)
    assert collisions.has_gateway(OTHER)
    assert collisions.try_resync(ROUTE)
