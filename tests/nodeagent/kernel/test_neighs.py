"""Neighbour entries as ip shows them."""

import pytest
from tests.nodeagent.kernel.node import V4, V6, Node

from handover_nodeagent.kernel import neighs, netlink
from handover_nodeagent.network import IPAddress, Neigh

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])


@BOTH
def test_a_seed_makes_a_reachable_entry_and_corrects_a_wrong_one(
    node: Node, channel: netlink.Channel, address: IPAddress
) -> None:
    node.run(f"ip neigh add {address} dev tap0 lladdr 02:00:00:00:00:01 nud permanent")
    seed = Neigh(address, node.tap0, "52:54:00:65:00:02")
    assert channel.transact([neighs.encode_seed(seed)]) == [0]
    expected = [f"{address} dev tap0 lladdr 52:54:00:65:00:02 REACHABLE"]
    assert expected == node.lines(f"ip neigh show {address}")
