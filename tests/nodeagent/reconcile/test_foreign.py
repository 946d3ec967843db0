"""The loop and others' routes: parked, given back, fought with, won against."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, CNI_V6, NORMAL_V4, RARP, World, count

from handover_nodeagent import metrics

pytestmark = pytest.mark.root


async def test_a_foreign_route_is_parked_under_ours(world: World) -> None:
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 3")
    world.put()
    await world.shows(NORMAL_V4)
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
async def test_a_foreign_route_that_comes_later_is_parked(world: World) -> None:
    world.put(said="target")
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 3")
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 3")
    await world.shows("fd00:65::2 dev tap0 ... metric 1024")
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.shows()
    assert len(world.parked()) == 2


async def test_a_foreign_route_of_our_metric_gives_way(world: World) -> None:
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 3 metric 1024")
    world.put(ips=["fd00:65::2"])
    await world.shows("fd00:65::2 dev tap0 proto 88 metric 1024")
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("is_killed", [False, True], ids=["same agent", "next agent"])
async def test_a_parked_route_is_given_back_with_the_endpoints_end(
    world: World, *, is_killed: bool
) -> None:
    """With all that its owner gave it, of which nobody here knows but the kernel."""
    attributes = "scope link proto 3 metric 7 mtu lock 1400 advmss 1300 window 9"
    world.node.run(f"ip route add 10.65.0.2 dev tap0 {attributes}")
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 3 metric 7 pref high hoplimit 9")
    before = world.routes()
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 proto 88 metric 1024")
    if is_killed:
        await world.kill()
        await world.start(synced=False)
        world.put(ips=["10.65.0.2", "fd00:65::2"])
        world.sink.synced()
        assert world.state() == "Base"
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: world.routes() == before)
    assert world.parked() == []
    await world.until(lambda: ("vm", "RoutesGivenBack") in world.reports.events)


@pytest.mark.usefixtures("mute")
async def test_a_parked_route_comes_back_before_ours_goes(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put()
    await world.shows(NORMAL_V4)
    with watching() as witness:
        world.delete()
        await world.until_state("gone")
        assert witness.told() == ["+10.65.0.2 0", "-10.65.0.2 1024"]


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("said", ["target", "target Aborted"], ids=["Target", "Withdrawn"])
async def test_a_route_of_a_guest_that_never_came_is_not_given_back(
    world: World, said: str
) -> None:
    """It would draw what the guest should get where it runs; it goes with its interface."""
    world.node.run(f"ip route add {CNI}")
    world.put(said="target")
    world.put(said=said)
    await world.shows()
    with watching() as witness:
        world.delete()
        assert world.state() == "gone"
        await world.until(lambda: not world.loop.endpoints)
        assert witness.told() == []
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("interface", ["tap0", "later0"], ids=["known", "unknown"])
async def test_a_cnis_route_is_gone_within_the_turn_of_the_loop_that_hears_of_it(
    world: World, interface: str
) -> None:
    """Guards the way to it: no timer, no thread and no other write before it."""
    world.put(said="target", interface=interface)
    await world.until(lambda: world.condition("Programmed") is not None)
    with watching() as witness:
        for _ in range(3):
            world.node.run(f"ip route add {CNI}")
            # The loop looks at its sockets, and then acts on what it saw.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert witness.told() == ["+10.65.0.2 0", "-10.65.0.2 0"]


@pytest.mark.usefixtures("mute")
async def test_a_thousand_routes_of_a_cni_do_not_keep_a_guest_waiting(world: World) -> None:
    """They come one by one; between some of them the listener has its turn."""
    others = [f"10.65.{8 + n // 250}.{n % 250}" for n in range(1000)]
    for number, address in enumerate(others):
        world.put(f"other{number}", interface="tap1", ips=[address], mac=None)
    world.put(said="target")
    await world.until_listening()
    await world.until(lambda: not world.loop.publisher._unreported)
    with contextlib.closing(world.node.guest_socket()) as guest:
        world.node.run_batch([f"route add {one} dev tap1 scope link proto 5" for one in others])
        guest.send(RARP)
        before = count(metrics.PARKED, "parked")
        while world.state() == "Target":  # noqa: ASYNC110  each turn of the loop counts
            await asyncio.sleep(0)
        assert count(metrics.PARKED, "parked") - before < 500
    await world.until(lambda: count(metrics.PARKED, "parked") - before == 1000)
    assert len(world.routes()) == 1001


@pytest.mark.usefixtures("mute")
async def test_a_route_that_beats_an_elevated_one_is_reported(world: World) -> None:
    world.node.run("ip route add 192.0.2.1 dev tap1")
    world.node.run("ip route add 10.65.0.2 via 192.0.2.1 metric 100 proto bird")
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_says("Programmed", "False", "Shadowed")
    await world.until(lambda: ("vm", "Shadowed") in world.reports.events)


async def test_a_normal_route_may_lose_to_the_one_that_bgp_brings(world: World) -> None:
    world.node.run("ip route add 192.0.2.1 dev tap1")
    world.node.run("ip route add 10.65.0.2 via 192.0.2.1 metric 768 proto bird")
    world.put(said="source")
    await world.until_says("Programmed", "True", "Programmed")
    assert ("vm", "Shadowed") not in world.reports.events


async def test_a_base_without_an_interface_leaves_the_cnis_route_alone(world: World) -> None:
    """Guards: no VM loses its only route because nobody can name its interface."""
    world.node.run(f"ip route add {CNI}")
    world.put(interface="later0")
    await world.until_says("Programmed", "False", "InterfaceNotFound")
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
    await world.until_says("Programmed", "False", "Refused")
    await fight
    assert count(metrics.PARKED, "parked") - before <= 20
    await world.until(lambda: ("vm", "RouteContested") in world.reports.events)
    await world.shows(NORMAL_V4)
    await world.until_says("Programmed", "True", "Programmed")


async def _fight(node: Node, command: str, rounds: int) -> None:
    for _ in range(rounds):
        node.run(command)
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("mute")
async def test_a_hidden_foreign_route_of_our_metric_gives_way_too(world: World) -> None:
    """The lookup sees the winner only; in IPv6 the loser keeps ours out with EEXIST."""
    world.node.run("ip -6 route add fd00:65::2 via fe80::9 dev tap1 metric 32")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.put(ips=["fd00:65::2"])
    await world.until(lambda: any("proto 88" in line for line in world.routes()))
    await world.until(lambda: len(world.parked()) == 1)


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("interface", ["tap0", "later0", None], ids=["known", "later", "by route"])
async def test_a_foreign_route_below_a_speakers_is_parked_under_a_silent_target(
    world: World, interface: str | None
) -> None:
    """In IPv6 a CNI's metric is 1024, and that of the route that BGP brings is lower.

    Left there it would draw the guest's packets as soon as BGP takes its own one back.
    """
    world.node.run("ip -6 route add fd00:65::2 via fe80::9 dev tap1 metric 768 proto bird")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 5 metric 2048")
    await world.at_rest()
    world.put(said="target", interface=interface, ips=["fd00:65::2"])
    await world.shows("fd00:65::2 via fe80::9 ... metric 768")
    assert len(world.parked()) == 2
    if interface is None:
        await world.until_listening()


@pytest.mark.usefixtures("mute")
async def test_an_address_that_the_spec_adds_is_looked_at_below_a_speakers_route(
    world: World,
) -> None:
    world.node.run("ip -6 route add fd00:65::2 via fe80::9 dev tap1 metric 768 proto bird")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.put(said="target")
    await world.at_rest()
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.shows("fd00:65::2 via fe80::9 ... metric 768")
    assert len(world.parked()) == 1


async def test_an_address_that_the_spec_drops_goes_back_to_the_cni(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(ips=["10.65.0.2", "10.65.0.3"])
    await world.until(lambda: len(world.parked()) == 1)
    world.put(ips=["10.65.0.3"])
    await world.shows("10.65.0.2 dev tap0 proto 5", "10.65.0.3 dev tap0 proto 88")
    assert world.parked() == []


@pytest.mark.usefixtures("mute")
async def test_a_second_agent_finds_what_the_first_one_parked(world: World) -> None:
    world.node.run(f"ip route add {CNI}")
    world.put(said="target")
    await world.shows()
    await world.kill()
    await world.start(synced=False)
    world.sink.synced()
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


@pytest.mark.usefixtures("mute")
async def test_a_fight_does_not_keep_our_own_route_from_being_withdrawn(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    fight = asyncio.create_task(_fight(world.node, f"ip route replace {CNI}", rounds=60))
    await world.until_says("Programmed", "False", "Refused")
    world.put(said="source Succeeded")
    await world.until_state("Withdrawn")
    assert not [line for line in world.routes() if "proto 88" in line]
    await fight
    await world.shows()
