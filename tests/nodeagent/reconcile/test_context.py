"""The loop and what an answer of the kernel holds for: family, table, type, device and state."""

from pathlib import Path

import pytest
from tests.nodeagent.node import MAIN, OURS, V4
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, CNI_V6, NORMAL_V4, World, count

from handover_nodeagent import metrics
from handover_nodeagent.kernel import parking
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.routes.collisions import RESYNCS
from handover_nodeagent.routes.known import Observed

pytestmark = pytest.mark.root

WIRE = "02:00:00:00:00:99"
"""The MAC of a guest whose object names another one, as where passt stands between."""


async def test_a_node_without_ipv6_loses_no_route_by_a_look_at_everything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a kernel answers a question for IPv6 routes with the IPv4 ones."""
    compose = codec.compose

    def without_ipv6(kind: int, flags: int, body: bytes) -> bytes:
        is_ipv6 = kind == codec.GETROUTE and body[0] == codec.INET6
        return compose(kind, flags, b"\x0c" + body[1:] if is_ipv6 else body)

    monkeypatch.setattr(codec, "compose", without_ipv6)
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


# Routes by a gateway that have the place of ours.


GATEWAYS = {
    "10.65.0.2": "ip route add 10.65.0.2 via 192.0.2.1 proto bird metric",
    "fd00:65::2": "ip -6 route add fd00:65::2 via fe80::9 dev tap1 proto bird metric",
}


def take_by_gateway(world: World, address: str, metric: int) -> None:
    """Have a speaker's route where ours would be."""
    world.node.run("ip route replace 192.0.2.1 dev tap1")
    world.node.run(f"{GATEWAYS[address]} {metric}")


def looks(world: World) -> list[object]:
    """Count the looks at everything from now on."""
    seen: list[object] = []
    load = world.loop.routes.load

    def counted(observed: Observed) -> None:
        seen.append(observed)
        load(observed)

    world.loop.routes.load = counted  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("address", GATEWAYS)
async def test_our_route_stands_beside_a_gateways_of_its_metric(world: World, address: str) -> None:
    await world.at_rest()
    seen = looks(world)
    take_by_gateway(world, address, 1024)
    world.put(ips=[address])
    await world.shows(
        f"{address} via ... metric 1024", f"{address} dev tap0 proto 88 ... metric 1024"
    )
    await world.until_says("Programmed", "True", "Programmed")
    world.delete()
    await world.until_state("gone")
    assert seen == []


@pytest.mark.parametrize("address", GATEWAYS)
@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "below another"])
@pytest.mark.usefixtures("mute")
async def test_an_elevated_route_becomes_a_normal_one_beside_a_gateways(
    world: World, address: str, *, hidden: bool
) -> None:
    """Guards: TimeWait that cannot end, and looks at everything without end."""
    take_by_gateway(world, address, 1024)
    if hidden:
        take_by_gateway(world, address, 600)
    world.configure(liveMigrationRouteConvergenceTime="1ms")
    world.put(said="target", ips=[address])
    await world.until_listening()
    world.announce()
    await world.until_state("Live")
    seen = looks(world)
    world.put(said="target Succeeded", ips=[address])
    await world.until_state("Base")
    await world.until(lambda: [one for one in world.routes() if "proto 88 " in one])
    await world.until(
        lambda: not [one for one in world.routes() if "proto 88" in one and "metric 512" in one]
    )
    assert len([one for one in world.routes() if "metric 1024" in one]) == 2
    await world.until_says("Programmed", "True", "Programmed")
    assert len(seen) <= RESYNCS


async def test_a_place_that_nothing_explains_is_refused_and_asked_about_a_few_times(
    world: World,
) -> None:
    """A route that only refuses is none that ours could stand beside."""
    world.node.run("ip route add blackhole 10.65.0.2 metric 1024")
    await world.at_rest()
    seen = looks(world)
    before = count(metrics.ROUTE_ERRORS, "EEXIST")
    world.put()
    await world.until_says("Programmed", "False", "Refused")
    await world.until(lambda: count(metrics.ROUTE_ERRORS, "EEXIST") >= before + RESYNCS + 3)
    assert len(seen) <= RESYNCS
    assert [one for one in world.routes() if "proto 88" in one] == []


