"""The kernel's table and our routes: in, out, read, without a gap and without taking others'."""

import dataclasses
import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from tests.nodeagent.node import MAIN, OURS, V4, V6, Node

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import codec, dump, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route, Via

pytestmark = pytest.mark.root
MakeRoute = Callable[..., Route]
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])


class Monitor:
    """What an outside observer is told about routes, read by pyroute2."""

    def __init__(self) -> None:
        """Listen from now on."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0x40 | 0x400))
        self._socket.settimeout(0)

    def close(self) -> None:
        """Stop."""
        self._socket.close()

    def metrics(self, address: IPAddress) -> list[list[int]]:
        """Return the metrics of the routes to *address* that are in after each change."""
        present: set[int] = set()
        seen = []
        for message in self._messages():
            attributes: dict[str, Any] = dict(message["attrs"])
            if attributes.get("RTA_DST") == str(address):
                change = present.add if message["event"] == "RTM_NEWROUTE" else present.discard
                change(attributes["RTA_PRIORITY"])
                seen.append(sorted(present))
        return seen

    def _messages(self) -> list[Any]:
        found: list[Any] = []
        while True:
            try:
                found += MarshalRtnl().parse(self._socket.recv(65536))
            except BlockingIOError:
                return found


def shown(node: Node, address: IPAddress) -> list[str]:
    """Return the routes to *address* as ip shows them."""
    lines = node.lines(f"ip -{address.version} route show {address}")
    return [line.removesuffix(" pref medium").replace(" scope link", "") for line in lines]


@BOTH
def test_metric_changes_without_a_moment_in_which_there_is_no_route(
    channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    monitor = Monitor()
    normal, elevated = route(address, metric=1024), route(address)
    channel.transact([rtmsg.encode_add(normal)])
    channel.transact([rtmsg.encode_replace(elevated), rtmsg.encode_remove(normal)])
    channel.transact([rtmsg.encode_add(normal), rtmsg.encode_remove(elevated)])
    expected = [[1024], [512, 1024], [512], [512, 1024], [1024]]
    assert expected == monitor.metrics(address)
    monitor.close()


@BOTH
def test_a_route_moves_to_another_device_in_one_step(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    monitor = Monitor()
    channel.transact([rtmsg.encode_add(route(address))])
    assert channel.transact([rtmsg.encode_replace(route(address, oif=node.tap1))]) == [0]
    assert monitor.metrics(address) == [[512], [512]]
    assert [f"{address} dev tap1 proto 88 metric 512"] == shown(node, address)
    monitor.close()


@BOTH
def test_deleting_one_devices_route_never_takes_the_others(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    mine, other = route(address), route(address, oif=node.tap1)
    channel.transact([rtmsg.encode_add(mine)])
    assert channel.transact([rtmsg.encode_remove(other)]) == [errno.ESRCH]
    assert [f"{address} dev tap0 proto 88 metric 512"] == shown(node, address)


@BOTH
@pytest.mark.parametrize(
    "difference", [{"metric": 1024}, {"protocol": 89}, {"table": 100}], ids=str
)
def test_a_delete_takes_exactly_its_route(
    channel: Channel, route: MakeRoute, address: IPAddress, difference: dict[str, int]
) -> None:
    mine = route(address)
    channel.transact([rtmsg.encode_add(mine)])
    assert channel.transact([rtmsg.encode_remove(route(address, **difference))]) == [errno.ESRCH]
    assert channel.transact([rtmsg.encode_remove(mine)]) == [0]


@BOTH
def test_a_foreign_route_of_our_metric_is_not_overwritten_by_an_add(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    node.run(f"ip route add {address} dev tap1 metric 512 proto 12")
    assert channel.transact([rtmsg.encode_add(route(address))]) == [errno.EEXIST]
    assert [f"{address} dev tap1 proto bird metric 512"] == shown(node, address)


def test_in_ipv6_a_replace_takes_the_first_route_of_its_metric_whatever_its_device(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """The kernel's own trap: what plan.diff reckons with when it pairs wanted and observed."""
    for device in ("tap0", "tap1"):
        node.run(f"ip -6 route append {V6} dev {device} metric 512 proto 88")
    assert (route(V6), route(V6, oif=node.tap1)) == route_lookup.observe(OURS, [MAIN])
    assert channel.transact([rtmsg.encode_replace(route(V6, oif=node.tap1))]) == [0]
    assert len(list(route_lookup.read_table(codec.INET6, MAIN, protocol=OURS))) == 2
    assert (route(V6, oif=node.tap1),) == route_lookup.observe(OURS, [MAIN])


