"""The whole loop on a real kernel: endpoints come as the API tells them, guests as frames."""

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.witness import watching
from tests.nodeagent.world import CNI, ELEVATED_V4, MAC, NORMAL_V4, World

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal
from handover_nodeagent.sniff.verdict import Accepted

pytestmark = pytest.mark.root


async def test_an_endpoint_without_a_role_has_normal_routes_and_a_guard(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run("nft list ruleset arp"))
    await world.until_says("Programmed", "True", "Programmed")
    assert MAC in world.node.run("ip neigh show dev tap0")


@pytest.mark.usefixtures("mute")
async def test_a_rarp_makes_a_target_live(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    assert world.routes() == []
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until_state("Live")
    await world.until(lambda: ("vm", "CutOver") in world.reports.events)
    status = world.reports.statuses[ObjectKey("default", "vm")]
    assert status is not None
    assert status.last_cutover is not None
    assert status.last_cutover.signal == "RARP"
    assert 0 < status.last_cutover.announcement_to_route_microseconds < 1_000_000
    assert status.last_cutover.migration_uid == "m1"
    # When the kernel had the route, not when the machine took its step a moment later.
    assert status.since is not None
    assert status.last_cutover.time < status.since


@pytest.mark.usefixtures("alive")
async def test_a_target_that_missed_the_announcement_finds_its_guest_by_asking(
    world: World,
) -> None:
    world.put(said="target")
    await world.shows(ELEVATED_V4)
    await world.until(lambda: ("vm", "CutOver") in world.reports.events)
    status = world.reports.statuses[ObjectKey("default", "vm")]
    assert status is not None
    assert status.last_cutover is not None
    assert status.last_cutover.signal == "Probe"


@pytest.mark.usefixtures("alive")
async def test_an_unarmed_target_believes_no_answer(world: World) -> None:
    world.put(said="target", armed="false")
    await world.until_listening()
    assert world.routes() == []
    world.send()
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("alive")
async def test_success_makes_the_routes_normal_without_a_gap(node: Node, tmp_path: Path) -> None:
    soon = Settings(live_migration_route_convergence_time=dt.timedelta(milliseconds=100))
    world = await World(node, tmp_path, soon).start()
    world.put(said="target")
    await world.shows(ELEVATED_V4)
    world.put(said="target Succeeded")
    assert world.state() == "TimeWait"
    await world.until_state("Base")
    await world.shows(NORMAL_V4)
    await world.kill()


@pytest.mark.usefixtures("mute")
async def test_an_aborted_target_stays_silent(world: World) -> None:
    world.put(said="target")
    world.put(said="target Aborted")
    assert world.state() == "Withdrawn"
    assert world.routes() == []


@pytest.mark.usefixtures("alive")
async def test_a_source_whose_guest_answers_keeps_its_routes(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    assert world.state() == "Asking"
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_a_source_whose_guest_left_withdraws(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    await world.until_state("Withdrawn")
    await world.shows()


async def test_a_forbidden_address_changes_nothing(world: World) -> None:
    world.node.run("ip address add 10.65.0.2/24 dev tap1")
    await asyncio.sleep(0.02)
    world.put()
    await world.until_says("AddressNotAllowed", "True", "NotAllowed")
    assert [line for line in world.routes() if "proto 88" in line] == []


def is_the_nodes_own(world: World, name: str) -> bool:
    """Whether the agent has heard that the node uses an interface itself."""
    link = world.loop.interfaces.links.by_name[name]
    return link.default_route or any(not address.is_link_local for address in link.addresses)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("ip route add default dev tap1", "has the node's default route"),
        ("ip address add 192.0.2.7/24 dev tap1", "has the node's address 192.0.2.7"),
    ],
)
@pytest.mark.parametrize("said", ["", "target"])
async def test_a_device_of_the_nodes_own_is_left_alone(
    world: World, command: str, why: str, said: str
) -> None:
    """Guards the node: who may write an endpoint may not take the node's own traffic."""
    world.node.run(command)
    await world.until(lambda: is_the_nodes_own(world, "tap1"))
    with watching() as witness:
        world.put(said=said, interface="tap1")
        await world.until_says("Programmed", "False", "InterfaceRefused")
        assert why in world.message("Programmed")
        assert witness.told() == []
    assert "tap1" not in world.node.run("nft list ruleset arp")


ADVERTISEMENT = bytes.fromhex(
    "333300000001 525400650002 86dd 6000000000103aff fe80000000000000505400fffe650002"
    "ff020000000000000000000000000001 86002565000807080000000000000000"
)


@pytest.mark.parametrize("said", ["", "target"])
@pytest.mark.parametrize(
    "meddle", ["ip route add default dev tap0", "ip address add 192.0.2.7/24 dev tap0", ""]
)
async def test_a_running_vm_keeps_its_route_whatever_its_device_gets(
    world: World, said: str, meddle: str
) -> None:
    """Guards: networkd, NetworkManager, or one routes advertisement that the guest sent."""
    world.node.run("sysctl -qw net.ipv6.conf.tap0.accept_ra=2")
    world.put(said=said)
    if said:
        await world.until_listening()
        world.send()
    await world.shows(ELEVATED_V4 if said else NORMAL_V4)
    with watching() as witness:
        if meddle:
            world.node.run(meddle)
        else:
            world.send(ADVERTISEMENT)
        await world.until_says("InterfaceDoubted", "True", "WouldBeRefused")
        assert [line for line in witness.told() if line.startswith("-10.65")] == []
    await world.until_says("Programmed", "True", "Programmed")
    await world.kill()
    await world.start()
    world.put(said=said)
    await world.shows(ELEVATED_V4 if said else NORMAL_V4)
    await world.until_says("InterfaceDoubted", "True", "WouldBeRefused")


@pytest.mark.usefixtures("mute")
async def test_nothing_is_parked_for_a_target_whose_device_is_refused(world: World) -> None:
    """The CNI's route serves the guest that nobody here can hear."""
    world.node.run(f"ip route add {CNI}")
    world.node.run("ip route add default dev tap0")
    await world.until(lambda: is_the_nodes_own(world, "tap0"))
    with watching() as witness:
        world.put(said="target")
        await world.until_says("Listening", "False", "InterfaceRefused")
        assert witness.told() == []
    assert world.parked() == []


@pytest.mark.usefixtures("mute")
async def test_a_plug_in_may_put_the_gateways_address_on_the_guests_device(world: World) -> None:
    """As ptp, kindnet and others do: the gateway's /32 and a route to the pod."""
    world.node.run("ip address add 10.65.0.1/32 dev tap0")
    world.node.run(f"ip route add {CNI}")
    world.put(said="target", interface="tap0")
    await world.until_listening()
    assert len(world.parked()) == 1
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until_says("Programmed", "True", "Programmed")
    assert world.condition("InterfaceDoubted") is None


@pytest.mark.usefixtures("mute")
async def test_a_prepared_cutover_is_one_message_to_the_kernel_and_one_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both families with their neighbor entries: nobody can die between them."""
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.until_listening()
    channel, trips = world.loop.routes._channel, list[str]()

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: object) -> object:
            trips.append(name)
            return call(*arguments)

        return noted

    monkeypatch.setattr(channel, "_send", noting("send", channel._send))
    monkeypatch.setattr(channel, "_receive", noting("receive", channel._receive))
    world.announce()
    assert trips == ["send", "receive"]
    assert sum("metric 512" in line for line in world.routes()) == 2


async def test_an_unreadable_endpoint_changes_nothing(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.put(ips=["nonsense"])
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_what_happens_right_after_an_announcement_comes_after_it(world: World) -> None:
    """Guards the moment between a prepared cutover and the machine's step."""
    world.put(said="target")
    await world.until_listening()
    endpoint = world.loop.endpoints[ObjectKey("default", "vm")]
    accepted = Accepted(Signal.RARP, bytes.fromhex(MAC.replace(":", "")))
    world.loop.cutovers.heard(endpoint.key, endpoint.machine.episode, accepted, time.time_ns())
    world.loop.enforcer.reapply(endpoint.admission.allowed)
    assert [line for line in world.routes() if "metric 512" in line]
    world.put(said="target Succeeded")
    assert world.state() == "TimeWait"
    await world.shows(ELEVATED_V4)
    await world.until(lambda: ("vm", "CutOver") in world.reports.events)


@pytest.mark.usefixtures("mute")
async def test_a_mac_that_the_announcement_tells_is_seeded(world: World) -> None:
    world.put(said="target", mac=None)
    await world.until_listening()
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until(lambda: MAC in world.node.run("ip neigh show 10.65.0.2 dev tap0"))


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
async def test_a_role_that_changes_in_the_moment_of_the_announcement_wins_or_loses_whole(
    world: World,
) -> None:
    """Either the guest was first, and is asked, or the abort was, and nothing is programmed."""
    for round_ in range(10):
        name, uid = f"vm{round_}", f"m{round_}"
        world.put(name, said="target", uid=uid)
        await world.until_listening(name)
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
    endpoint = world.loop.endpoints[ObjectKey("default", "vm")]

    def patience() -> float:
        doubt = endpoint.machine.doubt
        return doubt.interval.total_seconds() if doubt else 0.0

    await world.until(lambda: patience() == 1)
    await world.until(lambda: patience() == 2)
    await world.shows(NORMAL_V4)
