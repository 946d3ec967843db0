"""Nexthop objects in the kernel: ours among others', and one replace that moves all routes."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.kernel.migration_net import VM, MigrationNet
from tests.nodeagent.kernel.test_in_place import Flood
from tests.nodeagent.node import MAIN, V4, V6, Node

from handover_nodeagent.kernel import nexthops
from handover_nodeagent.kernel.netlink import nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import FIRST_ID, NextHop
from handover_nodeagent.network.model import IPAddress, Nexthop, Route

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
PRIVATE = 89
MANY = 500


@pytest.fixture
def linked(node: Node) -> Node:
    """Give the node a network of both families on tap1."""
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip address add fd00:66::1/64 dev tap1 nodad")
    return node


def gateway(address: IPAddress, last: int) -> IPAddress:
    return ip_address(f"192.0.2.{last}" if address.version == 4 else f"fd00:66::{last}")


def by(node: Node, address: IPAddress, last: int) -> NextHop:
    return NextHop(address.version, node.tap1, gateway(address, last))


def distributed(address: IPAddress) -> Route:
    return Route(address, 0, 513, MAIN, PRIVATE, way=Nexthop(FIRST_ID))


def put(channel: Channel, nexthop: NextHop) -> list[int]:
    return channel.transact([nhmsg.encode_put(FIRST_ID, nexthop, PRIVATE)])


@BOTH
def test_objects_are_added_seen_replaced_and_removed(
    linked: Node, channel: Channel, address: IPAddress
) -> None:
    first, second = by(linked, address, 9), by(linked, address, 10)
    for wanted in (first, first, second):
        assert put(channel, wanted) == [0]
        assert nexthops.observe(MAIN, PRIVATE) == nexthops.Observed({FIRST_ID: wanted})
    assert linked.lines("ip nexthop show") == [
        f"id {FIRST_ID} via {gateway(address, 10)} dev tap1 scope link proto {PRIVATE}"
    ]
    assert channel.transact([nhmsg.encode_remove(FIRST_ID)]) == [0]
    assert nexthops.observe(MAIN, PRIVATE) == nexthops.Observed()


def test_those_of_others_are_left_out(linked: Node, channel: Channel) -> None:
    ours = by(linked, V4, 9)
    put(channel, ours)
    for number in (5, FIRST_ID - 1, nhmsg.LAST_ID + 1):
        linked.run(f"ip nexthop add id {number} via 192.0.2.8 dev tap1 proto {PRIVATE}")
    linked.run(f"ip nexthop add id {FIRST_ID + 2} blackhole proto {PRIVATE}")
    linked.run(f"ip nexthop add id {FIRST_ID + 3} group {FIRST_ID} proto {PRIVATE}")
    found = nexthops.observe(MAIN, PRIVATE).nexthops
    assert found == {FIRST_ID: ours, FIRST_ID + 2: None, FIRST_ID + 3: None}


@BOTH
def test_one_replace_moves_all_routes(linked: Node, channel: Channel, address: IPAddress) -> None:
    guests = [address + number for number in range(MANY)]
    put(channel, by(linked, address, 9))
    added = channel.transact([rtmsg.encode_replace(distributed(one)) for one in guests])
    assert set(added) == {0}
    before = nexthops.observe(MAIN, PRIVATE).routes
    assert before == tuple(map(distributed, guests))
    put(channel, by(linked, address, 10))
    shown = linked.lines(f"ip -{address.version} route show proto {PRIVATE}")
    assert len(shown) == MANY
    assert all(f"via {gateway(address, 10)} dev tap1" in line for line in shown)
    # The routes are what they were: none of them is to be written again.
    assert nexthops.observe(MAIN, PRIVATE).routes == before
    assert channel.transact([rtmsg.encode_remove(distributed(address))]) == [0]
    channel.transact([nhmsg.encode_remove(FIRST_ID)])
    assert linked.run(f"ip -{address.version} route show proto {PRIVATE}") == ""


@pytest.fixture
def net() -> Iterator[MigrationNet]:
    """Make a segment on which both nodes serve the guest, and a router that goes by either."""
    namespaces.needs_root()
    with migration_net.made(routed=False) as it:
        for node in "ab":
            for address in VM:
                it.run(node, f"ip route add {address} dev tap metric 512")
        yield it


@pytest.mark.parametrize("address", VM, ids=["IPv4", "IPv6"])
def test_200_replaces_of_an_object_lose_no_packet(net: MigrationNet, address: IPAddress) -> None:
    version, uplink = address.version, net.index("r", "br0")
    ways = [NextHop(version, uplink, net.node_address(node, version)) for node in "ab"]
    net.run("r", f"ip -{version} route del {address}")
    with net.within("r", Channel) as channel:
        put(channel, ways[0])
        assert channel.transact([rtmsg.encode_replace(distributed(address))]) == [0]
        with Flood(net, address) as flood:
            for turn in range(200):
                assert put(channel, ways[turn % 2]) == [0]
    assert flood.arrived() == flood.sent
