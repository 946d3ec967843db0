"""The loop and what an answer of the kernel holds for: family, table, type, device and state."""

import pytest
from tests.nodeagent.kernel.witness import watching
from tests.nodeagent.kernel.world import NORMAL_V4, World

from handover_nodeagent.kernel import messages

pytestmark = pytest.mark.root

WIRE = "02:00:00:00:00:99"
"""The MAC of a guest whose object names another one, as where passt stands between."""


async def test_a_node_without_ipv6_loses_no_route_by_a_look_at_everything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a kernel answers a question for IPv6 routes with the IPv4 ones."""
    compose = messages.compose

    def without_ipv6(kind: int, flags: int, body: bytes) -> bytes:
        is_ipv6 = kind == messages.GETROUTE and body[0] == messages.INET6
        return compose(kind, flags, b"\x0c" + body[1:] if is_ipv6 else body)

    monkeypatch.setattr(messages, "compose", without_ipv6)
    world.put()
    await world.shows(NORMAL_V4)
    await world.until_says("Programmed", "True", "Programmed")
    with watching() as witness:
        await world.at_rest()
        await world.at_rest()
        assert witness.told() == []


@pytest.mark.parametrize("state", ["reachable", "permanent"])
async def test_an_objects_mac_never_takes_the_place_of_one_that_the_kernel_goes_by(
    world: World, state: str
) -> None:
    for address in ("10.65.0.2", "fd00:65::2"):
        world.node.run(f"ip neigh add {address} dev tap0 lladdr {WIRE} nud {state}")
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    shown = world.node.lines("ip neigh show dev tap0")
    assert {WIRE} == {line.split()[2] for line in shown if line.startswith(("10.65", "fd00"))}


async def test_an_objects_mac_takes_the_place_of_one_that_is_stale(world: World) -> None:
    world.node.run(f"ip neigh add 10.65.0.2 dev tap0 lladdr {WIRE} nud stale")
    world.put()
    await world.shows(NORMAL_V4)
    (line,) = world.node.lines("ip neigh show 10.65.0.2")
    assert "52:54:00:65:00:02" in line


@pytest.mark.usefixtures("mute")
async def test_an_ipv6_route_that_is_there_twice_goes_twice(world: World) -> None:
    """The kernel's trap: a replace that found the former device's route made two of one."""
    world.put(said="source", ips=["fd00:65::2"])
    await world.shows("fd00:65::2 dev tap0 ... metric 1024")
    ours = "fd00:65::2 dev tap0 proto 88 scope link metric 1024"
    with world.deaf():
        world.node.run("ip -6 route append fd00:65::2 dev tap1 proto 88 metric 1024")
        world.node.run(f"ip -6 route del {ours}")
        world.node.run("ip -6 route append fd00:65::2 dev tap0 proto 88 metric 1024")
        world.node.run(f"ip -6 route replace {ours}")
    assert len(world.routes()) == 2
    await world.at_rest()
    world.put(said="source Succeeded", ips=["fd00:65::2"])
    await world.until_state("Withdrawn")
    await world.shows()
