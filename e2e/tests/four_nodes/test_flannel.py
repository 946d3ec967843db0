"""Flannel's own daemon makes the network of pods, and Handover moves a VM on it."""

import pytest

from handover_lab.four_nodes import trial
from handover_lab.four_nodes.lab import FourNodeLab

pytestmark = [
    pytest.mark.four_nodes,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
    pytest.mark.parametrize("four_nodes", ["host-gw", "vxlan"], indirect=True, scope="session"),
]


async def test_a_vm_moves_between_nodes_that_flannel_connects(four_nodes: FourNodeLab) -> None:
    node = four_nodes.cluster.nodes["node-c"]
    is_overlay = "flannel.1" in node.run("ip -4 route")
    assert is_overlay is (four_nodes.vm.topology.shape == "routed")

    async with four_nodes.carried("bird"):
        found = await trial.run(four_nodes)

    assert found.migrated.cutover is not None
    for name in ("outside", "outside v6", "pod", "pod v6"):
        assert found.losses[name].outage_ms is not None, name
    assert {found.losses[name].lost for name in ("TCP session", "TCP session v6")} == {0}
