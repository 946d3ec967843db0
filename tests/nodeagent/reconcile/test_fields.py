"""Each field of the configuration, changed under a running migration: its effect, and no other."""

import asyncio
import contextlib
import datetime as dt
import socket
from collections.abc import AsyncIterator

import pytest
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, GUARD, NORMAL_V4, World, count

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.reconcile.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

KEY = ObjectKey("default", "vm")
VM = ["10.65.0.2", "fd00:65::2"]
OTHER = ["10.65.0.3", "fd00:65::3"]
TESTED_HERE = {
    "mode", "ipv4NormalRoutePriority", "ipv6NormalRoutePriority", "ipv4ElevatedRoutePriority",
    "ipv6ElevatedRoutePriority", "liveMigrationRouteConvergenceTime", "targetTimeout",
    "probeInterval", "routeOwnership", "onUninstall", "allowedCIDRs", "gateways",
}  # fmt: skip
IMMUTABLE = {"routeProtocol", "routeTable", "redirectPort", "peerPort"}
LATER = {"advertise", "sourceRedirect", "holdPackets"}
"""Design section 6: nothing of the agent's depends on them so far."""


@pytest.fixture
async def moving(world: World) -> World:
    """Give a node with a VM that waits for its guest, and another one that stays."""
    world.put("other", interface="tap1", ips=OTHER)
    world.put(said="target", ips=VM)
    await world.until_listening()
    await world.until(lambda: "10.65.0.3" in world.node.run(GUARD))
    return world


@pytest.fixture
async def live(moving: World) -> World:
    """Let the guest have come."""
    moving.announce()
    await moving.until_state("Live")
    await moving.until_says("Programmed", "True", "Programmed")
    return moving


def endpoint(world: World) -> Endpoint:
    """Return the VM as the loop knows it."""
    return world.loop.endpoints[KEY]


@contextlib.asynccontextmanager
async def untouched(world: World) -> AsyncIterator[None]:
    """Fail when a route or the guard is written meanwhile."""
    with watching() as witness:
        before = await guard_writes(world)
        yield
        assert before == await guard_writes(world)
        assert witness.told() == []


async def guard_writes(world: World) -> tuple[float, float]:
    """Return how often the guard was written, when nothing of it is left to do."""
    await world.until(lambda: not world.loop.enforcer.guard._work.is_set())
    return count(metrics.GUARD, "change"), count(metrics.GUARD, "replace")


def test_no_field_is_forgotten() -> None:
    fields = {field.alias or name for name, field in Settings.model_fields.items()}
    assert fields - IMMUTABLE - LATER == TESTED_HERE


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ipv4NormalRoutePriority", 2048, ["+10.65.0.3 2048", "-10.65.0.3 1024"]),
        ("ipv6NormalRoutePriority", 2048, ["+fd00:65::3 2048", "-fd00:65::3 1024"]),
        ("ipv4ElevatedRoutePriority", 400, ["+10.65.0.2 400", "-10.65.0.2 512"]),
        ("ipv6ElevatedRoutePriority", 400, ["+fd00:65::2 400", "-fd00:65::2 512"]),
    ],
)
@pytest.mark.parametrize("said", ["target", "target Succeeded"], ids=["Live", "TimeWait"])
async def test_a_priority_moves_its_own_routes_add_before_delete(
    live: World, said: str, field: str, value: int, expected: list[str]
) -> None:
    live.put(said=said, ips=VM)
    guard = await guard_writes(live)
    with watching() as witness:
        live.configure(**{field: value})
        assert witness.told() == expected
        await live.until_says("Programmed", "True", "Programmed")
        assert witness.told() == []
    assert guard == await guard_writes(live)


async def test_a_priority_counts_for_a_cutover_that_is_prepared_already(moving: World) -> None:
    with watching() as witness:
        moving.configure(ipv4ElevatedRoutePriority=400, ipv6ElevatedRoutePriority=300)
        assert witness.told() == []
        moving.announce()
        assert witness.told() == ["+10.65.0.2 400", "+fd00:65::2 300"]


