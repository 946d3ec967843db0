"""What pyroute2 reads for a person is what our own readers read for the agent."""

import dataclasses
from collections.abc import Iterator

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from tests.nodeagent.node import MAIN, Node

from handover_nodeagent.commands.check import observation
from handover_nodeagent.commands.check.observation import Observed
from handover_nodeagent.kernel import links, route_lookup
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.codec import ObservationError

pytestmark = pytest.mark.root

COMMANDS = """
link add handover0 type vxlan external gpe dstport 7472 nolearning
link set handover0 up
route add 10.65.0.4 encap ip id 88 dst 192.0.2.9 dev handover0 metric 512 proto 88
route add 10.65.0.5 encap ip id 89 dst 192.0.2.9 dev handover0 metric 512 proto 12
-6 route add fd00:65::4 encap ip6 id 88 dst fd00:66::9 dev handover0 metric 512 proto 88
link set far1 down
address add 192.0.2.1/24 dev tap1
address add 192.0.2.5 peer 198.51.100.7 dev tap0
address add 203.0.113.1/32 dev tap0
address add fd00:66::1/64 dev tap1
route add 10.65.0.2 dev tap0 metric 512 proto 88
route add 10.65.0.3 dev tap0 metric 7 src 203.0.113.1 mtu 1400
-6 route add fd00:65::2 dev tap0 metric 512 proto 88
route add 10.99.0.0/24 via 192.0.2.9 proto bird metric 32
route add 10.98.0.0/24 via inet6 fe80::9 dev tap1 proto bird
-6 route add fd00:99::/64 via fd00:66::9 proto bird
route add default proto 12 nexthop dev tap0 nexthop via 192.0.2.9 dev tap1
-6 route add default via fd00:66::9 metric 5
route add blackhole 10.97.0.1
route add 10.96.0.0/24 dev tap0 table 100
"""


def test_links_and_routes_are_those_that_our_own_readers_see(node: Node) -> None:
    for command in COMMANDS.strip().splitlines():
        node.run(f"ip {command}")
    observed = observation.observe(MAIN)
    assert observed.links == links.observe(MAIN)
    ours = [
        rtmsg.decode(message)
        for family in rtmsg.HOST
        for message in route_lookup.read_table(family, MAIN)
    ]
    assert observed.entries == tuple(ours)
    assert len(ours) > 10
    assert {"10.96.0.0", "10.97.0.1"}.isdisjoint(str(one.route.address) for one in ours)
    assert observation.observe(100).entries == tuple(
        rtmsg.decode(message) for message in route_lookup.read_table(codec.INET, 100)
    )


def readings(*numbers: int) -> Iterator[Observed]:
    """Return observations that differ where the numbers do."""
    empty = Observed({}, (), (), {})
    return (dataclasses.replace(empty, programs={"tap0": (str(one),)}) for one in numbers)


@pytest.mark.usefixtures("node")
def test_what_a_change_interrupted_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = readings(1, 2, 2, 3)
    monkeypatch.setattr(observation, "_read", lambda *_: next(seen))
    assert observation.observe(MAIN) == next(readings(2))
    assert list(seen) == [*readings(3)]
    never = readings(*range(20))
    monkeypatch.setattr(observation, "_read", lambda *_: next(never))
    with pytest.raises(ObservationError, match="changed during each of 8 attempts"):
        observation.observe(MAIN)


@pytest.mark.usefixtures("node")
def test_what_pyroute2_meets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetlinkError(1, "Operation not permitted")

    monkeypatch.setattr(observation, "_read", refuse)
    with pytest.raises(ObservationError, match="Operation not permitted"):
        observation.observe(MAIN)


def test_routes_of_a_routing_daemon_may_change_meanwhile(node: Node) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap1")
    before = observation.observe(MAIN)
    node.run("ip route add 10.99.0.0/24 via 192.0.2.9 proto bird")
    after = observation.observe(MAIN)
    assert before.entries != after.entries
    assert observation._lasting(before) == observation._lasting(after)
    node.run("ip route add 10.65.0.2 dev tap0")
    assert observation._lasting(after) != observation._lasting(observation.observe(MAIN))
