"""Only what distributed routes depend on wakes the agent, and nothing that it did itself."""

import socket
from collections.abc import Iterator

import pytest
from tests.nodeagent.distribution import three_nodes
from tests.nodeagent.distribution.cluster import GUEST4, A
from tests.nodeagent.distribution.three_nodes import ThreeNodes
from tests.nodeagent.namespaces import needs_root

from handover_nodeagent.distribution import notifications
from handover_nodeagent.distribution.notifications import Doubt
from handover_nodeagent.kernel.netlink import codec, nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import Nexthop, Route

LINK = codec.compose(
    codec.NEWLINK, 0, b"\0\0\0\0\7\0\0\0\0\0\0\0\0\0\0\0" + codec.attribute(3, b"eth\0")
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (LINK, Doubt(link=7)),
        (rtmsg.encode_remove(Route(GUEST4, 2, 513, 254, 89)), Doubt(are_ours=True)),
        (rtmsg.encode_remove(Route(GUEST4, 2, 513, 254, 3)), Doubt()),
        (nhmsg.encode_remove(7), Doubt(are_ours=True)),
        (codec.compose(codec.NEWADDR, 0, bytes(8)), Doubt()),
    ],
)
def test_what_a_notification_puts_in_doubt(message: bytes, expected: Doubt) -> None:
    assert notifications.decode(message, 89) == expected


@pytest.fixture
def nodes() -> Iterator[ThreeNodes]:
    """Make three nodes and be the bystander."""
    needs_root()
    with three_nodes.made() as it:
        yield it


async def heard(nodes: ThreeNodes, *commands: str) -> list[Doubt]:
    """Return what is told of some commands on the bystander."""
    doubts: list[Doubt] = []
    with Channel() as channel:
        listening = notifications.listen(doubts.append, channel.port, 89)
        try:
            nodes.run("c", *commands)
            channel.transact(
                [
                    nhmsg.encode_put(
                        nhmsg.FIRST_ID,
                        NextHop(4, socket.if_nametoindex("eth"), A.addresses[0]),
                        89,
                    ),
                    rtmsg.encode_add(Route(GUEST4, 0, 513, 254, 89, way=Nexthop(nhmsg.FIRST_ID))),
                ]
            )
            listening._read()
        finally:
            listening.close()
    return doubts


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", []),
        ("ip route add 198.51.100.9 via 192.0.2.1", []),
        ("ip route add 198.51.100.0/24 via 192.0.2.1 proto bird", []),
        ("ip route add 198.51.100.0/24 via 192.0.2.1", [Doubt()]),
        ("ip -6 route add 2001:db8:1::/64 via 2001:db8::1", [Doubt()]),
        ("ip -6 route add 2001:db8:1::9 via 2001:db8::1", []),
        ("ip route add 198.51.100.9 via 192.0.2.1 proto 89", [Doubt(are_ours=True)]),
        ("ip nexthop add id 7 via 192.0.2.1 dev eth", [Doubt(are_ours=True)]),
    ],
)
async def test_what_wakes_the_agent(nodes: ThreeNodes, command: str, expected: list[Doubt]) -> None:
    assert await heard(nodes, command) == expected


@pytest.mark.root
async def test_a_link_and_its_addresses_are_told_of(nodes: ThreeNodes) -> None:
    index = socket.if_nametoindex("eth")
    doubts = await heard(nodes, "ip link set eth mtu 1400")
    assert doubts
    assert set(doubts) == {Doubt(link=index)}
    assert Doubt() in await heard(nodes, "ip address add 192.0.2.33/32 dev eth")
