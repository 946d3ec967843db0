"""Statements 20, 21: nothing is lost, the pause included, whatever carries the routes."""

import pytest

from handover_lab.four_nodes import trial
from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.network.carriers import Carrier

pytestmark = [
    pytest.mark.four_nodes,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
]

BY_HAND_S = 3.0
"""So long nobody but the source knows where the VM is, where nobody carries routes."""

GOES_ON = 0.8
"""Of its rate before, what each client reaches again."""
ALIVE = 0.4
"""The same of a download: an emulated guest that sends takes all that a processor has to give."""

LATEST_US = 1_000_000
"""By then the source must send on, on the busiest machine; on one at rest it takes 1 ms."""


@pytest.mark.parametrize(
    ("four_nodes", "carrier", "rp_filter"),
    [
        ("segment", "none", 0),
        ("segment", "frr", 2),
        ("segment", "agents", 1),
        ("routed", "none", 1),
        ("routed", "bird", 2),
    ],
    indirect=["four_nodes"],
    scope="session",
)
async def test_statement_21_what_the_source_gets_arrives_from_the_stop_on(
    four_nodes: FourNodeLab, carrier: Carrier, rp_filter: int
) -> None:
    """Both families, from outside and from a pod, under rules that drop what fits no connection."""
    by_hand_s = BY_HAND_S if carrier == "none" else None
    await four_nodes.configure(sourceRedirect="auto")
    async with four_nodes.carried(carrier):
        with four_nodes.strict(rp_filter):
            if carrier == "none":
                # What comes by the redirect of the move before is not held for a second one.
                four_nodes.lead_by_hand()
            found = await trial.run(four_nodes, by_hand_s=by_hand_s)
    four_nodes.forget()

    assert found.redirected_ns is not None, found.told()
    assert found.redirect_us is not None
    assert found.redirect_us < LATEST_US, found.told()
    assert found.lost == 0, found.told()
    for name in ("TCP session", "TCP session v6"):
        assert found.losses[name].outage_ms is not None, found.told()
    for name, share in found.shares.items():
        assert share >= (ALIVE if name.startswith("download") else GOES_ON), found.told()
