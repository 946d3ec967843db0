"""What is parked stays so, whoever clears its table; and what is not there is not given back."""

import contextlib
import errno
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from tests.nodeagent.node import V4, V6, Node
from tests.nodeagent.world import CNI, CNI_V6, NORMAL_V4, World

from handover_api.configuration import Settings
from handover_nodeagent import uninstall
from handover_nodeagent.kernel import route_lookup, tunnel
from handover_nodeagent.kernel.netlink import nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table.rules import Redirects
from handover_nodeagent.kernel.redirect_table.table import RedirectTable
from handover_nodeagent.network.model import Encapsulated, Nexthop, Route

pytestmark = pytest.mark.root
MakeRoute = Callable[..., Route]

BOTH = ["10.65.0.2", "fd00:65::2"]
NORMAL_V6 = "fd00:65::2 dev tap0 proto 88 metric 1024"


def flush(node: Node) -> None:
    """Clear the table of the parked routes, as networkd does at a reload."""
    for family in (4, 6):
        node.run(f"ip -{family} route flush table 5254")


async def serve(world: World) -> list[str]:
    """Have both routes of a CNI parked under ours; return the copies."""
    world.node.run(f"ip route add {CNI} mtu 1400")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.put(ips=BOTH)
    await world.shows(NORMAL_V4, NORMAL_V6)
    await world.until(lambda: len(world.parked()) == 2)
    return world.parked()


async def test_a_copy_that_somebody_removes_is_written_again(world: World) -> None:
    copies = await serve(world)
    flush(world.node)
    await world.until(lambda: world.parked() == copies)


async def test_a_copy_that_went_unheard_is_written_again_after_a_look(world: World) -> None:
    copies = await serve(world)
    subscription = world.observation._notifications._subscription
    take, subscription._take = subscription._take, lambda _: None
    flush(world.node)
    await world.at_rest()
    subscription._take = take
    await world.until(lambda: world.parked() == copies)


async def test_one_who_clears_the_table_again_and_again_is_answered_with_patience(
    world: World,
) -> None:
    copies = await serve(world)
    for _ in range(15):
        flush(world.node)
        await world.at_rest()
    await world.until(lambda: ("vm", "RouteContested") in world.reports.events)
    await world.shows(NORMAL_V4, NORMAL_V6)
    await world.until(lambda: world.parked() == copies)


@pytest.mark.usefixtures("mute")
async def test_a_route_whose_copy_is_gone_is_given_back_from_memory(world: World) -> None:
    await serve(world)
    with world.deaf():
        flush(world.node)
        world.delete()
        await world.until_state("gone")
        await world.shows("10.65.0.2 dev tap0 proto 5", "fd00:65::2 dev tap0 proto 5")


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_copy_that_goes_when_nobody_has_its_address_does_not_come_back(
    world: World, *, is_heard: bool
) -> None:
    """Its owner has cleaned up after a pod; the next one of that address has nothing of it."""
    world.node.run(f"ip route add {CNI}")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.put(said="target", ips=BOTH)
    await world.until(lambda: len(world.parked()) == 2)
    world.delete()
    await world.until_state("gone")
    assert len(world.parked()) == 2
    with contextlib.nullcontext() if is_heard else world.deaf():
        flush(world.node)
        await world.at_rest()
    world.put(ips=BOTH)
    await world.shows(NORMAL_V4, NORMAL_V6)
    await world.at_rest()
    assert world.parked() == []


async def test_copies_that_went_with_their_link_are_not_written_for_it(world: World) -> None:
    await serve(world)
    world.node.run("ip link set tap0 down")
    await world.shows()
    world.node.run("ip link set tap0 up")
    await world.shows(NORMAL_V4, NORMAL_V6)
    await world.at_rest()
    assert world.parked() == []


@pytest.mark.parametrize("is_flushed", [False, True])
def test_only_what_others_have_a_route_to_is_handed_back(
    node: Node, channel: Channel, route: MakeRoute, *, is_flushed: bool
) -> None:
    """Guards: a VM without any route, and without a word."""
    normal = [route(one, metric=1024) for one in (V4, V6)]
    silent, stale = route(V4 + 1), route(V4 + 2)
    assert channel.transact([rtmsg.encode_add(one) for one in (*normal, silent, stale)]) == [0] * 4
    for address in (V4, V6):
        node.run(f"ip route add {address} dev tap0 proto 5 metric 9 table 5254")
    node.run(f"ip route add {V4 + 2} dev tap0 proto 5")
    if is_flushed:
        flush(node)
    returned = uninstall._hand_back_routes(Settings(), {V4 + 1})
    expected = (0, 2, 2, "") if is_flushed else (2, 4, 0, "")
    assert (returned.parked, returned.ours, returned.kept, returned.trouble) == expected
    for address in (V4, V6, V4 + 2):
        winner = route_lookup.winner(channel, address)
        assert isinstance(winner, rtmsg.Entry)
        ours = is_flushed and address != V4 + 2
        assert winner.route.protocol == (88 if ours else 5)
    assert route_lookup.winner(channel, V4 + 1) == errno.ENETUNREACH


async def test_nothing_of_redirect_and_distribution_is_left(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """Devices, objects, rules and routes, and of others' none."""
    node.run("ip address add 192.0.2.1/24 dev tap1")
    remote = ip_address("192.0.2.9")
    indexes = [tunnel.ensure(channel, f"handover{number}", 7472 + number) for number in (0, 1)]
    assert all(isinstance(index, int) for index in indexes)
    hop = nhmsg.NextHop(4, node.tap1, remote)
    away = Encapsulated(remote)
    redirected = route(V4, oif=indexes[0], way=away)
    private = route(V4, oif=indexes[0], metric=513, protocol=89, way=away)
    distributed = route(V4 + 1, oif=0, metric=1025, protocol=89, way=Nexthop(nhmsg.FIRST_ID))
    requests = [nhmsg.encode_put(nhmsg.FIRST_ID, hop, 89)]
    requests += map(rtmsg.encode_add, (redirected, private, distributed))
    assert channel.transact(requests) == [0] * 4
    node.run("ip nexthop add id 5 via 192.0.2.8 dev tap1")
    writer = Writer()
    table = RedirectTable(writer)
    await table.replace(Redirects(7472, 7473, frozenset({"tap0"}), frozenset({remote})))
    writer.close()
    returned = await uninstall.hand_back(Settings(), frozenset())
    assert (returned.ours, returned.kept, returned.trouble) == (3, 0, "")
    assert node.run("nft list ruleset") == ""
    assert node.run("ip link show type vxlan") == ""
    assert node.lines("ip nexthop show") == ["id 5 via 192.0.2.8 dev tap1 scope link"]
    assert "10.65.0" not in node.run("ip route show table all")
