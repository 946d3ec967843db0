"""A target's agent says HAVE over a real socket; a bystander's route is in when it acknowledges.

The two ends of the direct path are the agents' own; only the API's word is the test's.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.distribution import three_nodes
from tests.nodeagent.distribution.cluster import A, B, C
from tests.nodeagent.distribution.test_distribution import (
    BOTH,
    SETTINGS,
    SOURCE,
    TARGET,
    fill,
    kept,
    until,
    via,
)
from tests.nodeagent.distribution.three_nodes import OWN, ThreeNodes

from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import Role
from handover_nodeagent.distribution import distribution
from handover_nodeagent.distribution.distribution import Distribution
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.peers.direct_path import DirectPath
from handover_nodeagent.peers.keys import Key
from handover_nodeagent.peers.sink import Acknowledgment, Done

pytestmark = pytest.mark.root

PORT = 7473


class Sink:
    """Follows as an agent does, and keeps what it is told of others."""

    def __init__(self) -> None:
        self.distribution: Distribution | None = None
        self.acknowledged_by: dict[str, Acknowledgment] = {}

    def bystander_has(self, key: ObjectKey, uid: str, received_ns: int) -> Done | None:
        assert received_ns
        assert self.distribution
        return Done(time.time_ns()) if self.distribution.bystander_has(key, uid) else None

    def acknowledged(self, key: ObjectKey, uid: str, node: str, ack: Acknowledgment) -> None:
        assert (key, uid) == (TARGET.key, "m")
        self.acknowledged_by[node] = ack

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreeNodes]:
    """Make three nodes and be the bystander."""
    namespaces.needs_root()
    monkeypatch.setattr(distribution, "REST", 0.01)
    with three_nodes.made() as it:
        yield it


def peer(path: DirectPath, uid: str) -> Peer:
    """Return what the API says of who hosts the target."""
    agent = path.agent
    assert agent
    return Peer(
        public_key=agent.public_key,
        addresses=agent.addresses,
        port=agent.port,
        uid=uid,
        endpoint=TARGET.key.name,
        node="b",
        role=Role.TARGET,
    )


@pytest.mark.parametrize("uid", ["m", "another"])
async def test_a_have_is_acknowledged_when_the_route_is_in(nodes: ThreeNodes, uid: str) -> None:
    heard, said = Sink(), Sink()
    here, there = (DirectPath(sink, Key.make(), time.time_ns()) for sink in (heard, said))
    here.listen([OWN[4]], PORT)
    with namespaces.restored():
        namespaces.enter(nodes.fds["b"])
        there.listen([B.addresses[0]], PORT)
    there.know_nodes({"c": C.addresses[:1]})
    with Channel() as channel:
        it = heard.distribution = Distribution(Place("c", SETTINGS), channel, here)
        fill(it, SOURCE)
        it.put(TARGET, peer(there, uid))
        async with kept(it):
            await until(via(nodes, 1, 1025))
            await until(lambda: TARGET.key in it._prepared)
            assert there.have(TARGET.key, "m") == 1
            if uid == "m":
                await until(lambda: "c" in said.acknowledged_by)
                assert said.acknowledged_by["c"].is_bystanders
                assert via(nodes, 2, 513)() or nodes.routes(BOTH[0])[0] == (513, "192.0.2.2")
                await until(via(nodes, 2, 513))
            else:
                # The API has given the key for another migration: nobody is believed.
                await asyncio.sleep(0.3)
                assert not said.acknowledged_by
                assert via(nodes, 1, 1025)()
    here.close()
    there.close()
    assert A.name not in said.acknowledged_by
