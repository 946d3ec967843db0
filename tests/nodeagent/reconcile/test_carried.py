"""What a route of ours has from the one whose place it takes, through an endpoint's life."""

import pytest
from tests.nodeagent.world import World

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

BOTH = ["10.65.0.2", "fd00:65::2"]
ATTRIBUTES = {
    "10.65.0.2": "src 192.0.2.10 realm 5 mtu 1400 advmss 1300 window 9",
    "fd00:65::2": "src fd00:66::1 mtu 1400 hoplimit 9 pref high",
}
SHOWN = {
    "10.65.0.2": ["src 192.0.2.10", "realm 5", "mtu 1400", "advmss 1300", "window 9"],
    "fd00:65::2": ["src fd00:66::1", "mtu 1400", "hoplimit 9", "pref high"],
}


def install(world: World, verb: str = "add") -> None:
    """Let a CNI install its routes."""
    world.node.run("ip address replace 192.0.2.10/32 dev tap1")
    world.node.run("ip address replace fd00:66::1/128 dev tap1 nodad")
    for address, attributes in ATTRIBUTES.items():
        metric = " metric 9" if ":" in address else ""
        world.node.run(f"ip route {verb} {address} dev tap0 proto 5{metric} {attributes}")


def worn(world: World, metric: int) -> bool:
    """Tell whether both routes of ours have the metric, and all that the CNI's had."""
    ours = [one for one in world.routes() if "proto 88" in one and f"metric {metric}" in one]
    return len(ours) == 2 and all(word in line for line in ours for word in SHOWN[line.split()[0]])


def plain(world: World, metric: int) -> bool:
    """Tell whether both routes of ours have the metric, and the IPv4 one nothing beside."""
    ours = [one for one in world.routes() if "proto 88" in one and f"metric {metric}" in one]
    return len(ours) == 2 and not any("src" in one for one in ours)


async def test_a_route_keeps_what_its_owner_gave_it_through_a_whole_life(world: World) -> None:
    """Guards: a node that speaks to its VM from another address, and packets that do not fit."""
    world.configure(liveMigrationRouteConvergenceTime="1ms")
    install(world)
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    assert len(world.parked()) == 2
    world.announce()
    assert worn(world, 512)
    await world.until_state("Live")
    assert worn(world, 512)
    world.put(said="target Succeeded", ips=BOTH)
    await world.until(lambda: worn(world, 1024))
    assert len(world.routes()) == 2
    await world.at_rest()
    assert worn(world, 1024)


@pytest.mark.parametrize("is_flushed", [False, True], ids=["parked", "flushed"])
async def test_the_next_agent_knows_it_too(world: World, *, is_flushed: bool) -> None:
    install(world)
    world.put(ips=BOTH)
    await world.until(lambda: worn(world, 1024))
    await world.kill()
    if is_flushed:
        for family in (4, 6):
            world.node.run(f"ip -{family} route flush table 5254")
    await world.start(synced=False)
    world.put(ips=BOTH)
    world.sink.synced()
    await world.at_rest()
    assert worn(world, 1024)
    world.put(said="target", ips=BOTH)
    assert world.state() == "Asking"
    world.announce(is_answer=True)
    await world.until(lambda: worn(world, 512))


async def test_an_owners_route_that_comes_later_or_changes_is_followed(world: World) -> None:
    world.put(ips=BOTH)
    await world.until(lambda: plain(world, 1024))
    install(world)
    await world.until(lambda: worn(world, 1024))
    world.node.run("ip route add 10.65.0.2 dev tap0 proto 5 mtu 1300")
    await world.until(
        lambda: any("mtu 1300" in one and "proto 88" in one for one in world.routes())
    )
    assert not any("src 192.0.2.10" in one for one in world.routes())


async def test_a_cutover_that_was_prepared_before_its_owners_route_came_carries_it(
    world: World,
) -> None:
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    install(world)
    await world.until(lambda: len(world.parked()) == 2)
    world.announce()
    assert worn(world, 512)


async def test_it_is_known_after_the_link_was_down(world: World) -> None:
    install(world)
    world.put(ips=BOTH)
    await world.until(lambda: worn(world, 1024))
    world.node.run("ip link set tap0 down")
    await world.shows()
    world.node.run("ip link set tap0 up")
    await world.until(lambda: worn(world, 1024))


async def test_a_route_whose_source_address_goes_serves_on_and_has_it_again(world: World) -> None:
    """The kernel drops the IPv4 one without a word, and refuses it with the address."""
    install(world)
    world.put(ips=BOTH)
    await world.until(lambda: worn(world, 1024))
    world.node.run("ip address delete 192.0.2.10/32 dev tap1")
    world.node.run("ip address delete fd00:66::1/128 dev tap1")
    await world.until(lambda: plain(world, 1024))
    await world.at_rest()
    assert plain(world, 1024)
    await world.until_says("Programmed", "True", "Programmed")
    world.node.run("ip address add 192.0.2.10/32 dev tap1")
    await world.until(lambda: any(SHOWN[BOTH[0]][0] in one for one in world.routes()))
    # In IPv6 the kernel has taken the source from the CNI's own route too, and nothing else.
    assert all(word in one for one in world.routes() for word in SHOWN[one.split()[0]][1:])


async def test_a_prepared_route_that_is_refused_for_what_it_carries_comes_without(
    world: World,
) -> None:
    install(world)
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    with world.deaf():
        world.node.run("ip address delete 192.0.2.10/32 dev tap1")
        world.node.run("ip address delete fd00:66::1/128 dev tap1")
        world.announce()
        await world.until_state("Live")
        assert plain(world, 512)
