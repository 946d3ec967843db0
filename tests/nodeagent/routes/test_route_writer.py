"""A route that leads into the tunnel goes as a plain one: some speakers read nothing else."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from tests.nodeagent.node import V4, V6, Node

from handover_api.configuration import Settings
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route
from handover_nodeagent.routes import host_routes
from handover_nodeagent.routes.host_routes import HostRoutes

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
REMOTE = ip_address("192.0.2.9")
SETTINGS = Settings()


@pytest.fixture
def routes(node: Node) -> Iterator[HostRoutes]:
    """Let nobody desire anything on a node with a tunnel."""
    node.run("ip address add 192.0.2.1/24 dev tap1")
    it = HostRoutes(SETTINGS)
    assert isinstance(tunnel.ensure(it._channel, tunnel.REDIRECT, 7472), int)
    yield it
    it.close()


@pytest.fixture
def away(routes: HostRoutes, route: Callable[..., Route]) -> Callable[[IPAddress], Route]:  # noqa: ARG001
    """Make a route into the tunnel."""
    index = socket.if_nametoindex(tunnel.REDIRECT)
    return lambda address: route(address, oif=index, way=Encapsulated(REMOTE))


def told(sock: socket.socket, address: IPAddress) -> list[tuple[str, bool, bool]]:
    """Return of each notification its event, whether it replaced, whether it encapsulates."""
    found: list[tuple[str, bool, bool]] = []
    while True:
        try:
            messages: list[Any] = list(MarshalRtnl().parse(sock.recv(65536)))
        except BlockingIOError:
            return found
        for message in messages:
            attributes = dict(message["attrs"])
            if attributes.get("RTA_DST") == str(address):
                replaced = bool(message["header"]["flags"] & 0x100)
                found.append((message["event"], replaced, "RTA_ENCAP" in attributes))


@pytest.fixture
def monitor(routes: HostRoutes) -> Iterator[socket.socket]:  # noqa: ARG001
    """Hear of all routes, as a speaker does."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0x40 | 0x400))
        sock.settimeout(0)
        yield sock


@BOTH
def test_a_removal_is_told_of_a_plain_route(
    routes: HostRoutes,
    monitor: socket.socket,
    away: Callable[[IPAddress], Route],
    address: IPAddress,
) -> None:
    with Channel() as channel:
        assert channel.transact([rtmsg.encode_add(away(address))]) == [0]
    routes.load(host_routes.observe(SETTINGS, [address]))
    assert routes.unclaimed() == (away(address),)
    done = routes.apply([address])
    assert (done.refused, done.is_doubtful) == ({}, False)
    assert told(monitor, address) == [
        ("RTM_NEWROUTE", False, True),
        ("RTM_NEWROUTE", True, False),
        ("RTM_DELROUTE", False, False),
    ]
    assert host_routes.observe(SETTINGS, [address]).ours == ()


@BOTH
def test_what_stands_in_its_place_by_now_is_left_alone(
    node: Node,
    routes: HostRoutes,
    away: Callable[[IPAddress], Route],
    address: IPAddress,
) -> None:
    """Ours went unheard, and somebody else has the prefix and the metric."""
    with Channel() as channel:
        channel.transact([rtmsg.encode_add(away(address))])
        routes.load(host_routes.observe(SETTINGS, [address]))
        channel.transact([rtmsg.encode_remove(away(address))])
    node.run(f"ip route add {address} dev tap1 metric 512 proto 12")
    before = node.run(f"ip -{address.version} route show {address}")
    assert routes.apply([address]).refused == {}
    assert node.run(f"ip -{address.version} route show {address}") == before
