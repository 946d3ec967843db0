"""Only a next hop that is the node itself is used, and never a guess that a node is on the link."""

from ipaddress import ip_address, ip_network

import pytest

from handover_nodeagent.distribution import nexthop
from handover_nodeagent.distribution.nexthop import Answer, Tunneled, Ways
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.kernel.netlink.nhmsg import NextHop

B4, B6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
PODS4, PODS6 = ip_network("10.244.2.0/24"), ip_network("fd00:10:244:2::/64")
NODE = Node("b", (B4, B6), (PODS4, PODS6))
ROUTER = ip_address("192.0.2.254")
OVERLAY = ip_address("10.244.2.0")
UPLINK, FLANNEL, TUNNEL = 2, 7, 9


@pytest.mark.parametrize(
    ("what", "ways", "expected"),
    [
        ("on the link", Ways(Answer(UPLINK)), NextHop(4, UPLINK, B4)),
        (
            "on the link, whatever the CNI does",
            Ways(Answer(UPLINK), Answer(FLANNEL, OVERLAY, onlink=True)),
            NextHop(4, UPLINK, B4),
        ),
        (
            "flannel with VXLAN between routed nodes",
            Ways(Answer(UPLINK, ROUTER, is_default=True), Answer(FLANNEL, OVERLAY, onlink=True)),
            NextHop(4, FLANNEL, OVERLAY, onlink=True),
        ),
        (
            "Calico with IPIP: the node's own address on a tunnel",
            Ways(Answer(UPLINK, ROUTER), Answer(FLANNEL, B4, onlink=True)),
            NextHop(4, FLANNEL, B4, onlink=True),
        ),
        (
            "a router that knows the networks of pods would send a guest's packets home",
            Ways(Answer(UPLINK, ROUTER), Answer(UPLINK, ROUTER)),
            Tunneled(B4),
        ),
        (
            "a default route that says nothing of the link",
            Ways(Answer(UPLINK, is_default=True), Answer(UPLINK, is_default=True)),
            Tunneled(B4),
        ),
        ("our own tunnel is no way of the CNI's", Ways(None, Answer(TUNNEL, B4)), Tunneled(B4)),
        ("no route at all", Ways(), Tunneled(B4)),
    ],
)
def test_a_node_is_reached(what: str, ways: Ways, expected: NextHop | Tunneled) -> None:
    assert nexthop.choose(NODE, 4, ways, (TUNNEL,)) == expected, what


def test_each_family_has_its_own_next_hop() -> None:
    assert nexthop.choose(NODE, 6, Ways(Answer(UPLINK))) == NextHop(6, UPLINK, B6)


def test_a_node_of_the_other_family_alone_is_reached_by_a_tunnel() -> None:
    assert nexthop.choose(Node("b", (B4,)), 6, Ways()) == Tunneled(B4)


def test_a_node_without_an_address_is_reached_by_nothing() -> None:
    assert nexthop.choose(Node("b"), 4, Ways(Answer(UPLINK))) is None


def test_the_kernel_is_asked_for_an_address_that_no_pod_has() -> None:
    assert nexthop.questions(NODE, 4) == (B4, PODS4.network_address)
    assert nexthop.questions(NODE, 6) == (B6, PODS6.network_address)
    assert nexthop.questions(Node("b"), 6) == (None, None)
