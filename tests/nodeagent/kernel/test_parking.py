"""Foreign routes: kept aside with all that they had, given back as they were."""

import dataclasses
import errno
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest
from tests.nodeagent.node import MAIN, OURS, V4, V6, Node
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel import parking, route_lookup
from handover_nodeagent.kernel.foreign_route import Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.answers import Results
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route

pytestmark = pytest.mark.root
MakeRoute = Callable[..., Route]
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])


def shown(node: Node, address: IPAddress, table: int = MAIN) -> list[str]:
    """Return all that ip knows of the routes to *address* in *table*."""
    return node.lines(f"ip -d -{address.version} route show {address} table {table}")


def foreign(address: IPAddress, **filters: int) -> tuple[Foreign, ...]:
    """Observe what there is to park for *address*."""
    return parking.observe_others({address}, MAIN, {OURS}, **filters).direct


def set_aside(node: Node, channel: Channel, route: str) -> Foreign:
    """Have the only foreign route to an address parked; return its copy."""
    node.run(f"ip route add {route}")
    (found,) = foreign(ip_address(route.split(maxsplit=1)[0]))
    assert parking.park(channel, found) == 0
    (parked,) = parking.observe_parked()
    return parked


ATTRIBUTES = [
    (V4, "10.65.0.2 dev tap0"),
    (V4, "10.65.0.2 dev tap0 scope link proto 5 metric 7 src 192.0.2.1 mtu lock 1400 advmss 1000"),
    (V4, "10.65.0.2 dev tap0 tos 0x10 realm 5 window 9 rto_min 40ms quickack 1 congctl reno"),
    (V4, "10.65.0.2 dev tap0 scope global"),
    (V4, "10.65.0.2 nhid 7"),
    (V6, "fd00:65::2 dev tap0"),
    (V6, "fd00:65::2 dev tap0 proto 5 metric 7 mtu 1400 hoplimit 9 pref high src fd00:66::1"),
    (V6, "fd00:65::2 nhid 8 proto 5"),
]


@pytest.mark.parametrize(
    ("address", "description"), ATTRIBUTES, ids=[text for _, text in ATTRIBUTES]
)
def test_a_route_comes_back_with_all_its_attributes(
    node: Node, channel: Channel, address: IPAddress, description: str
) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap0")
    node.run("ip address add fd00:66::1/64 dev tap0 nodad")
    node.run("ip nexthop add id 7 dev tap0")
    node.run("ip -6 nexthop add id 8 dev tap0")
    node.run(f"ip -{address.version} route add {description}")
    before = shown(node, address)
    (found,) = foreign(address)

    assert parking.park(channel, found) == 0
    assert shown(node, address) == []
    aside = [line.replace(" table 5254", "") for line in shown(node, address, 5254)]
    assert before == aside
    assert foreign(address) == ()

    (parked,) = parking.observe_parked()
    assert parking.unpark(channel, parked, MAIN, OURS) == 0
    assert before == shown(node, address)
    assert parking.observe_parked() == ()


def test_a_route_that_expires_goes_on_expiring(node: Node, channel: Channel) -> None:
    node.run(f"ip -6 route add {V6} dev tap0 expires 600")
    (found,) = foreign(V6)
    parking.park(channel, found)
    (line,) = shown(node, V6, 5254)
    assert 500 < int(line.split("expires ")[1].split("sec")[0]) <= 600


