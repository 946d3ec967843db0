"""The distribution runs while the configuration wants it, and says what it knows of our own."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.nodeagent.distribution import three_nodes
from tests.nodeagent.distribution.cluster import GUEST4, GUEST6, A, B, C
from tests.nodeagent.distribution.test_distribution import nowhere, until, via
from tests.nodeagent.distribution.three_nodes import ThreeNodes
from tests.nodeagent.namespaces import needs_root

from handover_api.configuration import Advertise, Mode, Settings
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import (
    RouteStatus,
    State,
    WorkloadEndpoint,
    WorkloadEndpointStatus,
)
from handover_nodeagent.api import watch
from handover_nodeagent.distribution import advertising, distribution
from handover_nodeagent.distribution.advertising import Advertising, Course
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.network.model import IPAddress

AGENTS = Settings(advertise=Advertise.AGENTS)
BGP = Settings(advertise=Advertise.BGP)
BOTH = (GUEST4, GUEST6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (AGENTS, Course.RUN),
        (BGP, Course.REMOVE),
        (Settings(advertise=Advertise.NONE), Course.REMOVE),
        (Settings(advertise=Advertise.AGENTS, mode=Mode.OBSERVE), Course.LEAVE),
        (Settings(mode=Mode.PAUSED), Course.LEAVE),
    ],
)
def test_what_a_configuration_asks_for(settings: Settings, expected: Course) -> None:
    assert Course.of(settings) is expected


def manifest(node: Node) -> dict[str, Any]:
    return {
        "metadata": {"name": node.name, "uid": node.name, "resourceVersion": "1"},
        "spec": {"podCIDRs": [str(cidr) for cidr in node.pod_cidrs]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": str(one)} for one in node.addresses]
        },
    }


def live(node: str = "b") -> dict[str, Any]:
    routes = [{"address": str(one), "metric": 512, "table": 254, "protocol": 88} for one in BOTH]
    agent = {"publicKey": "A" * 43 + "=", "addresses": ["192.0.2.2"], "port": 7473}
    annotations = {"handover.dev/role": "target", "handover.dev/migration-uid": "m"}
    identity = {"namespace": "vms", "name": "vm", "uid": "u", "resourceVersion": "7"}
    return {
        "metadata": {**identity, "annotations": annotations},
        "spec": {"node": node, "workload": "vm", "ips": [str(one) for one in BOTH]},
        "status": {"state": "Live", "routes": routes, "agent": agent, "advertised": True},
    }


class Watched:
    """Stands in for a watch: tells what there is once, and nothing more."""

    def __init__(self, _: object, path: str, *, sink: watch.Sink, field_selector: str = "") -> None:
        assert field_selector == ("" if "nodes" in path else "status.advertised=true")
        self._sink = sink
        self._raws = [live()] if field_selector else list(map(manifest, (A, B, C)))

    async def run(self) -> None:
        for raw in self._raws:
            self._sink.put(raw)
        self._sink.synced()
        await asyncio.Event().wait()


class Path:
    """Stands in for the direct path: remembers what it was told."""

    def __init__(self) -> None:
        self.speakers: dict[ObjectKey, Peer | None] = {}
        self.nodes: dict[str, tuple[IPAddress, ...]] = {}

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        self.speakers[key] = speaker

    def know_nodes(self, nodes: Any) -> None:
        self.nodes = dict(nodes)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreeNodes]:
    """Make three nodes and be the bystander; it looks at things at once."""
    needs_root()
    monkeypatch.setattr(distribution, "REST", 0.01)
    monkeypatch.setattr(advertising, "Watch", Watched)
    with three_nodes.made() as it:
        yield it


@contextlib.asynccontextmanager
async def running(
    settings: Settings, changed: Callable[[], None] = lambda: None, path: Path | None = None
) -> AsyncIterator[Advertising]:
    it = Advertising(Place("c", settings, changed=changed))
    it.speak(path or Path())
    task = asyncio.create_task(it.run(None))  # type: ignore[arg-type]
    yield it
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.root
async def test_a_change_of_configuration_starts_and_stops_it(nodes: ThreeNodes) -> None:
    path = Path()
    async with running(BGP, path=path) as it:
        await asyncio.sleep(0.1)
        assert nowhere(nodes)()
        it.configure(AGENTS)
        await until(via(nodes, 2, 513))
        await until(lambda: bool(path.nodes))
        assert path.nodes == {"a": A.addresses, "b": B.addresses}
        (speaker,) = path.speakers.values()
        assert speaker
        assert (speaker.uid, speaker.endpoint, speaker.node) == ("m", "vm", "b")
        # What does not concern it does not begin it anew.
        before = it._current
        it.configure(AGENTS.model_copy(update={"probe_interval": dt.timedelta(seconds=1)}))
        await asyncio.sleep(0.05)
        assert it._current is before
        # In observe nothing is written, nor taken away.
        it.configure(AGENTS.model_copy(update={"mode": Mode.OBSERVE}))
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
        assert not it.bystander_has(ObjectKey("vms", "vm"), "m")
        assert path.nodes == {}
        it.configure(BGP)
        await until(nowhere(nodes))
        assert not nodes.run("c", "ip nexthop show")


@pytest.mark.root
async def test_other_priorities_move_the_routes_without_a_gap(nodes: ThreeNodes) -> None:
    async with running(AGENTS) as it:
        await until(via(nodes, 2, 513))
        other = {"ipv4_elevated_route_priority": 600, "ipv6_elevated_route_priority": 600}
        it.configure(AGENTS.model_copy(update=other))
        await until(via(nodes, 2, 601))


@pytest.mark.root
async def test_an_agent_that_starts_without_it_clears_up(nodes: ThreeNodes) -> None:
    async with running(AGENTS):
        await until(via(nodes, 2, 513))
    assert via(nodes, 2, 513)()
    async with running(BGP):
        await until(nowhere(nodes))


@pytest.mark.root
async def test_our_own_guest_has_no_distributed_route(nodes: ThreeNodes) -> None:
    async with running(AGENTS) as it:
        await until(via(nodes, 2, 513))
        routes = tuple(RouteStatus(address=one, metric=512, table=254, protocol=88) for one in BOTH)
        own = WorkloadEndpoint.model_validate(live("c") | {"status": {}})
        own = own.model_copy(update={"metadata": own.metadata.model_copy(update={"name": "own"})})
        it.published(own, WorkloadEndpointStatus(state=State.LIVE, routes=routes))
        # Both are Live and neither has a cutover: the greater name keeps the answer from changing.
        it.published(own, WorkloadEndpointStatus(state=State.BASE, routes=routes))
        assert via(nodes, 2, 513)()
        it.removed(own.key)
        await asyncio.sleep(0.05)
        assert via(nodes, 2, 513)()
        assert it.strict_devices == frozenset()
        assert it.unreachable == ()
        it.refresh()


@pytest.mark.root
async def test_what_is_at_home_is_told_of_no_more_once_the_nodes_are_known(
    nodes: ThreeNodes,
) -> None:
    changes: list[None] = []
    found = WorkloadEndpoint.model_validate(live("c"))
    home = [C.pod_cidrs[0].network_address + 9]
    async with running(AGENTS, lambda: changes.append(None)) as it:
        # Of a node that nobody knows so far the API's last word counts.
        assert it.decide(found, State.BASE, None, home) is True
        await until(via(nodes, 2, 513))
        assert changes
        assert it.decide(found, State.BASE, None, home) is False
        assert it.decide(found, State.BASE, None, [GUEST4]) is True
        assert it.decide(found, State.LIVE, None, home) is True
        it.configure(BGP)
        assert it.decide(found, State.LIVE, None, home) is None


@pytest.mark.root
async def test_what_is_away_is_told_of_when_the_distribution_has_ended(
    nodes: ThreeNodes,
) -> None:
    """The object that we have is older than what we have said of it."""
    found = WorkloadEndpoint.model_validate(live("c") | {"status": {"advertised": False}})
    async with running(AGENTS) as it:
        await until(via(nodes, 2, 513))
        assert it.decide(found, State.BASE, None, [GUEST4]) is True
    assert it.decide(found, State.BASE, None, [GUEST4]) is True
    it.removed(found.key)
    assert it.decide(found, State.BASE, None, [GUEST4]) is False


def test_where_nothing_runs_nothing_is_known() -> None:
    it = Advertising(Place("c", AGENTS))
    found = WorkloadEndpoint.model_validate(live("c") | {"status": {}})
    # An agent before this one may have told of it, or may not.
    assert it.decide(found, State.BASE, None, [GUEST4]) is True
    assert it.decide(found, State.BASE, None, []) is False
    assert it.decide(found, State.TARGET, None, []) is True
    it.published(found, WorkloadEndpointStatus())
    it.removed(found.key)
    it.refresh()
    assert (it.strict_devices, it.unreachable) == (frozenset(), ())
    assert not it.bystander_has(found.key, "m")
