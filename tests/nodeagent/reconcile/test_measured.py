"""What is told of a cutover: when the kernel had the guest's routes, not what came after."""

import time
from typing import Any

import pytest
from tests.nodeagent.reconcile.test_faults import refuse
from tests.nodeagent.world import World

from handover_api.names import ObjectKey
from handover_nodeagent.kernel.netlink import codec

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

BOTH = ["10.65.0.2", "fd00:65::2"]
SLOW = 0.1
"""Seconds that something takes; less than half of it is what everything else does."""


def microseconds(world: World) -> int:
    """Return what the endpoint's last cutover took."""
    cutover = world.loop.endpoints[ObjectKey("default", "vm")].cutover
    assert cutover
    return cutover.announcement_to_route_microseconds


def slow_down(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Have a step take its time."""
    step = getattr(owner, name)

    def slowly(*arguments: Any, **keywords: Any) -> Any:
        time.sleep(SLOW)
        return step(*arguments, **keywords)

    monkeypatch.setattr(owner, name, slowly)


async def answer_under_another_uid(world: World) -> None:
    """Let a Base that is asked answer: nothing is prepared there."""
    world.put(ips=BOTH)
    await world.until(lambda: len(world.routes()) == 2)
    world.put(said="target", ips=BOTH)
    assert world.state() == "Asking"


async def test_parking_is_no_part_of_a_cutover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answer_under_another_uid(world)
    slow_down(monkeypatch, world.loop.routes.foreign, "park")
    world.announce(is_answer=True)
    assert world.state() == "Live"
    assert microseconds(world) < SLOW / 2 * 1e6


async def test_both_families_are_acknowledged_when_their_one_send_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    routes = world.loop.routes
    slow_down(monkeypatch, routes._channel, "transact")
    before = time.time_ns()
    world.announce()
    ipv4, ipv6 = routes.acknowledged_ns(
        world.loop.endpoints[ObjectKey("default", "vm")].admission.allowed, world.node.tap0
    )
    assert ipv4 == ipv6
    assert ipv4 - before > SLOW * 1e9
    await world.until_state("Live")
    assert microseconds(world) > SLOW * 1e6


async def test_a_route_that_was_refused_at_first_is_in_when_it_is_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the time at which the kernel refused what was prepared, told as that of the route."""
    world.put(said="target")
    await world.until_listening()
    refuse(world, monkeypatch, 16, times=1)
    slow_down(monkeypatch, world.loop.cutovers, "catch_up")
    world.announce()
    await world.until_state("Live")
    assert microseconds(world) > SLOW * 1e6


async def test_a_route_that_was_in_before_took_no_time(world: World) -> None:
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    world.announce()
    await world.until_state("Live")
    world.put(said="target", uid="m2", ips=BOTH)
    assert world.state() == "Asking"
    before = time.time_ns()
    world.announce(is_answer=True)
    assert world.state() == "Live"
    assert microseconds(world) == 0
    cutover = world.loop.endpoints[ObjectKey("default", "vm")].cutover
    assert cutover
    assert cutover.time.timestamp() >= before / 1e9 - 0.001


async def test_a_cutover_of_a_guest_without_a_known_mac_is_prepared_without_neighbors(
    world: World,
) -> None:
    world.put("known", said="target", ips=["10.65.0.3"], interface="tap1")
    world.put(said="target", ips=BOTH, mac=None)
    await world.until_listening()
    kinds = {}
    for name, endpoint in world.loop.endpoints.items():
        assert endpoint.prepared
        kinds[name.name] = [codec.kind_of(one) for one in endpoint.prepared.requests]
    add, seed = codec.NEWROUTE, codec.NEWNEIGH
    assert kinds == {"known": [seed, add], "vm": [add, add]}