@BOTH
def test_a_route_by_a_link_without_carrier_is_parked_too(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    """Its listing carries flags that tell a state, and that the kernel does not take back."""
    node.run(f"ip route add {address} dev tap1 proto 5")
    node.run("ip link set far1 down")
    node.await_shown(f"ip -{address.version} route show {address}", "linkdown")
    (found,) = foreign(address)
    assert parking.park(channel, found) == 0
    assert len(parking.observe_parked()) == 1


@BOTH
def test_parking_again_changes_nothing(node: Node, channel: Channel, address: IPAddress) -> None:
    node.run(f"ip route add {address} dev tap0 proto 5")
    (found,) = foreign(address)
    assert [parking.park(channel, found) for _ in range(2)] == [0, 0]
    assert len(parking.observe_parked()) == 1
    assert shown(node, address) == []


@BOTH
def test_a_route_that_its_owner_removed_meanwhile_is_not_parked(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    node.run(f"ip route add {address} dev tap0 proto 5")
    (found,) = foreign(address)
    node.run(f"ip route delete {address}")
    assert parking.park(channel, found) == errno.ESRCH
    assert parking.observe_parked() == ()


@BOTH
def test_a_route_added_anew_with_other_attributes_takes_its_copys_place(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    for attributes in ("proto 5", "proto 6 mtu 1400"):
        node.run(f"ip route add {address} dev tap0 {attributes}")
        (found,) = foreign(address)
        assert parking.park(channel, found) == 0
    (copy,) = shown(node, address, 5254)
    assert "proto 6 " in copy
    assert "mtu 1400" in copy


@BOTH
def test_routes_of_two_devices_are_both_kept(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    for device in ("tap0", "tap1"):
        node.run(f"ip -{address.version} route append {address} dev {device} proto 5")
    found = foreign(address)
    assert [parking.park(channel, one) for one in found] == [0, 0]
    assert {node.tap0, node.tap1} == {one.route.oif for one in parking.observe_parked()}
    node.run("ip link delete tap1")
    (left,) = parking.observe_parked()
    assert node.tap0 == left.route.oif


@BOTH
def test_it_is_put_back_before_ours_goes(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    """In IPv6 with the kernel's default metric 1024 it even has our route's place."""
    node.run(f"ip route add {address} dev tap0 proto 5")
    before = shown(node, address)
    (found,) = foreign(address)
    parking.park(channel, found)
    mine = route(address, metric=1024)
    assert channel.transact([rtmsg.encode_add(mine)]) == [0]
    (parked,) = parking.observe_parked()
    assert parking.unpark(channel, parked, MAIN, OURS) == 0
    assert set(before) <= set(shown(node, address))
    assert channel.transact([rtmsg.encode_remove(mine)])[0] in {0, errno.ESRCH}
    assert before == shown(node, address)


def test_where_its_owner_has_put_it_back_ours_stays(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """An IPv6 replace would take the first of the metric: ours, on another device."""
    parked = set_aside(node, channel, f"{V6} dev tap1 proto 5")
    assert channel.transact([rtmsg.encode_add(route(V6, metric=1024))]) == [0]
    node.run(f"ip route append {V6} dev tap1 proto 5")
    before = shown(node, V6)
    assert parking.unpark(channel, parked, MAIN, OURS) == 0
    assert shown(node, V6) == before
    assert parking.observe_parked() == ()


def test_it_takes_the_place_of_ours_though_another_device_has_the_first(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    parked = set_aside(node, channel, f"{V6} dev tap0 proto 5")
    node.run(f"ip route add {V6} dev tap1 proto 6")
    assert channel.transact([rtmsg.encode_beside(route(V6, metric=1024))]) == [0]
    assert parking.unpark(channel, parked, MAIN, OURS) == 0
    left = [(each.route.oif, each.route.protocol) for each in foreign(V6)]
    assert left == [(node.tap1, 6), (node.tap0, 5)]
    assert route_lookup.observe(OURS, [MAIN]) == ()


def test_ours_takes_the_place_of_its_own_devices_though_another_has_the_first(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    node.run(f"ip route add {V6} dev tap1 proto 6")
    node.run(f"ip route append {V6} dev tap0 proto 5")
    first, second = foreign(V6)
    assert parking.supplant(channel, second, route(V6, metric=1024)) == 0
    assert [first.route] == [each.route for each in foreign(V6)]
    (mine,) = route_lookup.observe(OURS, [MAIN])
    assert (mine.oif, mine.metric) == (node.tap0, 1024)
    assert [one.route.protocol for one in parking.observe_parked()] == [5]


def test_a_place_that_somebody_else_took_meanwhile_is_not_ours(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    node.run(f"ip route add {V6} dev tap1 proto 6")
    node.run(f"ip route append {V6} dev tap0 proto 5")
    _, second = foreign(V6)
    node.run(f"ip route delete {V6} dev tap0 proto 5")
    node.run(f"ip route append {V6} dev tap0 proto 7")
    before = shown(node, V6)
    assert parking.supplant(channel, second, route(V6, metric=1024)) == errno.EEXIST
    assert shown(node, V6) == before


def test_ours_that_is_there_already_is_no_refusal(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    ours = route(V6, metric=1024)
    assert channel.transact([rtmsg.encode_add(ours)]) == [0]
    node.run(f"ip route append {V6} dev tap1 proto 6")
    (rival,) = foreign(V6)
    assert parking.supplant(channel, rival, ours) == 0
    assert foreign(V6) == ()
    assert route_lookup.observe(OURS, [MAIN]) == (ours,)


def test_one_that_a_delete_cannot_name_keeps_its_place(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """Protocol 0 stands for any."""
    node.run(f"ip route add {V6} dev tap1 proto 6")
    node.run(f"ip route append {V6} dev tap0 proto 5")
    _, second = foreign(V6)
    before = shown(node, V6)
    unnamed = dataclasses.replace(second, route=dataclasses.replace(second.route, protocol=0))
    assert parking.supplant(channel, unnamed, route(V6, metric=1024)) == errno.EBUSY
    assert shown(node, V6) == before


@BOTH
def test_only_foreign_direct_host_routes_are_found(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    gateway = "192.0.2.1/24" if address.version == 4 else "fd00:66::1/64"
    via = "192.0.2.9" if address.version == 4 else "fd00:66::9"
    node.run(f"ip address add {gateway} dev tap1")
    channel.transact([rtmsg.encode_add(route(address))])
    node.run(f"ip route add {address} via {via} metric 3")
    node.run(f"ip route add {address} metric 4 nexthop via {via} nexthop via {via[:-1]}8")
    node.run(f"ip route add blackhole {address} metric 5")
    node.run(f"ip route add {address + 1} dev tap0")
    node.run(f"ip route add {address} dev tap0 table 100")
    assert foreign(address) == ()
    node.run(f"ip route add {address} dev tap1 metric 6")
    assert [node.tap1] == [one.route.oif for one in foreign(address)]
    assert foreign(address, oif=node.tap0) == ()
    assert len(foreign(address, oif=node.tap1)) == 1


class FullChannel(Channel):
    """A channel to a kernel that has no room for new routes."""

    def transact(self, requests: Sequence[bytes]) -> Results:
        """Let through what is not a new route."""
        if any(codec.HEADER.unpack_from(one)[1] == codec.NEWROUTE for one in requests):
            return Results([errno.ENOMEM] * len(requests))
        return super().transact(requests)


@BOTH
def test_what_cannot_be_copied_is_left_alone(node: Node, address: IPAddress) -> None:
    node.run(f"ip route add {address} dev tap0 proto 5")
    (found,) = foreign(address)
    with FullChannel() as full:
        assert parking.park(full, found) == errno.ENOMEM
    assert [found.route] == [one.route for one in foreign(address)]


def test_what_cannot_be_put_back_stays_parked(node: Node, channel: Channel) -> None:
    parked = set_aside(node, channel, f"{V6} dev tap0 proto 5")

    def attempt() -> int:
        with Channel() as mere:
            return parking.unpark(mere, parked, MAIN, OURS)

    assert without_privileges(attempt) == errno.EPERM
    assert len(parking.observe_parked()) == 1


def test_a_route_that_nobody_can_name_is_parked_only_while_it_is_the_first(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """Protocol 0 stands for any: its delete would take ours, once its owner has removed it."""
    node.run(f"ip route add {V4} dev tap0 proto 0")
    (found,) = foreign(V4)
    channel.transact([rtmsg.encode_add(route(V4))])
    node.run(f"ip route delete {V4} dev tap0 metric 0")
    before = shown(node, V4)
    assert len(before) == 1
    assert parking.park(channel, found) == errno.ESRCH
    assert shown(node, V4) == before
    assert parking.observe_parked() == ()
    node.run(f"ip route add {V4} dev tap0 proto 0")
    assert parking.park(channel, found) == 0
    assert shown(node, V4) == before
