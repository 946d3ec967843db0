"""Many endpoints in one loop: with one address, at one instant, one after the other."""

import asyncio
import contextlib
import socket
import time
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from tests.nodeagent.witness import watching
from tests.nodeagent.world import ELEVATED_V4, MAC, NORMAL_V4, RARP, World

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal
from handover_nodeagent.reconcile import cutover
from handover_nodeagent.reconcile.endpoint import Endpoint, Prepared
from handover_nodeagent.sniff.verdict import Accepted

pytestmark = pytest.mark.root


async def test_two_endpoints_with_one_address_are_both_told_so(world: World) -> None:
    world.put("old")
    world.put("new", interface="tap1")
    await world.until_says("AddressShared", "True", "Shared", "old")
    await world.until_says("AddressShared", "True", "Shared", "new")
    assert world.message("AddressShared", "old") == "10.65.0.2 is also named by default/new"
    assert world.message("AddressShared", "new") == "10.65.0.2 is also named by default/old"
    await world.shows("10.65.0.2 dev tap0 ... metric 1024")
    world.delete("new")
    await world.until_state("gone", "new")
    await world.until(lambda: world.condition("AddressShared", "old") is None)


@pytest.mark.usefixtures("mute")
async def test_a_vm_that_moves_within_a_node_always_has_a_route(world: World) -> None:
    """Both of its pods are here and share its address for the length of the migration."""
    world.configure(liveMigrationRouteConvergenceTime="50ms")
    world.put("old", said="source", interface="tap1", mac=None)
    await world.shows("10.65.0.2 dev tap1 ... metric 1024")
    with watching() as witness:
        world.put(said="target")
        await world.until_listening()
        world.send()
        await world.until_state("Live")
        world.put("old", said="source Succeeded", interface="tap1", mac=None)
        world.node.run("ip link delete tap1")
        await world.until(lambda: world.condition("Programmed", "old") is not None)
        world.delete("old")
        await world.until_state("gone", "old")
        world.put(said="target Succeeded")
        await world.until_state("Base")
        assert without_gap(["+10.65.0.2 1024", *witness.told()])
    await world.shows(NORMAL_V4)


def without_gap(told: list[str]) -> bool:
    """Tell whether there was a route at each moment from the first line on."""
    there = 0
    for line in told:
        there += {"+": 1, "-": -1, "=": 0}[line[0]]
        if there == 0:
            return False
    return True


@pytest.mark.usefixtures("mute")
async def test_a_live_endpoint_beats_one_in_time_wait(world: World) -> None:
    world.put("with-a-later-name", said="target", uid="m0", interface="tap1", mac=None)
    world.put("with-a-later-name", said="target Succeeded", uid="m0", interface="tap1", mac=None)
    assert world.state("with-a-later-name") == "TimeWait"
    await world.shows("10.65.0.2 dev tap1 ... metric 512")
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
async def test_twenty_announcements_at_once_have_twenty_routes_before_any_report(
    world: World,
) -> None:
    addresses = [f"10.65.1.{number}" for number in range(1, 21)]
    for number, address in enumerate(addresses):
        world.put(f"vm{number}", said="target", ips=[address], mac=None)
    await world.until(
        lambda: all(
            (listener := world.loop.listening.of(key)) and listener.is_open
            for key in world.loop.endpoints
        )
    )
    with contextlib.closing(world.node.guest_socket()) as guest:
        guest.send(RARP)
        await world.until(lambda: all(world.state(f"vm{n}") == "Live" for n in range(20)))
    shown = [line for line in world.routes() if "metric 512" in line]
    assert len(shown) == len(addresses)


def announce(world: World, name: str) -> None:
    endpoint = world.loop.endpoints[ObjectKey("default", name)]
    accepted = Accepted(Signal.RARP, bytes.fromhex(MAC.replace(":", "")))
    world.loop.cutovers.heard(endpoint.key, endpoint.machine.episode, accepted, time.time_ns())


@pytest.mark.usefixtures("mute")
async def test_a_machine_waits_until_no_other_guest_has_just_announced_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: twenty guests' routes go before one guest's step and reports."""
    quiet = 0.05
    monkeypatch.setattr(cutover, "QUIET", quiet)
    for number in range(2):
        world.put(f"vm{number}", said="target", ips=[f"10.65.1.{number}"])
    loop = asyncio.get_running_loop()
    announce(world, "vm0")
    announced: list[float] = []
    loop.call_later(0.6 * quiet, announce, world, "vm1")
    loop.call_later(0.6 * quiet, lambda: announced.append(loop.time()))
    await world.until(lambda: world.state("vm0") == "Live")
    assert loop.time() - announced[0] >= 0.99 * quiet


@pytest.mark.usefixtures("mute")
async def test_a_guest_may_announce_itself_between_two_steps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: its route does not wait until the machines of all others have stepped."""
    for number in range(3):
        world.put(f"vm{number}", said="target", ips=[f"10.65.1.{number}"])
    await world.until_listening("vm2")
    send, seen = world.loop.cutovers._send, list[str]()

    def note(prepared: Prepared) -> Sequence[int]:
        seen.append(world.state("vm1"))
        return send(prepared)

    async def await_first_step() -> None:
        await world.loop.moved()
        announce(world, "vm2")

    third = asyncio.create_task(await_first_step())
    await asyncio.sleep(0)
    monkeypatch.setattr(world.loop.cutovers, "_send", note)
    announce(world, "vm0")
    announce(world, "vm1")
    await third
    assert seen == ["Target", "Target", "Target"]
    await world.until(lambda: world.state("vm2") == "Live")


