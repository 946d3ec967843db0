"""The loop on a real kernel when things go wrong: others' routes, lost memory, other settings."""

import asyncio
import contextlib
import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodeagent.kernel.conftest import Node
from tests.nodeagent.kernel.test_reconcile import (
    ELEVATED_V4,
    MAC,
    NORMAL_V4,
    RARP,
    World,
)

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal
from handover_nodeagent import metrics, reconcile
from handover_nodeagent.sniff.verdict import Accepted

pytestmark = pytest.mark.root

CNI = "10.65.0.2 dev tap0 scope link proto 5"
CNI_V6 = "fd00:65::2 dev tap0 proto 5 metric 1024"
GUARD = "nft list ruleset arp"


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    """Start an agent's loop on the node of this test."""
    it = await World(node, tmp_path).start()
    yield it
    await it.kill()


@pytest.fixture
def mute(node: Node) -> None:
    """Let the guest's kernel answer nothing: no guest is there."""
    node.guest_runs("ip link set eth arp off")


@pytest.fixture
def alive(node: Node) -> None:
    """Let the guest's kernel answer for the VM's address."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")


def settings(**fields: Any) -> Settings:
    """Make a configuration as the API would tell it."""
    return Settings.model_validate(fields)


def count(counter: Any, *labels: str) -> float:
    """Read a counter."""
    return float((counter.labels(*labels) if labels else counter)._value.get())


# Foreign routes.


async def test_a_base_without_an_interface_leaves_the_cnis_route_alone(world: World) -> None:
    """Guards: no VM loses its only route because nobody can name its interface."""
    world.node.run(f"ip route add {CNI}")
    world.put(interface="later0")
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    await world.shows("10.65.0.2 dev tap0 proto 5")
    assert world.parked() == []


@pytest.mark.usefixtures("mute")
async def test_a_target_without_an_interface_parks_the_cnis_route(world: World) -> None:
    world.put(said="target", interface="later0")
    world.node.run(f"ip route add {CNI}")
    await world.shows()
    assert len(world.parked()) == 1


async def test_a_route_that_took_our_ones_place_is_parked_and_ours_is_back(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.node.run("ip route replace 10.65.0.2 dev tap1 scope link metric 1024 proto 5")
    await world.shows("10.65.0.2 dev tap0 proto 88 ... metric 1024")
    await world.until(lambda: len(world.parked()) == 1)


@pytest.mark.usefixtures("mute")
async def test_only_what_was_parked_is_given_back(world: World) -> None:
    """The CNI replaced its route before we could park the first version of it."""
    world.put()
    await world.shows(NORMAL_V4)
    world.node.run(f"ip route add {CNI}")
    world.node.run("ip route replace 10.65.0.2 dev tap1 scope link proto 5")
    await world.until(lambda: world.parked() and "tap1" in world.parked()[0])
    await world.shows(NORMAL_V4)
    was_parked = len(world.parked())
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: not world.parked())
    assert len(world.routes()) == was_parked


async def test_a_fight_with_a_cni_is_bounded_and_told(world: World) -> None:
    """Guards: parking as fast as somebody re-adds would be an endless loop of both."""
    world.put()
    await world.shows(NORMAL_V4)
    before = count(metrics.PARKED, "parked")
    fight = asyncio.create_task(_fight(world.node, f"ip route replace {CNI}", rounds=120))
    await world.until(lambda: world.condition("Programmed") == ("False", "Refused"))
    await fight
    assert count(metrics.PARKED, "parked") - before <= 20
    await world.until(lambda: ("vm", "RouteContested") in world.desk.events)
    await world.shows(NORMAL_V4)
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))


async def _fight(node: Node, command: str, rounds: int) -> None:
    for _ in range(rounds):
        node.run(command)
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("mute")
async def test_a_hidden_foreign_route_of_our_metric_gives_way_too(world: World) -> None:
    """The quick look sees the winner only; in IPv6 the loser keeps ours out with EEXIST."""
    world.node.run("ip -6 route add fd00:65::2 via fe80::9 dev tap1 metric 32")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.put(ips=["fd00:65::2"])
    await world.until(lambda: any("proto 88" in line for line in world.routes()))
    await world.until(lambda: len(world.parked()) == 1)


# Several endpoints with one address.


async def test_two_endpoints_with_one_address_are_both_told_so(world: World) -> None:
    world.put("old")
    world.put("new", interface="tap1")
    await world.until(lambda: world.condition("AddressShared", "old") == ("True", "Shared"))
    await world.until(lambda: world.condition("AddressShared", "new") == ("True", "Shared"))
    await world.shows("10.65.0.2 dev tap0 ... metric 1024")
    world.delete("new")
    await world.until_state("gone", "new")
    await world.until(lambda: world.condition("AddressShared", "old") is None)


@pytest.mark.usefixtures("mute")
async def test_a_live_endpoint_beats_one_in_time_wait(world: World) -> None:
    world.put("old", said="target", uid="m0", interface="tap1", mac=None)
    world.put("old", said="target Succeeded", uid="m0", interface="tap1", mac=None)
    assert world.state("old") == "TimeWait"
    await world.shows("10.65.0.2 dev tap1 ... metric 512")
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.send()
    await world.until_state("Live")
    await world.shows(ELEVATED_V4)


# What becomes ours, and what does no longer.


async def test_an_address_that_the_spec_drops_goes_back_to_the_cni(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(ips=["10.65.0.2", "10.65.0.3"])
    await world.until(lambda: len(world.parked()) == 1)
    world.put(ips=["10.65.0.3"])
    await world.shows("10.65.0.2 dev tap0 proto 5", "10.65.0.3 dev tap0 proto 88")
    assert world.parked() == []


async def test_an_address_that_is_not_allowed_any_more_goes_back_to_the_cni(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(ips=["10.65.0.2", "10.65.0.3"])
    await world.until(lambda: len(world.parked()) == 1)
    world.loop.configure(settings(allowedCIDRs=["192.0.2.0/24"]))
    await world.shows("10.65.0.2 dev tap0 proto 5")
    assert world.parked() == []
    world.loop.configure(settings())
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap0 ... metric 1024")


async def test_route_ownership_migrations_gives_the_cnis_route_back(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(routeOwnership="migrations"))
    await world.shows("10.65.0.2 dev tap0 proto 5")
    await world.until(lambda: world.condition("Programmed") == ("False", "NotOwned"))
    world.put(said="source")
    await world.shows(NORMAL_V4)
    assert len(world.parked()) == 1


async def test_what_is_not_ours_any_more_keeps_the_only_route_it_has(world: World) -> None:
    """Guards: with nothing to give back, taking ours out would cut the VM off."""
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(routeOwnership="migrations"))
    await world.until(lambda: world.condition("Programmed") == ("False", "NotOwned"))
    await world.shows(NORMAL_V4)
    world.node.run(f"ip route add {CNI}")
    await world.shows("10.65.0.2 dev tap0 proto 5")


# Modes.


async def test_observe_writes_no_guard_either(world: World) -> None:
    world.loop.configure(settings(mode="observe"))
    world.put()
    await world.until(lambda: world.condition("Programmed") == ("False", "NotActive"))
    await asyncio.to_thread(lambda: None)
    assert "10.65.0.2" not in world.node.run(GUARD)
    world.loop.configure(settings())
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))


@pytest.mark.usefixtures("alive")
async def test_paused_leaves_everything_as_it_is(world: World) -> None:
    """Neither hears nor asks nor decides; what was said meanwhile counts as after a restart."""
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(mode="paused"))
    world.put(said="source Succeeded")
    world.put("other", said="target", ips=["10.65.0.3"])
    resident = world.loop.residents[ObjectKey("default", "other")]
    assert resident.ear is None
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)
    world.loop.configure(settings())
    assert world.state() == "Asking"
    await world.until(lambda: world.condition("StillAlive") == ("True", "GuestAnswers"))
    await world.shows(NORMAL_V4)
    assert world.loop.residents[ObjectKey("default", "other")].ear is not None


@pytest.mark.usefixtures("mute")
async def test_what_is_deleted_while_paused_is_asked_about_afterwards(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(mode="paused"))
    world.delete()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)
    world.loop.configure(settings())
    await world.until_state("gone")
    await world.shows()


# Configuration.


async def test_a_setting_that_is_none_of_the_kernels_touches_nothing_there(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    before = count(metrics.GUARD, "change"), count(metrics.GUARD, "replace")
    writes = world.loop.router.writes
    world.loop.configure(settings(targetTimeout="5m", probeInterval="100ms"))
    assert world.loop.router.writes == writes
    world.loop.configure(settings(ipv4NormalRoutePriority=2048))
    await world.shows("10.65.0.2 dev tap0 ... metric 2048")
    await asyncio.sleep(0.05)
    assert before == (count(metrics.GUARD, "change"), count(metrics.GUARD, "replace"))


async def test_another_protocol_number_is_followed_in_place(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(routeProtocol=77))
    await world.shows("10.65.0.2 dev tap0 proto 77 ... metric 1024")
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows("10.65.0.2 dev tap0 proto 77 ... metric 1024")


async def test_another_table_is_followed_and_watched(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(routeTable=300))
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
    world.loop.configure(settings(liveMigrationRouteConvergenceTime="1ms"))
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


# What the agent learns and remembers.


@pytest.mark.usefixtures("mute")
async def test_a_mac_that_the_announcement_tells_is_seeded(world: World) -> None:
    world.put(said="target", mac=None)
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until(lambda: MAC in world.node.run("ip neigh show 10.65.0.2 dev tap0"))


async def test_an_unreadable_version_at_the_start_is_no_deletion(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    await world.start(synced=False)
    world.put(ips=["nonsense"])
    world.loop.synced()
    assert world.state() == "Base"
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_an_object_that_comes_back_as_another_while_its_guest_is_asked(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    assert world.state() == "Asking"
    world.put(object_uid="uid-second")
    assert world.state() == "Base"
    await asyncio.sleep(0.3)
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
    monkeypatch.setattr(reconcile, "_now", lambda: dt.datetime.now(dt.UTC) - away)  # noqa: TID251
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


# Interfaces.


async def test_an_interface_that_only_the_cnis_route_told_is_not_forgotten(world: World) -> None:
    """A link that goes down takes the parked copy with it, and the CNI does not come back."""
    world.node.run(f"ip route add {CNI}")
    world.put(interface=None)
    await world.shows(NORMAL_V4)
    world.node.run("ip link set tap0 down")
    await world.shows()
    world.node.run("ip link set tap0 up")
    await world.shows(NORMAL_V4)
    await world.kill()
    await world.start()
    world.put(interface=None)
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("alive")
async def test_an_orphan_outlives_a_link_that_was_down(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    world.node.run("ip link set tap0 down")
    await world.shows()
    await asyncio.sleep(0.05)
    world.node.run("ip link set tap0 up")
    await world.shows(NORMAL_V4)


async def test_an_interface_that_moved_away_leaves_nothing_behind(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    world.node.run(f"ip link set tap0 netns /proc/{os.getpid()}/fd/{world.node.guest}")
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    await world.until(lambda: "10.65.0.2" not in world.node.run(GUARD))
    assert world.routes() == []
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    world.node.guest_runs(f"ip link set tap0 netns /proc/{os.getpid()}/fd/{own}")
    os.close(own)
    world.node.run("ip link set tap0 up")
    await world.shows(NORMAL_V4)
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))


async def test_a_guard_that_cannot_be_is_told_and_holds_nobody_up(world: World) -> None:
    """An interface that nft cannot name must not delay the guard of all others."""
    world.node.run('ip link add bad"0 type veth peer name far9')
    world.node.run('ip link set bad"0 up')
    world.put("bad", interface='bad"0', ips=["10.65.0.9"])
    await world.until(lambda: world.condition("Programmed", "bad") == ("False", "Refused"))
    await asyncio.sleep(1.6)
    world.put()
    began = asyncio.get_running_loop().time()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    assert asyncio.get_running_loop().time() - began < 1.0
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))


# Notifications that were lost.


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


# Many at once.


@pytest.mark.usefixtures("mute")
async def test_twenty_announcements_at_once_have_twenty_routes_before_any_report(
    world: World,
) -> None:
    addresses = [f"10.65.1.{number}" for number in range(1, 21)]
    for number, address in enumerate(addresses):
        world.put(f"vm{number}", said="target", ips=[address], mac=None)
    await world.until(
        lambda: all(one.ear and one.ear.is_open for one in world.loop.residents.values())
    )
    with contextlib.closing(world.node.guest_socket()) as guest:
        guest.send(RARP)
        await world.until(lambda: all(world.state(f"vm{n}") == "Live" for n in range(20)))
    shown = [line for line in world.routes() if "metric 512" in line]
    assert len(shown) == len(addresses)


@pytest.mark.usefixtures("mute")
async def test_an_announcement_may_come_between_the_reports_of_a_whole_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: telling all at once would hold the loop for as long as a node has endpoints."""
    for number in range(200):
        world.put(f"other{number}", interface="tap1", ips=[f"10.65.3.{number}"])
    pending = world.loop._telling._unreported
    await world.until(lambda: not pending)
    told = asyncio.Event()
    seen: list[int] = []
    tick = world.loop._telling._tick
    monkeypatch.setattr(
        world.loop._telling, "_tick", _then(tick, lambda: seen.append(len(pending)), told.set)
    )
    world.loop.configure(settings(targetTimeout="5m"))
    assert len(pending) == 200
    await asyncio.wait_for(told.wait(), 5)
    assert 150 < seen[0] < 200
    await world.until(lambda: not pending)


