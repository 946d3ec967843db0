"""Whose last frames are recorded: an armed source's, for as long as it is one."""

import time

import pytest
from tests.nodeagent.world import World

from handover_api.names import ObjectKey
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

NOBODY = Unknown("it is no source of an armed migration")


@pytest.fixture
async def key(world: World) -> ObjectKey:
    world.put()
    return ObjectKey("default", "vm")


def last(world: World, key: ObjectKey) -> LastFrame | Unknown:
    return world.loop.listening.last_frames.of(key)


async def recorded(world: World, key: ObjectKey) -> LastFrame:
    """Return the time of a frame that the guest sends now, once it is recorded."""
    began = time.time_ns()

    def is_so() -> bool:
        world.send()
        found = last(world, key)
        return isinstance(found, LastFrame) and found.at_ns >= began

    await world.until(is_so)
    found = last(world, key)
    assert isinstance(found, LastFrame)
    return found


async def test_a_source_is_recorded_until_its_role_is_over(world: World, key: ObjectKey) -> None:
    assert last(world, key) == NOBODY
    world.put(said="source")
    assert (await recorded(world, key)).error_ns == 0
    world.put(said="source Succeeded")
    assert last(world, key) == NOBODY


async def test_a_source_that_is_not_armed_is_not_recorded(world: World, key: ObjectKey) -> None:
    world.put(said="source", armed="false")
    assert last(world, key) == NOBODY
    world.put(said="source", armed="true")
    await recorded(world, key)


async def test_a_target_is_not_recorded(world: World, key: ObjectKey) -> None:
    world.put(said="target")
    assert last(world, key) == NOBODY


async def test_what_concerns_the_guest_otherwise_changes_no_record(
    world: World, key: ObjectKey
) -> None:
    world.put(said="source")
    before = await recorded(world, key)
    world.put(said="source", uid="m2")
    found = last(world, key)
    # The guest's kernel may have said something meanwhile; a record that began anew is empty.
    assert isinstance(found, LastFrame)
    assert found.at_ns >= before.at_ns


async def test_an_endpoint_that_is_gone_is_not_recorded(world: World, key: ObjectKey) -> None:
    world.put(said="source")
    await recorded(world, key)
    world.loop.retire(world.loop.endpoints[key])
    assert last(world, key) == NOBODY


async def test_an_observing_agent_records_nobody(world: World, key: ObjectKey) -> None:
    world.put(said="source")
    await recorded(world, key)
    world.configure(mode="observe")
    assert last(world, key) == NOBODY
