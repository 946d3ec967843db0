"""What a watch tells becomes a node or an endpoint; what nobody can read changes nothing."""

from collections.abc import AsyncIterator

import pytest
from tests.nodeagent.distribution.cluster import GUEST4, NORMAL

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_nodeagent.distribution.distribution import Collection, Distribution
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.distribution.sinks import AdvertisedSink, NodeSink
from handover_nodeagent.kernel.netlink.channel import Channel

KEY = ObjectKey("vms", "vm")


@pytest.fixture
async def distribution() -> AsyncIterator[Distribution]:
    """Make one that writes nothing: it does not run."""
    with Channel() as channel:
        yield Distribution(Place("c", Settings()), channel)


def raw(node: str = "b", **spec: object) -> dict[str, object]:
    return {
        "metadata": {"namespace": "vms", "name": "vm", "uid": "u"},
        "spec": {"node": node, "workload": "vm", "ips": [str(GUEST4)], **spec},
        "status": {
            "state": "Base",
            "routes": [{"address": str(GUEST4), "metric": 1024, "table": 254, "protocol": 88}],
        },
    }


async def test_endpoints_of_other_nodes_are_taken_in(distribution: Distribution) -> None:
    sink = AdvertisedSink(distribution)
    sink.put(raw())
    assert distribution.resolver.endpoints[KEY].levels == {GUEST4: NORMAL}
    # What nobody can read changes nothing.
    sink.put(raw(ips="no list"))
    assert distribution.resolver.endpoints[KEY].levels == {GUEST4: NORMAL}
    sink.drop(KEY, "u")
    assert KEY in distribution.resolver.gone_endpoints


async def test_our_own_endpoints_are_known_otherwise(distribution: Distribution) -> None:
    sink = AdvertisedSink(distribution)
    sink.put(raw(node="c"))
    sink.drop(KEY, "u")
    assert not distribution.resolver.endpoints


async def test_nodes_are_taken_in(distribution: Distribution) -> None:
    sink = NodeSink(distribution)
    sink.put({"metadata": {"name": "b"}})
    sink.put({"metadata": {}})
    assert list(distribution.resolver.nodes) == ["b"]
    sink.drop(ObjectKey("", "b"), "u")
    assert list(distribution.resolver.gone_nodes) == ["b"]


async def test_both_lists_must_be_complete(distribution: Distribution) -> None:
    distribution._observed_at = 0.0
    nodes, endpoints = NodeSink(distribution), AdvertisedSink(distribution)
    steps = (
        nodes.synced,
        endpoints.synced,
        lambda: nodes.outage("why", is_absent=True),
        lambda: endpoints.outage("why", is_absent=False),
    )
    ready = []
    for step in steps:
        step()
        ready.append(distribution.is_ready)
    # What was complete once is no less so in an outage; only nothing expires.
    assert ready == [False, True, True, True]
    assert distribution._outages == set(Collection)