def test_an_ipv6_question_that_is_answered_with_ipv4_routes_shows_no_double(
    monkeypatch: pytest.MonkeyPatch, channel: Channel, route: MakeRoute
) -> None:
    """As on a node that was booted without IPv6: here the kernel is asked for what it has not."""
    compose = codec.compose

    def without_ipv6(kind: int, flags: int, body: bytes) -> bytes:
        is_ipv6 = kind == codec.GETROUTE and body[0] == codec.INET6
        return compose(kind, flags, b"\x0c" + body[1:] if is_ipv6 else body)

    channel.transact([rtmsg.encode_add(route(one)) for one in (V4, V6)])
    monkeypatch.setattr(codec, "compose", without_ipv6)
    assert route_lookup.observe(OURS, [MAIN]) == (route(V4),)
    assert list(route_lookup.read_table(codec.INET6, MAIN)) == []


@pytest.mark.parametrize("table", [MAIN, 5254])
@pytest.mark.usefixtures("node")
def test_what_a_kernel_that_cannot_filter_shows_beside_is_left_out(
    monkeypatch: pytest.MonkeyPatch, channel: Channel, route: MakeRoute, table: int
) -> None:
    others = [{"table": 5255}, {"table": 100}, {"table": table, "protocol": 5, "metric": 5}]
    wanted = route(V4, table=table)
    channel.transact([rtmsg.encode_add(one) for one in (wanted, *(route(V4, **o) for o in others))])
    unfiltered = codec.compose(codec.GETROUTE, codec.DUMP, b"\2" + bytes(11))
    shown = dump.read(unfiltered)
    assert len(shown) > 3
    monkeypatch.setattr(dump, "read", lambda _: shown)
    found = route_lookup.read_table(codec.INET, table, protocol=OURS)
    assert [rtmsg.decode(one).route for one in found] == [wanted]


