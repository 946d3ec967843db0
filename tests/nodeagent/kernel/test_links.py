"""The node's links, with what makes one the node's own."""

import socket
from ipaddress import ip_address

import pytest
from tests.nodeagent.node import Node

from handover_nodeagent.kernel import links
from handover_nodeagent.network.model import Link

pytestmark = pytest.mark.root


def addresses(link: Link) -> set[str]:
    """Return the node's own addresses but the one that each link makes of its MAC."""
    return {str(one) for one in link.addresses if not one.is_link_local}


def test_a_link_is_seen_with_its_mac_and_state(node: Node) -> None:
    node.run("ip link set tap1 down")
    seen = links.observe()
    tap0 = seen[node.tap0]
    assert (tap0.name, tap0.mac, tap0.up) == ("tap0", "ee:ee:ee:ee:ee:ee", True)
    assert not seen[node.tap1].up
    assert dict(socket.if_nameindex()) == {link.index: link.name for link in seen.values()}


def test_the_nodes_own_addresses_are_seen_where_they_are(node: Node) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip address add fd00:66::1/64 dev tap1")
    node.run("ip address add 192.0.2.5 peer 198.51.100.7 dev tap0")
    seen = links.observe()
    assert {"192.0.2.1", "fd00:66::1"} == addresses(seen[node.tap1])
    assert {"192.0.2.5"} == addresses(seen[node.tap0])
    assert {"127.0.0.1", "::1"} == addresses(seen[1])
    assert ip_address("fe80::ecee:eeff:feee:eeee") in seen[node.tap0].addresses


@pytest.mark.parametrize(
    "route",
    [
        "-4 route add default dev tap1",
        "-6 route add default dev tap1 metric 5",
        "-4 route add default proto 12 nexthop dev tap1 nexthop dev far1",
    ],
)
def test_the_device_of_a_default_route_is_known(node: Node, route: str) -> None:
    assert {False} == {link.default_route for link in links.observe().values()}
    node.run(f"ip {route}")
    seen = {link.name for link in links.observe().values() if link.default_route}
    assert {"tap1"} == seen - {"far1"}


def test_a_default_route_of_another_table_does_not_count(node: Node) -> None:
    node.run("ip route add default dev tap1 table 100")
    assert {False} == {link.default_route for link in links.observe().values()}
    assert links.observe(100)[node.tap1].default_route
