"""The brake on one namespace: its endpoints are left as they are, and no other ones."""

import asyncio

import pytest
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, ELEVATED_V4, GUARD, NORMAL_V4, World

from handover_api.names import ObjectKey
from handover_nodeagent.reconcile.endpoint import Endpoint

pytestmark = pytest.mark.root

OTHER_V4 = "10.65.0.3 dev tap1 ... metric 1024"


def endpoint(world: World, name: str = "vm", namespace: str = "default") -> Endpoint:
    """Return an endpoint as the loop knows it."""
    return world.loop.endpoints[ObjectKey(namespace, name)]


def put_other(world: World, said: str = "") -> None:
    """Let there be an endpoint of another namespace."""
    world.put("other", said=said, namespace="elsewhere", interface="tap1", ips=["10.65.0.3"])


@pytest.mark.usefixtures("alive")
async def test_its_endpoints_stay_as_they_are_and_others_go_on(world: World) -> None:
    """Neither hears nor asks nor decides; what was said meanwhile counts as after a restart."""
    world.put(said="source")
    put_other(world)
    await world.shows(NORMAL_V4, OTHER_V4)
    with watching() as witness:
        world.pause("default")
        world.put(said="source Succeeded")
        await world.until_says("Programmed", "False", "NotActive")
        assert "namespace default is paused" in world.message("Programmed")
        assert world.state() == "Base"
        assert witness.told() == []
        put_other(world, said="target")
        assert world.loop.listening.of(ObjectKey("elsewhere", "other")) is not None
        put_other(world)
        world.configure(ipv4NormalRoutePriority=2048)
        await world.shows(NORMAL_V4, "10.65.0.3 dev tap1 ... metric 2048")
    world.configure()
    world.pause()
    assert world.state() == "Asking"
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4, OTHER_V4)


@pytest.mark.usefixtures("mute")
async def test_what_others_do_to_its_routes_is_mended_afterwards(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    await world.shows(NORMAL_V4)
    world.pause("default")
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    world.node.run(f"ip route add {CNI}")
    await world.at_rest()
    await world.shows("10.65.0.2 dev tap0 proto 5")
    assert world.parked() == []
    world.node.run("nft flush ruleset")
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    world.pause()
    await world.shows(NORMAL_V4)
    await world.until(lambda: len(world.parked()) == 1)


@pytest.mark.usefixtures("mute")
async def test_one_that_comes_meanwhile_is_programmed_afterwards(world: World) -> None:
    world.pause("default")
    world.node.run(f"ip route add {CNI}")
    world.put()
    put_other(world)
    await world.shows("10.65.0.2 dev tap0 proto 5", OTHER_V4)
    await world.until(lambda: "10.65.0.3" in world.node.run(GUARD))
    for _ in range(2):
        assert "10.65.0.2" not in world.node.run(GUARD)
        await world.until_says("Programmed", "False", "NotActive")
        await world.kill()
        # So that what the next agent writes can be told from what was there.
        world.node.run("nft flush ruleset")
        await world.start(synced=False)
        world.put()
        put_other(world)
        world.sink.synced()
        await world.until(lambda: "10.65.0.3" in world.node.run(GUARD))
    world.pause()
    await world.shows(NORMAL_V4, OTHER_V4)
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))


@pytest.mark.usefixtures("mute")
async def test_a_guest_that_comes_meanwhile_is_heard_afterwards(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    world.pause("default")
    await world.until_says("Listening", "False", "NotActive")
    world.send()
    assert world.loop.listening.of(ObjectKey("default", "vm")) is None
    assert world.state() == "Target"
    world.node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    world.node.guest_runs("ip link set eth arp on")
    world.pause()
    await world.until_state("Live")
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("said", ["target", "target Succeeded"], ids=["Live", "TimeWait"])
async def test_the_next_agent_leaves_it_as_it_is_too(world: World, said: str) -> None:
    world.configure(liveMigrationRouteConvergenceTime="50ms")
    world.put(said="target")
    await world.until_listening()
    world.announce()
    await world.until_state("Live")
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    world.pause("default")
    state, since = world.state(), endpoint(world).machine.since
    with watching() as witness:
        await world.kill()
        await world.start(synced=False)
        world.put(said=said)
        world.sink.synced()
        await world.until_says("Programmed", "False", "NotActive")
        await asyncio.sleep(0)
        assert (world.state(), endpoint(world).machine.since) == (state, since)
        assert "10.65.0.2" in world.node.run(GUARD)
        assert witness.told() == []
    world.pause()
    await world.until_says("Programmed", "True", "Programmed")
    assert world.state() == ("Live" if said == "target" else "TimeWait")
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("alive")
async def test_neither_the_next_agent_nor_another_pause_asks_its_guest(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    assert world.state() == "Asking"
    world.pause("default")
    world.configure(mode="paused")
    world.configure()
    assert world.state() == "Asking"
    world.pause()
    await world.until_says("StillAlive", "True", "GuestAnswers")
    assert world.state() == "Base"
    world.pause("default")
    await world.kill()
    await world.start()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("dead", [False, True], ids=["told", "while the agent was dead"])
async def test_what_is_deleted_meanwhile_is_asked_about_afterwards(
    world: World, *, dead: bool
) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.pause("default")
    if dead:
        await world.kill()
        await world.start()
    else:
        world.delete()
    await world.at_rest()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)
    world.pause("elsewhere")
    await world.until_state("gone")
    await world.shows()


@pytest.mark.usefixtures("alive")
async def test_a_route_that_outlived_its_endpoint_is_left_too(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    world.pause("default")
    world.node.guest_runs("ip link set eth arp off")
    doubted = world.loop.orphans._doubted[ObjectKey("default", "vm")]
    doubted.retire()
    world.loop.orphans._fire(doubted, world.loop.orphans._ask)
    assert doubted.listener is None
    await world.shows(NORMAL_V4)
    world.pause()
    await world.shows()


@pytest.mark.usefixtures("mute")
async def test_the_end_of_one_pause_is_not_the_end_of_the_other(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    with watching() as witness:
        world.pause("default")
        world.configure(mode="paused")
        world.put(said="target")
        world.configure()
        assert world.state() == "Base"
        world.configure(mode="paused")
        world.pause()
        assert world.state() == "Base"
        assert witness.told() == []
    world.configure()
    await world.until(lambda: world.state() != "Base")


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("armed", ["true", "false"])
async def test_another_priority_meanwhile_is_no_reason_to_doubt_a_live_guest(
    world: World, armed: str
) -> None:
    world.put(said="target", armed=armed)
    await world.until_listening()
    world.announce()
    await world.until_state("Live")
    with watching() as witness:
        world.pause("default")
        world.configure(ipv4ElevatedRoutePriority=400, ipv6ElevatedRoutePriority=400)
        world.configure(ipv4ElevatedRoutePriority=300, ipv6ElevatedRoutePriority=300)
        assert witness.told() == []
        world.pause()
        assert world.state() == "Live"
        assert witness.told() == ["+10.65.0.2 300", "-10.65.0.2 512"]


@pytest.mark.usefixtures("mute")
async def test_an_address_of_a_paused_endpoint_is_left_whoever_else_names_it(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.pause("default")
    world.put("other", namespace="elsewhere", interface="tap1", ips=["10.65.0.2"])
    await world.at_rest()
    await world.shows(NORMAL_V4)
    world.pause()
    await world.shows("10.65.0.2 dev tap1 ... metric 1024")