@BOTH
def test_only_our_host_routes_are_observed(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    mine, aside = route(address), route(address, table=100, metric=1024)
    channel.transact([rtmsg.encode_add(mine), rtmsg.encode_add(aside)])
    gateway = "10.65.1.1" if address.version == 4 else "fd00:66::1"
    node.run(f"ip address add {gateway}/{address.max_prefixlen - 8} dev tap1")
    other, network = address + 1, address + 16
    node.run(f"ip route add {other} dev tap0 proto 12")
    node.run(f"ip route add {network}/{address.max_prefixlen - 1} dev tap0 proto 88")
    via = gateway[:-1] + "2"
    node.run(f"ip route add {address + 2} via {via} metric 9 proto 88")
    node.run(f"ip route add {address + 4} proto 88 nexthop via {via} nexthop via {gateway[:-1]}3")
    node.run(f"ip route add blackhole {address + 3} proto 88")
    away = route(address + 2, metric=9, oif=node.tap1, way=Via(ip_address(via)))
    assert (mine, away, aside) == route_lookup.observe(OURS, [MAIN, 100])
    assert (mine, away) == route_lookup.observe(OURS, [MAIN])
    assert route_lookup.observe(OURS, [4711]) == ()


def test_link_down_loses_ipv4_routes_silently_and_ipv6_ones_too(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    both = [route(V4), route(V6)]
    channel.transact([rtmsg.encode_add(one) for one in both])
    node.run("ip link set tap0 down")
    node.run("ip link set tap0 up")
    assert route_lookup.observe(OURS, [MAIN]) == ()
    assert channel.transact([rtmsg.encode_add(one) for one in both]) == [0, 0]


def test_routes_follow_a_rename_but_not_an_interface_made_anew(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    both = [route(V4), route(V6)]
    channel.transact([rtmsg.encode_add(one) for one in both])
    node.run("ip link set tap0 name tap7")
    assert tuple(both) == route_lookup.observe(OURS, [MAIN])
    assert shown(node, V4) == ["10.65.0.2 dev tap7 proto 88 metric 512"]
    node.run("ip link delete tap7")
    node.make_tap0()
    assert node.tap0 != both[0].oif
    assert route_lookup.observe(OURS, [MAIN]) == ()
    assert channel.transact([rtmsg.encode_replace(one) for one in both]) == [errno.ENODEV] * 2
    assert channel.transact([rtmsg.encode_add(route(one)) for one in (V4, V6)]) == [0, 0]


@BOTH
def test_the_kernel_says_which_route_wins(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    assert route_lookup.winner(channel, address) == errno.ENETUNREACH
    mine = route(address)
    channel.transact([rtmsg.encode_add(mine)])
    found = route_lookup.winner(channel, address)
    assert isinstance(found, rtmsg.Entry)
    assert mine == found.route
    assert found.is_host
    node.run(f"ip route add {address} dev tap1 metric 5 proto 12")
    found = route_lookup.winner(channel, address)
    assert isinstance(found, rtmsg.Entry)
    assert Route(address, node.tap1, 5, MAIN, 12) == found.route


def test_a_winner_by_a_gateway_is_told_as_it_is(node: Node, channel: Channel) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip route add default via 192.0.2.9 proto 3 metric 7")
    found = route_lookup.winner(channel, V4)
    assert isinstance(found, rtmsg.Entry)
    expected = "0.0.0.0/0 via 192.0.2.9 dev tap1 metric 7 table 254 proto boot"
    assert route_lookup.describe(found) == expected


def test_ten_thousand_foreign_routes_do_not_hide_ours(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    foreign = (IPv4Address(0x0A000000 + number) for number in range(10_000))
    many = [rtmsg.encode_add(route(one, oif=node.tap1, metric=0, protocol=12)) for one in foreign]
    assert {0} == set(channel.transact(many))
    channel.transact([rtmsg.encode_add(route(V4))])
    assert (route(V4),) == route_lookup.observe(OURS, [MAIN])


def test_a_route_without_metric_or_protocol_is_deleted_only_where_it_is_the_first(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    """To the kernel 0 stands for any: a delete of what is not there would take another one."""
    bare, nobodys = route(V4, metric=0), route(V4, metric=0, protocol=0)
    channel.transact([rtmsg.encode_add(route(V4))])
    assert route_lookup.is_certain(channel, route(V4))
    assert not route_lookup.is_certain(channel, bare)
    assert not route_lookup.is_certain(channel, nobodys)
    assert not route_lookup.is_certain(channel, route(V6, metric=0))
    assert not route_lookup.is_certain(channel, dataclasses.replace(route(V4), table=0))
    channel.transact([rtmsg.encode_add(nobodys)])
    assert route_lookup.is_certain(channel, nobodys)
    assert not route_lookup.is_certain(channel, bare)
    assert channel.transact([rtmsg.encode_remove(nobodys)]) == [0]
    assert shown(node, V4) == ["10.65.0.2 dev tap0 proto 88 metric 512"]


def test_a_person_reads_names_not_numbers(node: Node, channel: Channel) -> None:
    node.run("ip route add 10.65.0.0/24 dev tap0 proto 12 metric 7")
    winner = route_lookup.winner(channel, V4)
    assert isinstance(winner, rtmsg.Entry)
    assert route_lookup.describe(winner) == "10.65.0.0/24 dev tap0 metric 7 table 254 proto bird"


@BOTH
def test_a_nexthop_object_hides_nothing_of_another_device(
    node: Node, channel: Channel, route: MakeRoute, address: IPAddress
) -> None:
    """Distributed routes lead by such an object, and win over a redirect that is to go."""
    mine = route(address, metric=1024)
    channel.transact([rtmsg.encode_add(mine)])
    four = address.version == 4
    here, there = ("192.0.2.1/24", "192.0.2.2") if four else ("fd02::1/64", "fd02::2")
    node.run(f"ip address add {here} dev tap1 {'' if four else 'nodad'}")
    node.run(f"ip nexthop add id 7 via {there} dev tap1")
    node.run(f"ip -{address.version} route add {address} nhid 7 metric 513 proto 89")

    found = route_lookup.winner(channel, address, oif=node.tap0)

    assert isinstance(found, rtmsg.Entry)
    assert found.as_ours() == mine
    channel.transact([rtmsg.encode_remove(mine)])
    assert isinstance(route_lookup.winner(channel, address, oif=node.tap0), int)