@pytest.mark.usefixtures("mute")
async def test_a_step_that_fails_keeps_no_other_machine_from_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the one timer of all: else whoever announces itself later would never be Live."""
    for number in range(3):
        world.put(f"vm{number}", said="target", ips=[f"10.65.1.{number}"])
    catch_up, failed = world.loop.cutovers.catch_up, list[str]()

    def fail_once(endpoint: Endpoint) -> None:
        if endpoint.key.name == "vm0" and not failed:
            failed.append("vm0")
            raise ArithmeticError
        catch_up(endpoint)

    monkeypatch.setattr(world.loop.cutovers, "catch_up", fail_once)
    announce(world, "vm0")
    announce(world, "vm1")
    await world.until(lambda: world.state("vm1") == "Live")
    announce(world, "vm2")
    await world.until(lambda: world.state("vm2") == "Live")
    assert failed == ["vm0"]


@pytest.mark.usefixtures("mute")
async def test_a_machine_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: guests that go on announcing themselves do not hold up the first one's step."""
    quiet = 0.03
    monkeypatch.setattr(cutover, "QUIET", quiet)
    monkeypatch.setattr(cutover, "ROUNDS", 2)
    for number in range(40):
        world.put(f"vm{number}", said="target", ips=[f"10.65.1.{number}"])
    loop = asyncio.get_running_loop()
    for number in range(40):
        loop.call_later(0.6 * quiet * number, announce, world, f"vm{number}")
    await world.until(lambda: world.state("vm0") == "Live")
    assert world.loop.endpoints[ObjectKey("default", "vm39")].prepared is not None
    await world.until(lambda: world.state("vm39") == "Live")


@pytest.mark.usefixtures("mute")
async def test_an_announcement_may_come_between_the_reports_of_a_whole_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: telling all at once would hold the loop for as long as a node has endpoints."""
    for number in range(200):
        world.put(f"other{number}", interface="tap1", ips=[f"10.65.3.{number}"])
    pending = world.loop.publisher._unreported
    await world.until(lambda: not pending)
    told = asyncio.Event()
    seen: list[int] = []
    tick = world.loop.publisher._tick
    monkeypatch.setattr(
        world.loop.publisher, "_tick", _then(tick, lambda: seen.append(len(pending)), told.set)
    )
    world.configure(targetTimeout="5m")
    assert len(pending) == 200
    await asyncio.wait_for(told.wait(), 5)
    assert 150 < seen[0] < 200
    await world.until(lambda: not pending)


def _then(*calls: Callable[[], None]) -> Callable[[], None]:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them


@pytest.mark.usefixtures("mute")
async def test_endpoints_that_came_and_went_leave_no_trace(world: World) -> None:
    for number in range(40):
        name = f"vm{number}"
        world.put(name, said="target", ips=[f"10.65.4.{number}"])
        world.node.run(f"ip route add 10.65.4.{number} dev tap1 scope link proto 5")
        await world.until(lambda: len(world.parked()) == 1)
        world.node.run(f"ip route delete 10.65.4.{number} table 5254")
        world.delete(name)
        await world.until_state("gone", name)
    routes = world.loop.routes
    assert routes.known.ours.addresses() == frozenset()
    assert not routes.known.foreign._present
    assert not world.loop.endpoints
    assert not world.loop.publisher._conditions
    assert not world.loop.enforcer._refused
    await world.until(lambda: not list((world.directory / "endpoints").iterdir()))


@pytest.mark.usefixtures("mute")
async def test_a_flood_of_a_hostile_guest_leaves_nothing_in_memory(world: World) -> None:
    """Frames that pass the filter and change nothing, as fast as a thread can send them."""
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    world.put("other", said="target", interface="tap1", ips=["10.65.0.3"])
    await world.until_listening()
    tracemalloc.start()
    try:
        with contextlib.closing(world.node.guest_socket()) as guest:
            await asyncio.to_thread(flood, guest, 2_000)
            await asyncio.sleep(0.1)
            before, _ = tracemalloc.get_traced_memory()
            await asyncio.to_thread(flood, guest, 40_000)
            await asyncio.sleep(0.1)
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
    world.announce("other")
    await world.until_state("Live", "other")
    assert world.state() == "Target"


def flood(guest: socket.socket, number: int) -> None:
    """Send an NA that nobody asked for, as it should be; who sent it answers no question."""
    frame = bytes.fromhex(
        "333300000001 525400650002 86dd 60000000 0020 3aff"
        "fd000065000000000000000000000002 ff020000000000000000000000000001"
        "8800 0915 20000000 fd000065000000000000000000000002 0201 525400650002"
    )
    for _ in range(number):
        guest.send(frame)
