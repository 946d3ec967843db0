"""A kill in each state, and clocks that jump: what the next agent, or this one, makes of it."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

import pytest
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, World

from handover_api.names import ObjectKey
from handover_nodeagent.reconcile import loop

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

BOTH = ["10.65.0.2", "fd00:65::2"]
Story = Callable[[World], Awaitable[None]]


def say(world: World, said: str = "") -> None:
    """Let the API tell of the VM, which has an address of each family."""
    world.put(said=said, ips=BOTH)


async def to_base(world: World) -> None:
    """Let a VM just be there."""
    say(world)


async def to_target(world: World) -> None:
    """Let the node wait for a guest."""
    say(world, "target")
    await world.until_listening()


async def to_live(world: World) -> None:
    """Let the guest have come."""
    await to_target(world)
    world.announce()
    await world.until_state("Live")


async def to_time_wait(world: World) -> None:
    """Let the migration have succeeded."""
    await to_live(world)
    say(world, "target Succeeded")


async def to_withdrawn(world: World) -> None:
    """Let the migration have failed before the guest came."""
    await to_target(world)
    say(world, "target Aborted")


async def to_asking(world: World) -> None:
    """Let the source be told that its guest is gone, which it doubts."""
    say(world, "source")
    say(world, "source Succeeded")


STORIES = {
    "Base": to_base,
    "Target": to_target,
    "Live": to_live,
    "TimeWait": to_time_wait,
    "Withdrawn": to_withdrawn,
    "Asking": to_asking,
}


def reported(world: World) -> tuple[str | None, dt.datetime | None]:
    """Return state and deadline as they were reported last."""
    found = world.reports.statuses.get(ObjectKey("default", "vm"))
    return (found.state, found.deadline) if found else (None, None)


@pytest.mark.parametrize("sees_the_api", [False, True], ids=["API down", "API up"])
@pytest.mark.parametrize("state", STORIES)
async def test_a_state_outlives_a_kill_and_no_route_is_touched(
    world: World, state: str, *, sees_the_api: bool
) -> None:
    """Guards the restart; the next agent first hears nothing, or the object as it was."""
    await STORIES[state](world)
    await world.until_state(state)
    await world.until(lambda: reported(world)[0] == state)
    said, before = world.said, reported(world)
    with watching() as witness:
        await world.kill()
        world.reports.statuses.clear()
        await world.start(synced=False)
        if sees_the_api:
            say(world, said)
            world.sink.synced()
        assert world.state() == state
        await world.until(lambda: reported(world) == before)
        assert witness.told() == []


async def test_a_guest_is_heard_after_a_kill_in_target_or_withdrawn(world: World) -> None:
    await to_target(world)
    await world.kill()
    await world.start(synced=False)
    world.send()
    await world.until(lambda: sum("metric 512" in line for line in world.routes()) == 2)
    assert world.state() == "Live"


async def test_what_the_api_may_still_tell_of_stays_until_it_has_told_all(world: World) -> None:
    """A memory that is not complete takes no other endpoint's route out."""
    await to_live(world)
    await world.kill()
    world.node.run("ip route add 10.65.0.9 dev tap1 scope link metric 1024 proto 88")
    with watching() as witness:
        await world.start(synced=False)
        assert world.state() == "Live"
        assert witness.told() == []
        say(world, "target")
        world.sink.synced()
        assert witness.told() == ["-10.65.0.9 1024"]


OURS = "dev tap0 scope link proto 88"
ELEVATED = [f"route add {one} {OURS} metric 512" for one in BOTH]
NORMAL = [f"route add {one} {OURS} metric 1024" for one in BOTH]


@pytest.mark.parametrize(
    ("story", "left", "state"),
    [
        (to_target, ELEVATED, "Live"),
        (to_target, ELEVATED[:1], "Live"),
        (to_live, NORMAL, "Live"),
        (to_time_wait, NORMAL, "TimeWait"),
        (to_time_wait, NORMAL[:1], "TimeWait"),
        (to_base, [f"route add {CNI}", f"route add {CNI} table 5254"], "Base"),
    ],
    ids=[
        "sent, not stepped",
        "one family sent",
        "elevated in, normal not out",
        "normal in, elevated not out",
        "normal in, one family",
        "copied, not parked",
    ],
)
async def test_a_kill_between_two_writes_costs_no_route(
    world: World, story: Story, left: list[str], state: str
) -> None:
    """What a SIGKILL there leaves in the kernel beside a memory from before."""
    await story(world)
    said = world.said
    with watching() as witness:
        await world.kill()
        world.node.run_batch(left)
        witness.told()
        await world.start(synced=False)
        say(world, said)
        world.sink.synced()
        # One that had not been remembered is asked, for others to hear of it; silent, it stays.
        await world.until_state(state)
        expected = "512" if state != "Base" else "1024"
        await world.shows(*(f"{one} dev tap0 ... metric {expected}" for one in BOTH))
        assert not any(f" {expected}" in line for line in witness.told() if line[0] == "-")
    assert len(world.parked()) == (state == "Base")


