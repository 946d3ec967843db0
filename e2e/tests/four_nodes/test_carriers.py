"""A VM moves, and everybody follows: clients outside and a pod on a node that has no part in it."""

import pytest

from handover_lab.four_nodes import trial
from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.network.carriers import Carrier

pytestmark = [
    pytest.mark.four_nodes,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
]

BY_HAND_S = 2.0
CLIENTS = ("outside", "outside v6", "pod", "pod v6")


@pytest.mark.parametrize(
    ("four_nodes", "carrier"),
    [("segment", "bird"), ("routed", "frr")],
    indirect=["four_nodes"],
    scope="session",
)
async def test_everybody_follows_the_routes_that_speakers_carry(
    four_nodes: FourNodeLab, carrier: Carrier
) -> None:
    async with four_nodes.carried(carrier):
        found = await trial.run(four_nodes)

    assert found.migrated.cutover is not None
    assert found.lost_after_switch < BY_HAND_S * 1000, found.told()
    for name in CLIENTS:
        assert found.losses[name].outage_ms is not None, name
    assert {found.losses[name].lost for name in ("TCP session", "TCP session v6")} == {0}
