"""The loop and interfaces that come, go, move and change their names."""

import asyncio
import contextlib
import hashlib
import os

import pytest
from tests.nodeagent.node import V4
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, ELEVATED_V4, GUARD, NORMAL_V4, RARP, World

pytestmark = pytest.mark.root


async def test_routes_follow_a_link_that_was_down(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    both = (NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    await world.shows(*both)
    world.node.run("ip link set tap0 down")
    await world.shows()
    world.node.run("ip link set tap0 up")
    await world.shows(*both)


async def test_a_route_behind_which_nobody_is_does_not_count_as_programmed(world: World) -> None:
    """A tap whose QEMU has gone: its routes stay in the kernel, marked linkdown."""
    world.put()
    await world.until_says("Programmed", "True", "Programmed")
    world.node.guest_runs("ip link set eth down")
    await world.until_says("Programmed", "False", "LinkDown")
    assert "linkdown" in world.node.run("ip route show dev tap0")
    world.node.guest_runs("ip link set eth up")
    await world.until_says("Programmed", "True", "Programmed")


@pytest.mark.usefixtures("mute")
async def test_an_interface_made_anew_is_followed(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    world.node.run("ip link delete tap0")
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    world.node.make_tap0()
    world.node.guest_runs("ip link set eth arp off")
    await world.until_listening()
    world.node.await_shown("ip link show tap0", "state UP")
    world.send()
    await world.shows(ELEVATED_V4)


async def test_an_interface_that_does_not_exist_yet_is_awaited(world: World) -> None:
    world.put(interface="later0")
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    world.node.run("ip link set tap1 name later0")
    await world.shows("10.65.0.2 dev later0 ... metric 1024")


async def test_the_cnis_route_tells_the_interface(world: World) -> None:
    world.put(interface=None)
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link")
    await world.shows(NORMAL_V4)


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
    await world.until_says("Programmed", "False", "InterfaceNotFound")
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
    world.node.run("ip link set far9 up")
    world.put("bad", interface='bad"0', ips=["10.65.0.9"])
    await world.until_says("Unguarded", "True", "GuardRefused", "bad")
    await world.until_says("Programmed", "True", "Programmed", "bad")
    await asyncio.sleep(1.6)
    world.put()
    began = asyncio.get_running_loop().time()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    assert asyncio.get_running_loop().time() - began < 1.0
    await world.until_says("Programmed", "True", "Programmed")


async def test_two_interfaces_of_one_vm_are_two_endpoints(world: World) -> None:
    world.put("vm", ips=["10.65.0.2", "fd00:65::2"])
    world.put("vm-second", workload="vm", interface="tap1", ips=["10.65.0.3", "fd00:65::3"])
    await world.shows(
        "10.65.0.2 dev tap0 ... metric 1024",
        "10.65.0.3 dev tap1 ... metric 1024",
        "fd00:65::2 dev tap0 ... metric 1024",
        "fd00:65::3 dev tap1 ... metric 1024",
    )
    # Either may be guarded first.
    await world.until(lambda: "saddr ip 10.65.0.3" in world.node.run(GUARD))
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))


@pytest.mark.usefixtures("mute")
async def test_an_interface_that_is_renamed_and_back_is_followed_each_time(world: World) -> None:
    world.put()
    await world.until(lambda: "10.65.0.2" in world.node.run(GUARD))
    with watching() as witness:
        world.node.run("ip link set tap0 name else0")
        await world.until(lambda: world.guarded("else0") == ["10.65.0.2"])
        await world.until(lambda: world.guarded("tap0") == [])
        await world.until_says("InterfaceDoubted", "True", "WouldBeRefused")
        assert "it stays on else0" in world.message("InterfaceDoubted")
        world.node.run("ip link set else0 name tap0")
        await world.until(lambda: world.guarded("tap0") == ["10.65.0.2"])
        await world.until(lambda: world.condition("InterfaceDoubted") is None)
        assert witness.told() == []


@pytest.mark.parametrize("named", ["typo0", "lo"])
async def test_a_wrong_name_for_a_running_guests_interface_takes_no_route(
    world: World, named: str
) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    with watching() as witness:
        world.put(interface=named)
        await world.until_says("InterfaceDoubted", "True", "WouldBeRefused")
        assert witness.told() == []
    await world.until_says("Programmed", "True", "Programmed")


async def test_an_interface_with_calicos_name_for_the_pod_is_found(world: World) -> None:
    world.put(interface=None)
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    name = f"cali{hashlib.sha1(b'default.vm').hexdigest()[:11]}"  # noqa: S324  Calico's way
    world.node.run(f"ip link set tap1 name {name}")
    await world.shows(f"10.65.0.2 dev {name} ... metric 1024")


async def test_what_was_parked_goes_with_its_interface(world: World) -> None:
    """Nothing is given back that leads to an interface which is gone."""
    world.node.run(f"ip route add {CNI}")
    world.put()
    await world.until(lambda: len(world.parked()) == 1)
    world.node.run("ip link delete tap0")
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    assert world.parked() == []
    assert not world.loop.routes.known.foreign.has_parked(V4)
    world.node.make_tap0()
    await world.shows(NORMAL_V4)
    world.node.guest_runs("ip link set eth arp off")
    world.delete()
    await world.until_state("gone")
    await world.shows()
    assert ("vm", "RoutesGivenBack") not in world.reports.events


async def test_a_guest_whose_mac_nobody_knows_keeps_the_routes_that_it_has(world: World) -> None:
    """It cannot be asked, so it may be there."""
    world.put(said="source", mac=None)
    await world.shows(NORMAL_V4)
    world.node.run("ip neigh flush dev tap0")
    world.put(said="source Succeeded", mac=None)
    await world.until_says("StillAlive", "Unknown", "CannotAsk")
    await world.shows(NORMAL_V4)


async def test_a_guest_whose_mac_nobody_knows_gets_no_routes_for_being_unaskable(
    world: World,
) -> None:
    world.put(said="target", mac=None)
    world.put(said="source", mac=None)
    assert world.state() == "Asking"
    await world.until_state("Withdrawn")
    await world.shows()


async def test_an_interface_that_a_route_told_keeps_its_guard_under_another_name(
    world: World,
) -> None:
    """Neither route nor listener depends on the name; the guard does."""
    world.node.run(f"ip route add {CNI}")
    world.put(interface=None)
    await world.until(lambda: world.guarded("tap0") == ["10.65.0.2"])
    with watching() as witness:
        world.node.run("ip link set tap0 name else0")
        await world.until(lambda: world.guarded("else0") == ["10.65.0.2"])
        await world.until(lambda: world.guarded("tap0") == [])
        assert witness.told() == []
    await world.shows("10.65.0.2 dev else0 proto 88 ... metric 1024")
    world.put(interface=None, said="target")
    await world.until_state("Target")
    world.node.run("ip link set else0 name tap0")
    await world.until(lambda: world.guarded("tap0") == ["10.65.0.2"])
    world.send()
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
async def test_a_target_whose_interface_was_away_hears_its_guest_again(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    with contextlib.closing(world.node.guest_socket()) as guest:
        world.node.run(f"ip link set tap0 netns /proc/{os.getpid()}/fd/{world.node.guest}")
        await world.until_says("Listening", "False", "InterfaceNotFound")
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        world.node.guest_runs(f"ip link set tap0 netns /proc/{os.getpid()}/fd/{own}")
        os.close(own)
        world.node.run("ip link set tap0 up")
        await world.until_listening()
        world.node.await_shown("ip link show tap0", "state UP")
        guest.send(RARP)
        await world.shows(ELEVATED_V4)


async def test_two_interfaces_that_swap_their_names_swap_their_routes(world: World) -> None:
    world.put()
    world.put("other", interface="tap1", ips=["10.65.0.3"])
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap1 ... metric 1024")
    indexes = world.node.tap0, world.node.tap1
    world.node.run_batch(
        ["link set tap0 name x", "link set tap1 name tap0", "link set x name tap1"]
    )
    assert indexes == (world.node.tap1, world.node.tap0)
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap1 ... metric 1024")
    await world.until(lambda: world.guarded("tap0") == ["10.65.0.2"])
    await world.until(lambda: world.guarded("tap1") == ["10.65.0.3"])
    await world.until_says("Programmed", "True", "Programmed")
