"""The loop when the kernel refuses, forgets, or has more to tell than it can."""

import asyncio

import pytest
from tests.nodeagent.kernel.world import CNI_V6, ELEVATED_V4, NORMAL_V4, World, count

from handover_nodeagent import metrics

pytestmark = pytest.mark.root


async def test_a_route_that_somebody_removed_is_back(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows(NORMAL_V4)


async def test_a_guard_that_somebody_flushed_is_back(world: World) -> None:
    world.put()
    guard = "nft list ruleset arp"
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(guard))
    world.node.run("nft flush table arp handover")
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(guard))


@pytest.mark.usefixtures("mute")
async def test_after_an_overflow_everything_is_observed(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    subscription = world.observation._notifications._subscription
    deaf = subscription._take
    subscription._take = lambda _: None
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    world.node.run(f"ip -6 route add {CNI_V6.replace('1024', '9')}")
    await asyncio.sleep(0.05)
    subscription._take = deaf
    world.observation._overflow()
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 proto 88 metric 1024")


async def test_a_refusal_is_tried_again_by_itself(world: World) -> None:
    """A link that is down refuses with ENETDOWN; only this address waits for another attempt."""
    world.node.run("ip link set tap1 down")
    world.put("down", interface="tap1", ips=["10.65.0.9"])
    await world.until(lambda: world.condition("Programmed", "down") == ("False", "Refused"))
    await asyncio.sleep(0.3)
    before = count(metrics.ROUTE_ERRORS, "ENETDOWN")
    await world.until(lambda: count(metrics.ROUTE_ERRORS, "ENETDOWN") >= before + 2)
    world.put()
    await world.shows(NORMAL_V4)
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))
    world.node.run("ip link set tap1 up")
    await world.shows(NORMAL_V4, "10.65.0.9 dev tap1 ... metric 1024")
    await world.until(lambda: world.condition("Programmed", "down") == ("True", "Programmed"))


@pytest.mark.usefixtures("mute")
async def test_a_route_of_the_elevated_metric_is_no_obstacle_to_a_cutover(world: World) -> None:
    """EEXIST in the middle of a prepared cutover."""
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    with world.deaf():
        world.node.run("ip route add 10.65.0.2 dev tap1 scope link proto 5 metric 512")
        world.node.run("ip -6 route add fd00:65::2 dev tap1 proto 5 metric 512")
        world.announce()
        await world.until_state("Live")
    await world.shows(ELEVATED_V4, "fd00:65::2 dev tap0 proto 88 metric 512")
    assert len(world.parked()) == 2
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))


@pytest.mark.usefixtures("mute")
async def test_an_interface_that_vanished_before_the_cutover_is_waited_for(world: World) -> None:
    """ENODEV in the middle of a prepared cutover, and the name comes back with another index."""
    world.put(said="target")
    with world.deaf():
        world.node.run("ip link delete tap0")
        world.announce()
        await world.until_state("Live")
        await world.until(lambda: world.condition("Programmed") == ("False", "Refused"))
    world.node.make_tap0()
    await world.shows(ELEVATED_V4)
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))
