"""Nodes and advertised endpoints, watched at a real API server with the real CRDs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest
from tests.nodeagent.api.test_real_api import ENDPOINTS, QUICK, Objects, api, delete, objects
from tests.nodeagent.distribution.cluster import ELEVATED
from tests.nodeagent.fake_api import running

from handover_api.configuration import Settings
from handover_api.workloadendpoint import RouteStatus, State, WorkloadEndpointStatus
from handover_lab.cluster.controlplane import ControlPlane
from handover_nodeagent.api.watch import Watch
from handover_nodeagent.distribution.distribution import Distribution
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.distribution.sinks import SELECTOR, AdvertisedSink, NodeSink
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.status import report

pytestmark = pytest.mark.api
__all__ = ("api", "objects")

NODES = "/api/v1/nodes"


@pytest.fixture
async def distribution() -> AsyncIterator[Distribution]:
    """Make one that writes nothing: it does not run."""
    with Channel() as channel:
        yield Distribution(Place("here", Settings()), channel)


def advertised_watch(objects: Objects, it: Distribution) -> Watch:
    sink = AdvertisedSink(it)
    return Watch(objects.api, ENDPOINTS, sink=sink, field_selector=SELECTOR, timing=QUICK)


async def say(objects: Objects, name: str, uid: str, *, advertised: bool, routed: bool) -> None:
    """Write a status as an agent does."""
    address = (await objects.api.get(objects.path(name)))["spec"]["ips"][0]
    route = RouteStatus(address=address, metric=512, table=254, protocol=88)
    status = WorkloadEndpointStatus(
        state=State.LIVE if routed else State.WITHDRAWN,
        advertised=advertised,
        routes=(route,) if routed else (),
    )
    path = f"{objects.path(name)}/status"
    await objects.api.patch(path, list(report.operations(uid, status)))


async def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds; fail after 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


async def test_only_what_is_advertised_travels(
    objects: Objects, distribution: Distribution
) -> None:
    uids = {name: await objects.create(name) for name in ("away", "home", "leaves")}
    await say(objects, "away", uids["away"], advertised=True, routed=True)
    await say(objects, "leaves", uids["leaves"], advertised=True, routed=True)
    await say(objects, "home", uids["home"], advertised=False, routed=True)
    known = distribution.resolver.endpoints
    async with running(advertised_watch(objects, distribution)):
        await until(lambda: objects.key("away") in known and objects.key("leaves") in known)
        assert objects.key("home") not in known
        assert set(known[objects.key("away")].levels.values()) == {ELEVATED}
        # What comes home is dropped, and counts for the grace as what was deleted.
        await say(objects, "leaves", uids["leaves"], advertised=False, routed=True)
        await until(lambda: objects.key("leaves") in distribution.resolver.gone_endpoints)
        # What has withdrawn says so in a word of its own.
        await say(objects, "away", uids["away"], advertised=True, routed=False)
        await until(lambda: not known[objects.key("away")].levels)
        assert objects.key("away") not in distribution.resolver.gone_endpoints
        # What becomes advertised while it is watched travels, too.
        await say(objects, "home", uids["home"], advertised=True, routed=True)
        await until(lambda: objects.key("home") in known)


async def test_an_api_server_that_dies_takes_nothing_along(
    objects: Objects, distribution: Distribution, api_server: ControlPlane
) -> None:
    uid = await objects.create("away")
    await say(objects, "away", uid, advertised=True, routed=True)
    distribution.resolver.put_node(Node(objects.node))
    key = objects.key("away")
    async with running(advertised_watch(objects, distribution)):
        await until(lambda: key in distribution.resolver.endpoints)
        api_server.stop_api()
        try:
            await until(lambda: bool(distribution._outages))
            address = distribution.resolver.endpoints[key].addresses[0]
            assert leads(distribution, address) == (objects.node, ELEVATED)
        finally:
            api_server.start_api()
        await until(lambda: not distribution._outages)
        assert leads(distribution, address) == (objects.node, ELEVATED)
        assert not distribution.resolver.gone_endpoints


def leads(it: Distribution, address: IPAddress) -> tuple[str, object] | None:
    found = it.resolver.destination(address)
    return (found.node, found.level) if found else None


async def test_nodes_come_and_go(objects: Objects, distribution: Distribution) -> None:
    name = objects.node
    body = {"metadata": {"name": name}, "spec": {"podCIDRs": ["10.244.77.0/24"]}}
    with contextlib.suppress(Exception):
        await delete(objects.api, f"{NODES}/{name}")
    await objects.api.create(NODES, {"apiVersion": "v1", "kind": "Node", **body})
    nodes = distribution.resolver.nodes
    async with running(Watch(objects.api, NODES, sink=NodeSink(distribution), timing=QUICK)):
        await until(lambda: name in nodes and distribution.knows_nodes)
        assert [str(cidr) for cidr in nodes[name].pod_cidrs] == ["10.244.77.0/24"]
        addresses = [{"type": "InternalIP", "address": "192.0.2.77"}]
        operation = {"op": "add", "path": "/status/addresses", "value": addresses}
        await objects.api.patch(f"{NODES}/{name}/status", [operation])
        await until(lambda: [str(one) for one in nodes[name].addresses] == ["192.0.2.77"])
        await delete(objects.api, f"{NODES}/{name}")
        await until(lambda: name in distribution.resolver.gone_nodes)