class Clock:
    """A clock of the wall that somebody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = dt.timedelta()
        monkeypatch.setattr(loop, "now", self.now)

    def now(self) -> dt.datetime:
        """Return what the loop takes for the time."""
        return dt.datetime.now(dt.UTC) + self.ahead  # noqa: TID251  plus the jump


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the loop's clock; made before the world that goes by it."""
    return Clock(monkeypatch)


JUMPS = pytest.mark.parametrize("days", [-1, 1], ids=["back", "forward"])


@JUMPS
async def test_a_jump_of_the_clock_neither_ends_nor_prolongs_a_time_wait(
    clock: Clock, world: World, days: int
) -> None:
    world.configure(liveMigrationRouteConvergenceTime="3s")
    await to_time_wait(world)
    with watching() as witness:
        clock.ahead = dt.timedelta(days=days)
        world.configure(liveMigrationRouteConvergenceTime="3s", targetTimeout="5m")
        world.put("other", ips=["10.65.0.9"], interface="tap1")
        assert witness.told() == ["+10.65.0.9 1024"]
        assert world.state() == "TimeWait"
    running = world.loop.alarms.of(ObjectKey("default", "vm"))
    assert running
    assert 0 < running.alarm.when() - asyncio.get_running_loop().time() <= 3
    await world.until_state("Base")


@JUMPS
async def test_a_jump_of_the_clock_is_no_obstacle_to_a_migration(
    clock: Clock, world: World, days: int
) -> None:
    await to_target(world)
    clock.ahead = dt.timedelta(days=days)
    world.announce()
    await world.until_state("Live")
    await world.until(lambda: sum("metric 512" in line for line in world.routes()) == 2)
    clock.ahead = dt.timedelta()
    say(world, "target Succeeded")
    say(world, "source")
    assert world.state() == "Base"
    clock.ahead = dt.timedelta(days=days)
    say(world, "source Succeeded")
    await world.until_state("Withdrawn")
    await world.shows()


@JUMPS
async def test_a_jump_of_the_clock_does_not_keep_a_guest_from_being_believed(
    clock: Clock, world: World, days: int
) -> None:
    """A Withdrawn wants two answers, some time apart: also when the first one is dated oddly."""
    world.configure(probeInterval="20ms")
    await to_withdrawn(world)
    world.announce(is_answer=True)
    clock.ahead = dt.timedelta(days=days)
    world.node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    world.node.guest_runs("ip link set eth arp on")
    world.send()
    await world.until_state("TimeWait")


async def test_that_a_guest_may_have_left_is_told_while_a_source_is_armed(world: World) -> None:
    """What still arrives for it is lost until its agent has run."""
    told: list[bool] = []
    world.loop.urgency._tell = told.append
    world.configure(sourceRedirect="auto")
    world.put(said="source", armed="false")
    assert told == []
    world.put(said="source", armed="true")
    assert told == [True]
    world.configure(sourceRedirect="off")
    assert told == [True, False]
    world.configure(sourceRedirect="auto")
    assert told == [True, False, True]
    world.put(said="source Succeeded")
    assert told == [True, False, True, False]


async def test_that_a_guest_is_expected_is_told_while_any_is(world: World) -> None:
    """Who takes processors from others for it must not go on for an endpoint that is gone."""
    told: list[bool] = []
    world.loop.urgency._tell = told.append
    world.put("one", said="target")
    world.put("two", said="target", ips=["10.65.0.3"])
    assert told == [True]
    world.delete("one")
    await world.until_state("gone", "one")
    assert told == [True]
    world.configure(mode="paused")
    assert told == [True, False]
    world.configure(mode="active")
    assert told == [True, False, True]
    world.put("two", ips=["10.65.0.3"])
    await world.until_state("Withdrawn", "two")
    assert told == [True, False, True, False]
