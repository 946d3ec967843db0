"""The routes of an endpoint that is gone stay while its guest answers, and not a minute longer."""

import asyncio
from typing import Final

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import NORMAL_V4, World, count, settings

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.reconcile import orphans
from handover_nodeagent.sniff import capture
from handover_nodeagent.sniff.endpoint_listener import EndpointListener

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("alive")]
KEY = ObjectKey("default", "vm")
FIRST: Final = 0.2
"""Seconds after which a guest is asked again, here: the agent's own second would be waited for."""
LONG_ENOUGH: Final = 3 * FIRST + orphans._SILENCE
"""Seconds in which one is asked, and found to be silent."""


@pytest.fixture(autouse=True)
def asked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_FIRST", FIRST)


def fall_silent(node: Node) -> None:
    """Let the guest answer nothing any more."""
    node.guest_runs("ip link set eth arp off")


async def to_orphan(world: World, **spec: object) -> None:
    """Let the endpoint be deleted while its guest runs."""
    world.put(**spec)  # type: ignore[arg-type]
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)


def pause(world: World) -> float:
    """Return for how long the guest will be left in peace, in seconds; 0.0: nobody is asked."""
    found = world.loop.orphans._doubted.get(KEY)
    return found.backoff.delay if found else 0.0


def was_asked(world: World) -> bool:
    """Tell whether the guest was asked since its endpoint went: each asking doubles the pause."""
    return pause(world) >= 2 * FIRST


async def test_an_orphan_is_asked_again_and_goes_when_it_is_silent(
    world: World, node: Node
) -> None:
    await to_orphan(world)
    assert count(metrics.ORPHANS) == 1
    await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)
    fall_silent(node)
    await world.shows()
    assert count(metrics.ORPHANS) == 0
    await world.memory.flush()
    assert world.memory.load() == {}


async def test_the_next_agent_asks_on(world: World, node: Node) -> None:
    await to_orphan(world)
    await world.kill()
    await world.start()
    await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)
    fall_silent(node)
    await world.shows()


async def test_an_orphan_whose_mac_only_the_kernel_knows_is_asked_too(
    world: World, node: Node
) -> None:
    node.run("ip neigh replace 10.65.0.2 lladdr 52:54:00:65:00:02 dev tap0 nud permanent")
    await to_orphan(world, mac=None)
    await world.until(lambda: was_asked(world))
    fall_silent(node)
    await world.shows()


async def test_an_orphan_of_which_nobody_knows_the_mac_counts_as_answering(
    world: World, node: Node
) -> None:
    fall_silent(node)
    await to_orphan(world, mac=None)
    await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)


async def test_an_endpoint_that_is_made_again_claims_what_is_left(world: World, node: Node) -> None:
    await to_orphan(world)
    world.put(object_uid="uid-again")
    await world.until_says("Programmed", "True", "Programmed")
    assert pause(world) == 0
    fall_silent(node)
    await asyncio.sleep(LONG_ENOUGH)
    await world.shows(NORMAL_V4)
    assert KEY in world.memory.load()


async def to_successor(world: World) -> None:
    """Let an endpoint of the same name be made that has another address and interface."""
    await to_orphan(world)
    world.put(object_uid="uid-again", ips=["10.65.0.3"], interface="tap1")
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap1")


async def test_what_an_endpoint_that_is_made_again_does_not_claim_is_asked_on(
    world: World, node: Node
) -> None:
    await to_successor(world)
    assert pause(world) == 0
    assert count(metrics.ORPHANS) == 1
    fall_silent(node)
    await world.shows("10.65.0.3 dev tap1")
    await world.memory.flush()
    assert world.memory.load().keys() == {KEY}


async def test_the_next_agent_asks_on_beside_an_endpoint_that_is_made_again(
    world: World, node: Node
) -> None:
    await to_successor(world)
    node.run("ip neigh flush dev tap0")
    await world.kill()
    await world.start(synced=False)
    world.put(object_uid="uid-again", ips=["10.65.0.3"], interface="tap1")
    world.sink.synced()
    await world.at_rest()
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap1")
    fall_silent(node)
    await world.shows("10.65.0.3 dev tap1")


async def test_an_endpoint_of_another_name_claims_it_too(world: World, node: Node) -> None:
    await to_orphan(world)
    world.put("other")
    fall_silent(node)
    await world.until(lambda: not pause(world))
    await world.shows(NORMAL_V4)
    assert world.state("other") == "Base"


async def test_an_orphan_on_a_link_without_carrier_goes(world: World, node: Node) -> None:
    """Nobody is at the other end: what stayed was a route that is "linkdown"."""
    await to_orphan(world)
    node.guest_runs("ip link set eth down")
    await world.shows()


async def test_an_orphan_is_left_alone_while_nothing_may_be_sent(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await to_orphan(world)
    world.configure(mode="observe")
    sent: list[bytes] = []
    monkeypatch.setattr(capture.Capture, "send", lambda _, frame: sent.append(frame))
    fall_silent(node)
    await asyncio.sleep(LONG_ENOUGH)
    assert sent == []
    await world.shows(NORMAL_V4)
    assert pause(world) == FIRST
    monkeypatch.undo()
    world.configure(mode="active")
    await world.shows()


async def test_what_nobody_expected_costs_an_orphan_one_turn(
    world: World, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await to_orphan(world)

    def raising(_: EndpointListener) -> None:
        raise ArithmeticError

    with monkeypatch.context() as patched:
        patched.setattr(EndpointListener, "ask", raising)
        await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)
    fall_silent(node)
    await world.shows()


async def test_an_orphan_that_could_not_be_asked_is_not_silent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await to_orphan(world)
    with monkeypatch.context() as patched:
        patched.setattr(capture.Capture, "send", lambda *_: False)
        await world.until(lambda: was_asked(world))
    await world.shows(NORMAL_V4)


async def test_settings_change_nothing_of_it(world: World, node: Node) -> None:
    await to_orphan(world)
    world.reconfiguration.configure(settings(probeInterval="0s"))
    fall_silent(node)
    await world.shows()
