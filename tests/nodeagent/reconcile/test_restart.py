"""One agent after the other: what the next makes of kernel, guest and memory."""

import asyncio
import datetime as dt
import json
from pathlib import Path

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import ELEVATED_V4, MAC, NORMAL_V4, World, settings

from handover_api.names import ObjectKey
from handover_nodeagent.reconcile import loop, orphans

pytestmark = pytest.mark.root


@pytest.mark.usefixtures("mute")
async def test_a_killed_agent_goes_on_where_it_stood(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    await world.kill()
    await world.start(synced=False)
    assert world.state() == "Live"
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
async def test_an_endpoint_deleted_while_nobody_watched_is_asked_about(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    await world.start(synced=False)
    assert world.state() == "Base"
    world.sink.synced()
    await world.until_state("gone")
    await world.shows()


@pytest.mark.usefixtures("alive")
async def test_a_deleted_endpoint_whose_guest_answers_leaves_an_orphan(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    await world.shows(NORMAL_V4)
    await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)
    await world.kill()
    await world.start()
    await world.shows(NORMAL_V4)


async def test_a_stale_route_of_ours_is_pruned_after_the_sync(node: Node, tmp_path: Path) -> None:
    node.run("ip route add 10.65.0.9 dev tap0 scope link metric 1024 proto 88")
    # Of which no speaker had heard when its agent was killed.
    node.run("ip route add 10.65.0.7 dev tap0 scope link metric 512 proto 89")
    node.run("ip route add 10.65.0.8 dev tap0 scope link metric 1024 proto 90")
    world = await World(node, tmp_path).start(synced=False)
    assert len(world.routes()) == 3
    world.sink.synced()
    await world.shows("10.65.0.8 dev tap0 ... metric 1024")
    await world.kill()


async def test_a_damaged_memory_is_as_good_as_none(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    (file,) = (world.directory / "endpoints").glob("*.json")
    assert json.loads(file.read_text())["stood"]["state"] == "Base"
    file.write_text("{")
    await world.start(synced=False)
    world.put()
    world.sink.synced()
    await world.shows(NORMAL_V4)


async def test_an_unreadable_version_at_the_start_is_no_deletion(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    await world.start(synced=False)
    world.put(ips=["nonsense"])
    world.sink.synced()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_a_dead_endpoint_leaves_no_memory(world: World) -> None:
    world.put()
    await world.until(lambda: list((world.directory / "endpoints").glob("*.json")))
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: not list((world.directory / "endpoints").iterdir()))


@pytest.mark.usefixtures("mute")
async def test_a_clock_that_is_set_back_does_not_prolong_a_time_wait(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dt.timedelta()
    monkeypatch.setattr(loop, "now", lambda: dt.datetime.now(dt.UTC) - away)  # noqa: TID251
    soon = settings(liveMigrationRouteConvergenceTime="300ms")
    world = await World(node, tmp_path, soon).start()
    world.put(said="target")
    world.put(said="target Succeeded")
    away = dt.timedelta(days=1)
    await world.kill()
    await world.start(synced=False)
    assert world.state() == "TimeWait"
    await world.until_state("Base")
    await world.kill()


@pytest.mark.usefixtures("alive")
async def test_a_guest_that_came_while_nobody_ran_is_found_within_two_intervals(
    world: World,
) -> None:
    """Guards: without the probe the missed announcement would be missed for ever."""
    world.node.guest_runs("ip link set eth arp off")
    world.put(said="target")
    await world.until_listening()
    await world.kill()
    world.node.guest_runs("ip link set eth arp on")
    await world.start(synced=False)
    began = asyncio.get_running_loop().time()
    await world.until_state("Live")
    interval = world.settings.probe_interval.total_seconds()
    assert asyncio.get_running_loop().time() - began < 2 * interval


@pytest.mark.usefixtures("alive")
async def test_a_route_that_nobody_wants_any_more_stays_where_its_guest_answers(
    world: World,
) -> None:
    """Object and memory may be a newer agent's, or lost with the state directory."""
    await leave_an_unclaimed_route(world)
    (doubted,) = world.loop.orphans._doubted.values()
    await world.until(lambda: doubted.backoff.delay > orphans._FIRST)
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
async def test_a_route_that_nobody_wants_any_more_goes_where_its_guest_is_silent(
    world: World,
) -> None:
    await leave_an_unclaimed_route(world)
    await world.shows(ELEVATED_V4)
    await world.shows()


@pytest.mark.usefixtures("mute")
async def test_a_route_that_nobody_wants_goes_at_once_where_nobody_was_spoken_to(
    world: World,
) -> None:
    await world.kill()
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 88 metric 512")
    await world.start()
    assert world.routes() == []


async def leave_an_unclaimed_route(world: World) -> None:
    """Begin a life on a route of the last one whose endpoint nobody knows any more."""
    await world.kill()
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 88 metric 512")
    world.node.run(f"ip neigh replace 10.65.0.2 dev tap0 lladdr {MAC} nud reachable")
    await world.start()


async def test_others_go_on_to_hear_of_a_guest_that_is_away(world: World) -> None:
    """What is remembered is from before; whether it is at home nobody knows so far."""
    world.put(status={"advertised": False})
    await world.until(lambda: len(world.routes()) == 1)
    await world.at_rest()
    await world.kill()
    await world.start(synced=False)
    world.put(status={"advertised": True})
    world.sink.synced()
    await world.at_rest()

    status = world.reports.statuses[ObjectKey("default", "vm")]
    assert status
    assert status.advertised is True
