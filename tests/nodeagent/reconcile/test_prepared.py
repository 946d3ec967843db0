"""A cutover that is prepared with and without the guest's MAC."""

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import MAC, World

from handover_api.names import ObjectKey
from handover_nodeagent.kernel.netlink import codec

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

KEY = ObjectKey("default", "vm")
BOTH = ["10.65.0.2", "fd00:65::2"]
ROUTES = [f"{one} dev tap0 ... metric 512" for one in BOTH]


def kinds(world: World) -> list[int]:
    """Return which messages are prepared."""
    prepared = world.loop.endpoints[KEY].prepared
    assert prepared is not None
    return [codec.HEADER.unpack_from(request)[1] for request in prepared.requests]


@pytest.mark.parametrize("mac", [None, MAC], ids=["MAC unknown", "MAC known"])
async def test_both_routes_go_in_and_the_guests_neighbor_entries_with_them(
    world: World, node: Node, mac: str | None
) -> None:
    world.put(said="target", mac=mac, ips=BOTH)
    await world.until_listening()
    # Without a MAC nothing could be seeded: the routes alone are prepared.
    assert sorted(kinds(world)) == [codec.NEWROUTE] * 2 + [codec.NEWNEIGH] * (2 if mac else 0)
    world.send()
    await world.shows(*ROUTES)
    await world.until_state("Live")
    for address in BOTH:
        shown = node.run(f"ip neigh show {address} dev tap0 nud reachable")
        assert f"lladdr {MAC}" in shown
    assert world.loop.enforcer._refused == {}
    await world.at_rest()
    await world.shows(*ROUTES)