async def test_a_priority_in_the_moment_after_an_announcement_moves_what_it_brought(
    moving: World,
) -> None:
    with watching() as witness:
        moving.announce()
        moving.configure(ipv4ElevatedRoutePriority=400)
        assert witness.told() == [
            "+10.65.0.2 512",
            "+fd00:65::2 512",
            "+10.65.0.2 400",
            "-10.65.0.2 512",
        ]
    assert moving.state() == "Live"


async def test_observe_decides_and_reports_and_active_makes_it_so(moving: World) -> None:
    async with untouched(moving):
        moving.configure(mode="observe")
        moving.announce()
        await moving.until_state("Live")
        await moving.until(lambda: ("vm", "CutOver") in moving.reports.events)
        assert moving.condition("Programmed") == ("False", "NotActive")
    moving.configure()
    await moving.until_says("Programmed", "True", "Programmed")
    assert sum("metric 512" in line for line in moving.routes()) == 2


async def test_paused_neither_hears_nor_asks_and_then_asks_afresh(moving: World) -> None:
    async with untouched(moving):
        moving.configure(mode="paused")
        moving.send()
        moving.node.guest_runs("ip address add 10.65.0.2/32 dev eth")
        moving.node.guest_runs("ip link set eth arp on")
        await moving.until_says("Programmed", "False", "NotActive")
        assert moving.loop.listening.of(KEY) is None
        assert moving.state() == "Target"
    moving.configure()
    await moving.until_state("Live")


async def test_paused_holds_a_time_wait_whose_time_is_over(live: World) -> None:
    live.configure(liveMigrationRouteConvergenceTime="50ms")
    live.put(said="target Succeeded", ips=VM)
    due = endpoint(live).machine.since + dt.timedelta(milliseconds=60)
    async with untouched(live):
        live.configure(mode="paused", liveMigrationRouteConvergenceTime="50ms")
        await live.until(lambda: dt.datetime.now(dt.UTC) > due)  # noqa: TID251  that it is over
        assert live.state() == "TimeWait"
    live.configure(liveMigrationRouteConvergenceTime="50ms")
    await live.until_state("Base")
    await live.until(lambda: sum("metric 1024" in line for line in live.routes()) == 4)


@pytest.mark.parametrize("said", ["target", "target Succeeded"], ids=["Live", "TimeWait"])
async def test_another_priority_after_a_pause_is_no_reason_to_doubt_a_live_guest(
    live: World, said: str
) -> None:
    """What the kernel has was written under the settings from before the pause."""
    live.put(said=said, ips=VM)
    state = live.state()
    with watching() as witness:
        live.configure(mode="paused")
        live.configure(mode="paused", ipv4ElevatedRoutePriority=400)
        live.configure(ipv4ElevatedRoutePriority=400, ipv6ElevatedRoutePriority=300)
        assert live.state() == state
        told = witness.told()
        assert sorted(told[:2]) == ["+10.65.0.2 400", "+fd00:65::2 300"]
        assert sorted(told[2:]) == ["-10.65.0.2 512", "-fd00:65::2 512"]


async def test_a_convergence_time_moves_the_end_of_a_time_wait_that_runs(live: World) -> None:
    live.configure(liveMigrationRouteConvergenceTime="2s")
    live.put(said="target Succeeded", ips=VM)
    async with untouched(live):
        live.configure(liveMigrationRouteConvergenceTime="1h")
        key = ObjectKey("default", "vm")
        since = endpoint(live).machine.since
        await live.until(
            lambda: (
                (status := live.reports.statuses[key])
                and status.deadline == since + dt.timedelta(hours=1)
            )
        )
        running = live.loop.alarms.of(KEY)
        assert running
        assert running.alarm.when() - asyncio_time() > 3000
    live.configure(liveMigrationRouteConvergenceTime="1ms")
    await live.until_state("Base")


async def test_a_target_timeout_counts_from_the_targets_beginning(moving: World) -> None:
    async with untouched(moving):
        moving.configure(targetTimeout="1ms")
        await moving.until_says("TargetTimeout", "True", "NotAnnounced")
        assert moving.condition("Listening") == ("True", "Listening")
        moving.configure(targetTimeout="1h")
        await moving.until(lambda: moving.condition("TargetTimeout") is None)
    moving.announce()
    await moving.until_state("Live")


