"""The loop under another configuration, and what of it must stay as it was."""

import asyncio

import pytest
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, GUARD, NORMAL_V4, World, count, settings

from handover_api.names import ObjectKey
from handover_nodeagent import metrics

pytestmark = pytest.mark.root


@pytest.mark.usefixtures("mute")
async def test_observe_writes_nothing(world: World) -> None:
    world.configure(mode="observe")
    world.put()
    await world.until_says("Programmed", "False", "NotActive")
    assert world.routes() == []
    world.configure()
    await world.shows(NORMAL_V4)


async def test_an_address_that_is_not_allowed_any_more_goes_back_to_the_cni(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(ips=["10.65.0.2", "10.65.0.3"])
    await world.until(lambda: len(world.parked()) == 1)
    world.configure(allowedCIDRs=["192.0.2.0/24"])
    await world.shows("10.65.0.2 dev tap0 proto 5", "10.65.0.3 dev tap0 ... metric 1024")
    assert world.parked() == []
    world.configure()
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap0 ... metric 1024")


async def test_an_address_that_is_not_allowed_any_more_keeps_the_only_route_it_has(
    world: World,
) -> None:
    """Guards: one wrong network in allowedCIDRs cuts off no VM; a restart does not either."""
    world.put()
    await world.shows(NORMAL_V4)
    with watching() as witness:
        world.configure(allowedCIDRs=["192.0.2.0/24"])
        await world.until_says("AddressNotAllowed", "True", "NotAllowed")
        assert "its route stays, as there is no other" in world.message("AddressNotAllowed")
        await world.kill()
        world.settings = settings(allowedCIDRs=["192.0.2.0/24"])
        await world.start()
        world.put()
        await world.until_says("AddressNotAllowed", "True", "NotAllowed")
        assert witness.told() == []
    world.put("new", interface="tap1", ips=["10.65.0.9"])
    await world.until_says("AddressNotAllowed", "True", "NotAllowed", "new")
    await world.shows(NORMAL_V4)


async def test_route_ownership_migrations_gives_the_cnis_route_back(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(routeOwnership="migrations")
    await world.shows("10.65.0.2 dev tap0 proto 5")
    await world.until_says("Programmed", "False", "NotOwned")
    world.put(said="source")
    await world.shows(NORMAL_V4)
    assert len(world.parked()) == 1


async def test_what_is_not_ours_any_more_keeps_the_only_route_it_has(world: World) -> None:
    """Guards: with nothing to give back, taking ours out would cut the VM off."""
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(routeOwnership="migrations")
    await world.until_says("Programmed", "False", "NotOwned")
    await world.shows(NORMAL_V4)
    world.node.run(f"ip route add {CNI}")
    await world.shows("10.65.0.2 dev tap0 proto 5")


async def test_observe_writes_no_guard_either(world: World) -> None:
    world.configure(mode="observe")
    world.put()
    await world.until_says("Programmed", "False", "NotActive")
    await asyncio.to_thread(lambda: None)
    assert "10.65.0.2" not in world.node.run(GUARD)
    world.configure()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))


@pytest.mark.usefixtures("alive")
async def test_paused_leaves_everything_as_it_is(world: World) -> None:
    """Neither hears nor asks nor decides; what was said meanwhile counts as after a restart."""
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.configure(mode="paused")
    world.put(said="source Succeeded")
    world.put("other", said="target", ips=["10.65.0.3"])
    key = ObjectKey("default", "other")
    assert key in world.loop.endpoints
    assert world.loop.listening.of(key) is None
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)
    world.configure()
    assert world.state() == "Asking"
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)
    assert world.loop.listening.of(key) is not None


@pytest.mark.usefixtures("mute")
async def test_what_is_deleted_while_paused_is_asked_about_afterwards(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(mode="paused")
    world.delete()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)
    world.configure()
    await world.until_state("gone")
    await world.shows()


async def test_a_setting_that_is_none_of_the_kernels_touches_nothing_there(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    before = count(metrics.GUARD, "change"), count(metrics.GUARD, "replace")
    writes = world.loop.routes.tables.writes
    world.configure(targetTimeout="5m", probeInterval="100ms")
    assert world.loop.routes.tables.writes == writes
    world.configure(ipv4NormalRoutePriority=2048)
    await world.shows("10.65.0.2 dev tap0 ... metric 2048")
    await asyncio.sleep(0.05)
    assert before == (count(metrics.GUARD, "change"), count(metrics.GUARD, "replace"))


async def test_another_protocol_number_is_followed_in_place(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(routeProtocol=77)
    await world.shows("10.65.0.2 dev tap0 proto 77 ... metric 1024")
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows("10.65.0.2 dev tap0 proto 77 ... metric 1024")


async def test_another_table_is_followed_and_watched(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(routeTable=300)
    in_table = "ip route show table 300"
    world.node.await_shown(in_table, "10.65.0.2 dev tap0")
    assert world.routes() == []
    world.node.run("ip route delete 10.65.0.2 dev tap0 table 300")
    await world.until(lambda: "10.65.0.2" in world.node.run(in_table))


@pytest.mark.usefixtures("mute")
async def test_a_shorter_convergence_time_ends_a_time_wait_at_once(world: World) -> None:
    world.put(said="target")
    world.put(said="target Succeeded")
    assert world.state() == "TimeWait"
    world.configure(liveMigrationRouteConvergenceTime="1ms")
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("alive")
async def test_a_kept_route_of_a_guest_that_answers_outlives_its_endpoint(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.configure(routeOwnership="migrations")
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)
    await world.shows(NORMAL_V4)