def _then(*calls: Callable[[], None]) -> Callable[[], None]:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them


async def test_two_interfaces_of_one_vm_are_two_endpoints(world: World) -> None:
    world.put("vm", ips=["10.65.0.2", "fd00:65::2"])
    world.put("vm-second", workload="vm", interface="tap1", ips=["10.65.0.3", "fd00:65::3"])
    await world.shows(
        "10.65.0.2 dev tap0 ... metric 1024",
        "10.65.0.3 dev tap1 ... metric 1024",
        "fd00:65::2 dev tap0 ... metric 1024",
        "fd00:65::3 dev tap1 ... metric 1024",
    )
    await world.until(lambda: "saddr ip 10.65.0.3" in world.node.run(GUARD))
    assert "saddr ip 10.65.0.2" in world.node.run(GUARD)


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
async def test_a_role_that_changes_in_the_moment_of_the_announcement_wins_or_loses_whole(
    world: World,
) -> None:
    """Either the guest was first, and is asked, or the abort was, and nothing is programmed."""
    for round_ in range(10):
        name, uid = f"vm{round_}", f"m{round_}"
        world.put(name, said="target", uid=uid)
        await world.until(lambda: world.condition("Listening", name) == ("True", "Listening"))  # noqa: B023
        world.send()
        await asyncio.sleep(0.0004 * (round_ % 5))
        world.put(name, said="target Aborted", uid=uid)
        assert world.state(name) in {"Withdrawn", "Asking"}
        await world.until_state("Withdrawn", name)
        await world.shows()
        world.delete(name)
        await world.until_state("gone", name)