async def test_a_probe_interval_starts_and_ends_the_asking(moving: World) -> None:
    moving.configure(probeInterval="0s")
    with contextlib.closing(moving.node.guest_socket()) as guest:
        await moving.until(lambda: listener_due(moving) is None)
        drain(guest)
        moving.configure(probeInterval="20ms")
        await moving.until(lambda: is_asked(guest))
        moving.configure(probeInterval="0s")
        assert listener_due(moving) is None


async def test_route_ownership_leaves_an_endpoint_of_a_migration_alone(moving: World) -> None:
    moving.put("other", interface="tap1", ips=OTHER, said="source")
    async with untouched(moving):
        moving.configure(routeOwnership="migrations")
        moving.configure(routeOwnership="all")
        moving.configure(routeOwnership="migrations")
    moving.announce()
    await moving.until(lambda: sum("metric 512" in line for line in moving.routes()) == 2)


async def test_on_uninstall_is_for_the_uninstall_alone(live: World) -> None:
    async with untouched(live):
        live.configure(onUninstall="handBack")
        await live.until_says("Configured", "True", "Accepted")


async def test_an_address_that_is_forbidden_meanwhile_is_in_no_prepared_cutover(
    moving: World,
) -> None:
    with watching() as witness:
        moving.configure(allowedCIDRs=["10.65.0.3/32", "fd00:65::/64"])
        moving.announce()
        await moving.until_state("Live")
        assert witness.told() == ["+fd00:65::2 512"]
        await moving.until_says("AddressNotAllowed", "True", "NotAllowed")
        moving.configure()
        assert witness.told() == ["+10.65.0.2 512"]


def asyncio_time() -> float:
    """Return the time by which the loop's alarms are set."""
    return asyncio.get_running_loop().time()


def listener_due(world: World) -> float | None:
    """Return when the guest is asked next."""
    listener = world.loop.listening.of(KEY)
    assert listener
    assert listener._listener
    return listener._listener.series.due


def is_asked(guest: socket.socket) -> bool:
    """Tell whether somebody has asked the guest for its IPv4 address."""
    return any(frame[12:14] == b"\x08\x06" and frame[21] == 1 for frame in drain(guest))


def drain(guest: socket.socket) -> list[bytes]:
    """Return the frames that have reached the guest."""
    guest.settimeout(0)
    frames: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(guest.recv(2048))
    return frames


async def test_another_gateway_asks_from_now_on_and_touches_no_route(moving: World) -> None:
    async with untouched(moving):
        moving.configure(gateways=["10.65.0.1", "192.0.2.1", "fd00:65::1"])
        listener = moving.loop.listening.of(KEY)
        assert listener
        assert {str(asker) for asker in listener._questions.askers if asker.version == 4} == {
            "10.65.0.1"
        }
        assert len(listener._questions.corrections) == 2


@pytest.mark.parametrize("known", ["configured", "on its device", "named", "not"])
async def test_a_guest_that_answers_its_own_subnet_alone_is_heard(world: World, known: str) -> None:
    """arp_ignore=2: the sender of a question has to be of the guest's own subnet."""
    world.node.guest_runs("ip link set eth arp on")
    world.node.guest_runs("ip address add 10.65.0.2/24 dev eth")
    world.node.guest_runs("sysctl -qw net.ipv4.conf.all.arp_ignore=2")
    if known == "configured":
        world.configure(gateways=["192.0.2.1", "10.65.0.1"])
    if known == "on its device":
        world.node.run("ip address add 10.65.0.1/32 dev tap0")
        world.node.run(f"ip route add {CNI}")
        await asyncio.sleep(0.02)
    named = ["10.65.0.1"] if known == "named" else []
    world.put(said="source", gateways=named)
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded", gateways=named)
    if known == "not":
        await world.until_state("Withdrawn")
    else:
        await world.until_says("StillAlive", "True", "GuestAnswers")
        await world.shows(NORMAL_V4)


async def test_a_guess_of_the_gateway_is_told_after_a_cutover(live: World) -> None:
    """Its interfaces have a MAC of their own here, as on every node."""
    assert ("vm", "GatewayAssumed") not in live.reports.events
    live.put("third", said="target", interface="tap1", ips=["10.65.0.9"])
    await live.until_listening("third")
    live.announce("third")
    await live.until(lambda: ("third", "GatewayAssumed") in live.reports.events)
