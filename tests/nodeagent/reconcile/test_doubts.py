"""A guest that the API denies: it keeps its routes, whatever was armed, until it is silent."""

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import ELEVATED_V4, NORMAL_V4, World

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpointStatus

pytestmark = pytest.mark.root
KEY = ObjectKey("default", "vm")


def status(world: World) -> WorkloadEndpointStatus:
    """Return what was reported last."""
    found = world.reports.statuses[KEY]
    assert found is not None
    return found


async def to_base(world: World) -> None:
    """Let the guest run here, as the source of a migration that never was armed."""
    world.put(said="source", armed="false")
    await world.shows(NORMAL_V4)


async def to_live(world: World) -> None:
    """Let the guest have come, and its migration be armed no more."""
    world.put(said="target", armed="false")
    await world.until_listening()
    world.send()
    await world.shows(ELEVATED_V4)


def leave(world: World) -> None:
    """Say that the source's guest has gone."""
    world.put(said="source Succeeded", armed="false")


def abort(world: World) -> None:
    """Say that the target's guest never came."""
    world.put(said="target Aborted", armed="false")


@pytest.mark.usefixtures("alive")
class TestALivingGuestWhoseMigrationIsNotArmed:
    """Armed guards what may give a route; a route that is in goes only where nobody answers."""

    async def test_keeps_its_routes_when_its_endpoint_is_deleted(self, world: World) -> None:
        await to_base(world)
        world.delete()
        await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)
        await world.shows(NORMAL_V4)

    async def test_keeps_its_routes_as_a_target_that_is_deleted(self, world: World) -> None:
        await to_live(world)
        world.delete()
        await world.until(lambda: ("vm", "OrphanRoute") in world.reports.events)
        await world.shows(ELEVATED_V4)

    async def test_keeps_its_routes_when_it_is_said_to_have_left(self, world: World) -> None:
        await to_base(world)
        leave(world)
        await world.until_says("StillAlive", "True", "GuestAnswers")
        assert world.state() == "Base"
        await world.shows(NORMAL_V4)

    async def test_keeps_its_routes_when_its_migration_is_said_to_have_failed(
        self, world: World
    ) -> None:
        await to_live(world)
        abort(world)
        await world.until_says("StillAlive", "True", "GuestAnswers")
        assert world.state() == "Live"
        await world.shows(ELEVATED_V4)


async def test_a_source_that_was_silent_for_a_while_is_heard_though_nothing_was_armed(
    world: World, node: Node
) -> None:
    node.guest_runs("ip link set eth arp off")
    await to_base(world)
    leave(world)
    await world.until_state("Withdrawn")
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    node.guest_runs("ip link set eth arp on")
    world.send()
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


@pytest.mark.parametrize("word", ["target Aborted", ""], ids=["aborted", "lost"])
async def test_a_guest_that_came_all_the_same_stays_elevated_while_the_api_denies_it(
    world: World, node: Node, word: str
) -> None:
    """Else both nodes would have a route of the normal priority, and nobody asks the source."""
    world.configure(liveMigrationRouteConvergenceTime="100ms")
    node.guest_runs("ip link set eth arp off")
    world.put(said="target")
    await world.until_listening()
    world.put(said=word)
    await world.until_state("Withdrawn")
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    node.guest_runs("ip link set eth arp on")
    world.send()
    await world.until_state("TimeWait")
    await world.until_says("StillAlive", "True", "GuestAnswers")
    told = status(world)
    assert told.last_cutover is not None
    assert (told.state, told.deadline, told.last_cutover.migration_uid) == ("TimeWait", None, "m1")
    await world.until(lambda: patience(world) == 2)
    await world.until_state("TimeWait")
    await world.shows(ELEVATED_V4)
    world.put(said="target Succeeded")
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


def patience(world: World) -> float:
    """Return for how long the guest is not asked again, in seconds."""
    doubt = world.loop.endpoints[KEY].machine.doubt
    return doubt.interval.total_seconds() if doubt else 0.0


@pytest.mark.usefixtures("alive")
async def test_the_next_agent_doubts_on(world: World) -> None:
    world.configure(liveMigrationRouteConvergenceTime="100ms")
    world.settings = world.loop.settings
    world.put(said="target")
    await world.until_state("Live")
    world.put(said="target Succeeded")
    world.put(said="target Aborted")
    await world.until_says("StillAlive", "True", "GuestAnswers")
    assert world.state() == "TimeWait"
    world.put(said="")
    await world.kill()
    await world.start(synced=False)
    await world.until(lambda: patience(world) >= 1)
    assert world.state() == "TimeWait"
    await world.shows(ELEVATED_V4)
