"""A guest that answers from another MAC than its object names, as where passt stands between."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.reconcile.test_orphans import FIRST, fall_silent, was_asked
from tests.nodeagent.world import NORMAL_V4, World

from handover_api.names import ObjectKey
from handover_nodeagent.reconcile import orphans

pytestmark = pytest.mark.root
KEY = ObjectKey("default", "vm")
WIRE = "02:00:00:00:00:99"


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    """Start an agent's loop where the kernel has spoken with the guest already."""
    node.guest_runs("ip link set eth address " + WIRE)
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    node.run(f"ip neigh add 10.65.0.2 dev tap0 lladdr {WIRE} nud reachable")
    it = await World(node, tmp_path).start()
    yield it
    await it.kill()


async def test_it_keeps_its_routes_while_it_answers(world: World, node: Node) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)
    fall_silent(node)
    await world.until_state("Withdrawn")
    await world.shows()


async def test_its_ipv6_address_is_asked_too(world: World, node: Node) -> None:
    node.guest_runs("ip address add fd00:65::2/64 dev eth nodad")
    node.run(f"ip neigh add fd00:65::2 dev tap0 lladdr {WIRE} nud reachable")
    world.put(said="source", ips=["fd00:65::2"])
    await world.shows("fd00:65::2 dev tap0 ... metric 1024")
    world.put(said="source Succeeded", ips=["fd00:65::2"])
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows("fd00:65::2 dev tap0 ... metric 1024")


async def test_its_routes_outlive_its_endpoint_until_it_is_silent(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_FIRST", FIRST)
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)
    await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)
    fall_silent(node)
    await world.shows()


async def test_its_answer_gives_no_route(world: World) -> None:
    """The pod's own kernel may be who answers, of whose MAC the object knows nothing."""
    world.put(said="target", uid="m1")
    await world.until_listening()
    world.put(said="source", uid="m2")
    await world.until_state("Asking")
    assert world.loop.endpoints[KEY].neigh_mac == WIRE
    await world.until_state("Withdrawn")
    await world.shows()


async def test_its_answer_raises_no_route(world: World) -> None:
    """An endpoint whose routes are in when it becomes a target is asked whether it is the one."""
    world.put()
    await world.shows(NORMAL_V4)
    world.put(said="target", armed="true")
    await world.until_state("Asking")
    assert world.loop.endpoints[KEY].neigh_mac == WIRE
    await world.until_state("Target")
    await world.shows()
