"""Neighbor entries as ip shows them."""

import pytest
from tests.nodeagent.node import V4, V6, Node

from handover_nodeagent.kernel import neighs
from handover_nodeagent.kernel.netlink import ndmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Neigh

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])


@BOTH
def test_a_seed_makes_a_reachable_entry_and_corrects_a_wrong_one(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    node.run(f"ip neigh add {address} dev tap0 lladdr 02:00:00:00:00:01 nud permanent")
    seed = Neigh(address, node.tap0, "52:54:00:65:00:02")
    assert channel.transact([ndmsg.encode_seed(seed)]) == [0]
    expected = [f"{address} dev tap0 lladdr 52:54:00:65:00:02 REACHABLE"]
    assert expected == node.lines(f"ip neigh show {address}")


STATES = {"reachable": False, "delay": False, "probe": False, "permanent": False, "noarp": False}
STATES |= {"stale": True, "failed": True, "incomplete": True, "none": True}


@BOTH
@pytest.mark.parametrize("state", STATES)
def test_only_an_entry_that_nothing_goes_by_is_free_for_another_mac(
    node: Node, channel: Channel, address: IPAddress, state: str
) -> None:
    mac = "02:00:00:00:00:01"
    node.run(f"ip neigh add {address} dev tap0 lladdr {mac} nud {state}")
    believed = Neigh(address, node.tap0, "52:54:00:65:00:02")
    assert neighs.is_free(channel, believed) == STATES[state]
    assert neighs.is_free(channel, Neigh(address, node.tap0, mac))
    assert neighs.is_free(channel, Neigh(address, node.tap1, "52:54:00:65:00:02"))
    assert neighs.is_free(channel, Neigh(address + 1, node.tap0, "52:54:00:65:00:02"))


@BOTH
def test_the_mac_of_an_entry_is_that_of_its_device(
    node: Node, channel: Channel, address: IPAddress
) -> None:
    node.run(f"ip neigh add {address} dev tap0 lladdr 02:00:00:00:00:01 nud stale")
    assert neighs.find_mac(channel, address, node.tap0) == "02:00:00:00:00:01"
    assert neighs.find_mac(channel, address, node.tap1) is None