@pytest.mark.usefixtures("alive")
async def test_doubt_grows_more_patient(world: World) -> None:
    world.put(said="source")
    world.put(said="source Succeeded")
    resident = world.loop.residents[ObjectKey("default", "vm")]

    def patience() -> float:
        doubt = resident.machine.doubt
        return doubt.patience.total_seconds() if doubt else 0.0

    await world.until(lambda: patience() == 1)
    await world.until(lambda: patience() == 2)
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_a_second_agent_finds_what_the_first_one_parked(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(said="target")
    await world.shows()
    await world.kill()
    await world.start(synced=False)
    world.loop.synced()
    await world.until_state("gone")
    await world.shows()
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
async def test_a_stale_route_gives_way_to_the_cnis_own(node: Node, tmp_path: Path) -> None:
    """The memory is lost and the endpoint too: what was parked comes back before ours goes."""
    world = await World(node, tmp_path / "first").start()
    node.run(f"ip route add {CNI}")
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    world = await World(node, tmp_path / "second").start()
    await world.shows("10.65.0.2 dev tap0 proto 5")
    await world.kill()


@contextlib.contextmanager
def deaf(world: World) -> Iterator[None]:
    """Let what happens in the kernel meanwhile be told afterwards."""
    subscription = world.observation._notifications._subscription
    take, kept = subscription._take, list[bytes]()
    subscription._take = kept.append
    yield
    subscription._take = take
    for message in kept:
        take(message)


def announce(world: World) -> None:
    """Let the endpoint's listener have heard its guest."""
    resident = world.loop.residents[ObjectKey("default", "vm")]
    accepted = Accepted(Signal.RARP, bytes.fromhex(MAC.replace(":", "")))
    world.loop.heard(resident.key, resident.machine.episode, accepted, time.time_ns())


@pytest.mark.usefixtures("mute")
async def test_a_route_of_the_elevated_metric_is_no_obstacle_to_a_cutover(world: World) -> None:
    """EEXIST in the middle of a prepared cutover."""
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    with deaf(world):
        world.node.run("ip route add 10.65.0.2 dev tap1 scope link proto 5 metric 512")
        world.node.run("ip -6 route add fd00:65::2 dev tap1 proto 5 metric 512")
        announce(world)
        await world.until_state("Live")
    await world.shows(ELEVATED_V4, "fd00:65::2 dev tap0 proto 88 metric 512")
    assert len(world.parked()) == 2
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))