async def test_moving_ours_to_another_device_takes_no_gateways_place(world: World) -> None:
    """In IPv4 a replace takes the first route of its metric, which is the gateway's here."""
    take_by_gateway(world, "10.65.0.2", 1024)
    world.put()
    await world.shows("10.65.0.2 via ... metric 1024", NORMAL_V4)
    world.put(interface="far1")
    await world.shows(
        "10.65.0.2 via ... metric 1024", "10.65.0.2 dev far1 proto 88 ... metric 1024"
    )
    world.node.run("ip route append 10.65.0.2 dev far1 scope link proto 5 metric 1024")
    await world.until(lambda: len(world.parked()) == 1)
    await world.shows(
        "10.65.0.2 via ... metric 1024", "10.65.0.2 dev far1 proto 88 ... metric 1024"
    )


BESIDE = ("10.65.0.2 via ... metric 1024", "10.65.0.2 dev tap0 proto 88 ... metric 1024 mtu 1300")


async def test_ours_carries_something_else_and_stays_one_beside_a_gateways(world: World) -> None:
    """Guards: to the kernel two routes that differ in it are two, and what is added is behind."""
    take_by_gateway(world, "10.65.0.2", 1024)
    world.node.run("ip route add 10.65.0.2 dev tap0 proto 5 mtu 1400")
    world.put()
    await world.shows(BESIDE[0], BESIDE[1].replace("1300", "1400"))
    await world.at_rest()
    world.node.run("ip route add 10.65.0.2 dev tap0 proto 5 mtu 1300")
    await world.shows(*BESIDE)
    await world.at_rest()
    await world.shows(*BESIDE)


@pytest.mark.usefixtures("mute")
async def test_what_the_kernel_does_not_show_as_it_was_asked_for_costs_no_route(
    world: World,
) -> None:
    """Metrics that it takes for none: to it the route is there already, and to us another one."""
    take_by_gateway(world, "10.65.0.2", 1024)
    world.node.run("ip route add 10.65.0.2 dev tap0 proto 5")
    (found,) = parking.observe_others({V4}, MAIN, {OURS}).direct
    world.put()
    shown = "10.65.0.2 via ... metric 1024", "10.65.0.2 dev tap0 proto 88 ... metric 1024"
    await world.shows(*shown)
    longer = found.message + codec.number(rtmsg.METRICS, 0xFE)
    told = codec.compose(codec.NEWROUTE, 0, longer[codec.HEADER.size :])
    route = rtmsg.decode(told).route
    assert route.carried
    world.observation._heard(RouteChanged(route, present=True, direct=True, message=told))
    assert any("proto 88" in line for line in world.routes())
    await world.at_rest()
    await world.shows(*shown)


@pytest.mark.parametrize("attributes", ["", "mtu 1400"])
@pytest.mark.parametrize("verb", ["prepend", "append"])
async def test_one_that_differs_in_what_it_carries_goes(
    world: World, verb: str, attributes: str
) -> None:
    """An agent that was killed between adding the one and removing the other leaves both."""
    take_by_gateway(world, "10.65.0.2", 1024)
    world.node.run("ip route add 10.65.0.2 dev tap0 proto 5 mtu 1300")
    world.put()
    await world.shows(*BESIDE)
    await world.kill()
    ours = "10.65.0.2 dev tap0 proto 88 scope link metric 1024"
    world.node.run(f"ip route {verb} {ours} {attributes}")
    await world.start(synced=False)
    world.put()
    world.sink.synced()
    await world.at_rest()
    if verb == "prepend":
        await world.shows(*BESIDE)
    # One behind is never gone by, and a delete that does not name it would take the first.
    world.delete()
    await world.until(lambda: not any("proto 88" in one for one in world.routes()))


def ignore_without_carrier() -> None:
    """Set the node to go by no route of a link without carrier."""
    for family in ("ipv4", "ipv6"):
        for name in ("all", "tap0"):
            setting = Path(f"/proc/sys/net/{family}/conf/{name}/ignore_routes_with_linkdown")
            setting.write_text("1", encoding="ascii")


async def test_a_cnis_route_without_carrier_is_parked_under_a_silent_target(world: World) -> None:
    """The node may be set to name no such route; with the carrier it would draw what is sent."""
    ignore_without_carrier()
    world.node.guest_runs("ip link set eth down")
    world.node.run(f"ip route add {CNI}")
    world.node.run(f"ip -6 route add {CNI_V6}")
    world.node.await_shown("ip route show 10.65.0.2", "linkdown")
    await world.at_rest()
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.until(lambda: len(world.parked()) == 2)
    world.node.guest_runs("ip link set eth up")
    world.node.await_shown("ip link show tap0", "state UP")
    await world.at_rest()
    await world.shows()
