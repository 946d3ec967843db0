"""Flannel's own daemon makes the network of pods, and agents alone bring all to follow on it."""

import pytest

from handover_lab.four_nodes import trial
from handover_lab.four_nodes.lab import FourNodeLab

pytestmark = [
    pytest.mark.four_nodes,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
    pytest.mark.parametrize("four_nodes", ["host-gw", "vxlan"], indirect=True, scope="session"),
]


async def test_everybody_follows_by_the_routes_that_flannel_made(four_nodes: FourNodeLab) -> None:
    """By the nodes' addresses on one segment, else through flannel's overlay."""
    is_overlay = four_nodes.vm.topology.shape == "routed"
    target = four_nodes.cluster.nodes[four_nodes.away]
    flannels = (target.pods.partition("/")[0], target.pods6.partition("/")[0])
    next_hops = flannels if is_overlay else (target.address, target.address6)

    async with four_nodes.carried("agents"):
        found = await trial.run(four_nodes)
        bystander = four_nodes.cluster.nodes["node-c"]
        families = four_nodes.vm.addresses.items()
        ways = [bystander.run(f"ip -{family} route show {each}") for family, each in families]

    assert found.migrated.cutover is not None
    for name in ("outside", "outside v6", "pod", "pod v6"):
        assert found.losses[name].outage_ms is not None, found.told()
    assert found.lost_after_switch < trial.AFTER_NS / 1e6, found.told()
    for way, next_hop in zip(ways, next_hops, strict=True):
        assert f"via {next_hop} " in way.replace("inet6 ", ""), way