@pytest.mark.usefixtures("mute")
async def test_an_interface_that_vanished_before_the_cutover_is_waited_for(world: World) -> None:
    """ENODEV in the middle of a prepared cutover, and the name comes back with another index."""
    world.put(said="target")
    with deaf(world):
        world.node.run("ip link delete tap0")
        announce(world)
        await world.until_state("Live")
        await world.until(lambda: world.condition("Programmed") == ("False", "Refused"))
    world.node.make_tap0()
    await world.shows(ELEVATED_V4)
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))


@pytest.mark.usefixtures("mute")
async def test_a_fight_does_not_keep_our_own_route_from_being_withdrawn(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    fight = asyncio.create_task(_fight(world.node, f"ip route replace {CNI}", rounds=60))
    await world.until(lambda: world.condition("Programmed") == ("False", "Refused"))
    world.put(said="source Succeeded")
    await world.until_state("Withdrawn")
    assert not [line for line in world.routes() if "proto 88" in line]
    await fight
    await world.shows()


@pytest.mark.usefixtures("alive")
async def test_a_guest_that_came_while_nobody_ran_is_found_within_two_intervals(
    world: World,
) -> None:
    """Guards: without the probe the missed announcement would be missed for ever."""
    world.node.guest_runs("ip link set eth arp off")
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    await world.kill()
    world.node.guest_runs("ip link set eth arp on")
    await world.start(synced=False)
    began = asyncio.get_running_loop().time()
    await world.until_state("Live")
    interval = world.settings.probe_interval.total_seconds()
    assert asyncio.get_running_loop().time() - began < 2 * interval


@pytest.mark.usefixtures("alive")
async def test_a_kept_route_of_a_guest_that_answers_outlives_its_endpoint(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(settings(routeOwnership="migrations"))
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: ("vm", "OrphanRoute") in world.desk.events)
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_an_interface_that_is_renamed_and_back_is_followed_each_time(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    world.node.run("ip link set tap0 name else0")
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    await world.until(lambda: "10.65.0.2" not in world.node.run(GUARD))
    assert world.routes() == []
    world.node.run("ip link set else0 name tap0")
    await world.shows(NORMAL_V4)
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))


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
    router = world.loop.router
    assert router.addresses() == frozenset()
    assert not router.foreigners._standing
    assert not world.loop.residents
    assert not world.loop._telling._conditions
    assert not router.refused
    await world.until(lambda: not list((world.directory / "endpoints").iterdir()))
