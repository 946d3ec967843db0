"""The loop when the kernel refuses, or cannot answer, in the middle of a cutover."""

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from tests.nodeagent.world import ELEVATED_V4, NORMAL_V4, World, count

from handover_nodeagent import metrics
from handover_nodeagent.kernel.netlink import answers, codec
from handover_nodeagent.kernel.netlink.answers import Results
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.network.links import LinkRemoved
from handover_nodeagent.network.model import IPAddress

pytestmark = pytest.mark.root

BOTH = ["10.65.0.2", "fd00:65::2"]
NORMAL_V6 = "fd00:65::2 dev tap0 proto 88 metric 1024"
ELEVATED_V6 = "fd00:65::2 dev tap0 proto 88 metric 512"
BUSY = "Device or resource busy"
SMALLEST = 1
"""Bytes of a receive buffer; the kernel makes them as few as it can."""


def refuse(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, *, times: int, only: str = ""
) -> None:
    """Have new routes refused so many *times*; with *only* those to this IPv6 address.

    What causes EBUSY depends on the kernel's version; so what is asked for is taken out on the
    way to a real kernel.
    """
    channel = world.loop.routes._channel
    transact, left = channel.transact, [number] * times
    packed = socket.inet_pton(socket.AF_INET6, only) if only else b""

    def transact_or_refuse(requests: Sequence[bytes]) -> Results:
        is_new = [codec.HEADER.unpack_from(one)[1] == codec.NEWROUTE for one in requests]
        passed = [
            one for one, new in zip(requests, is_new, strict=True) if not new or packed not in one
        ]
        if not left or len(passed) == len(requests):
            return transact(requests)
        refusal, results = left.pop(), iter(transact(passed))
        return Results(next(results) if one in passed else refusal for one in requests)

    monkeypatch.setattr(channel, "transact", transact_or_refuse)


@pytest.mark.usefixtures("mute")
async def test_answers_that_the_kernel_dropped_are_found_out(world: World) -> None:
    """ENOBUFS on the request socket, in the middle of a prepared cutover of 16 addresses.

    Each is refused at first, because somebody else's route has its metric: too much to say.
    """
    addresses = [f"10.65.7.{number}" for number in range(16)]
    world.put(said="target", ips=addresses)
    await world.until_listening()
    channel = world.loop.routes._channel
    channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALLEST)
    before = count(metrics.ROUTE_ERRORS, "ENOBUFS")
    with world.deaf():
        metric = "scope link proto 5 metric 512"
        world.node.run_batch([f"route add {one} dev tap1 {metric}" for one in addresses])
        world.announce()
        await world.until_state("Live")
        await world.until_says("Programmed", "False", "Refused")
    assert "No buffer space" in world.message("Programmed")
    await world.shows(*(f"{one} dev tap0 proto 88 ... metric 512" for one in addresses))
    await world.until_says("Programmed", "True", "Programmed")
    assert count(metrics.ROUTE_ERRORS, "ENOBUFS") > before
    assert len(world.parked()) == len(addresses)


@pytest.mark.usefixtures("mute")
async def test_a_route_whose_ack_was_dropped_is_not_added_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel took the route but could not say so."""
    world.put(said="target")
    await world.until_listening()
    channel = world.loop.routes._channel
    transact = channel.transact

    def unsaid(requests: Sequence[bytes]) -> Results:
        monkeypatch.setattr(channel, "transact", transact)
        return Results(errno.ENOBUFS for _ in transact(requests))

    monkeypatch.setattr(channel, "transact", unsaid)
    world.announce()
    assert [line for line in world.routes() if "metric 512" in line]
    await world.until_state("Live")
    await world.until_says("Programmed", "True", "Programmed")
    await world.shows(ELEVATED_V4)
    assert len(world.loop.routes.known.ours_to(_allowed(world), world.node.tap0)) == 1


@pytest.mark.usefixtures("mute")
async def test_a_route_of_the_elevated_metric_is_no_obstacle_to_a_cutover(world: World) -> None:
    """EEXIST in the middle of a prepared cutover."""
    world.put(said="target", ips=BOTH)
    with world.deaf():
        take_the_place(world)
        world.announce()
        await world.until_state("Live")
    await world.shows(ELEVATED_V4, ELEVATED_V6)
    assert len(world.parked()) == 2
    await world.until_says("Programmed", "True", "Programmed")


async def test_a_route_of_the_elevated_metric_is_none_to_one_that_was_not_prepared(
    world: World,
) -> None:
    """EEXIST where a guest that is asked answers: its normal routes stay until then."""
    await ask_under_another_uid(world)
    with world.deaf():
        take_the_place(world)
        world.announce(is_answer=True)
        assert world.state() == "Live"
    await world.shows(ELEVATED_V4, ELEVATED_V6)
    assert len(world.parked()) == 2


@pytest.mark.usefixtures("mute")
async def test_an_interface_that_vanished_before_the_cutover_is_waited_for(world: World) -> None:
    """ENODEV in the middle of a prepared cutover, and the name comes back with another index."""
    world.put(said="target")
    with world.deaf():
        world.node.run("ip link delete tap0")
        world.announce()
        await world.until_state("Live")
        await world.until_says("Programmed", "False", "Refused")
        assert "No such device" in world.message("Programmed")
    world.node.make_tap0()
    await world.shows(ELEVATED_V4)
    await world.until_says("Programmed", "True", "Programmed")


@pytest.mark.usefixtures("mute")
async def test_a_route_of_ours_stays_while_nobody_can_name_its_endpoints_interface(
    world: World,
) -> None:
    """A link that was said to be gone, and was not; then the kernel shows its route once more.

    The one that its owner is given back leads elsewhere.
    """
    world.node.run("ip route add 10.65.0.2 dev tap1 proto 5 metric 2000")
    world.put(ips=BOTH)
    await world.shows(NORMAL_V4, NORMAL_V6)
    gone = LinkRemoved(world.node.tap0, "tap0")
    shown = [route for one in BOTH for route in world.loop.routes.known.ours.of(ip_address(one))]
    world.observation._heard(gone)
    await world.until_says("Programmed", "False", "InterfaceNotFound")
    for route in shown:
        world.observation._heard(RouteChanged(route, present=True, direct=True, message=b""))
    assert [line.split()[2] for line in world.routes() if "proto 5" in line] == ["tap1"]
    assert len(shown) == sum("proto 88" in line for line in world.routes()) == 2
    world.delete()
    await world.until(lambda: not any("proto 88" in line for line in world.routes()))


async def test_an_interface_that_vanished_before_an_answer_is_waited_for(world: World) -> None:
    """ENODEV in the middle of a cutover that was not prepared."""
    await ask_under_another_uid(world)
    with world.deaf():
        world.node.run("ip link delete tap0")
        world.announce(is_answer=True)
        assert world.state() == "Live"
        await world.until_says("Programmed", "False", "Refused")
    world.node.make_tap0()
    await world.shows(ELEVATED_V4, ELEVATED_V6)
    await world.until_says("Programmed", "True", "Programmed")


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENODEV, errno.ENOMEM])
async def test_a_refused_cutover_is_tried_again_until_it_succeeds(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What was prepared, what the machine's step asked for, and two more attempts fail."""
    world.put(said="target")
    await world.until_listening()
    refuse(world, monkeypatch, number, times=4)
    before = count(metrics.ROUTE_ERRORS, errno.errorcode[number])
    world.announce()
    await world.until_state("Live")
    await world.until_says("Programmed", "False", "Refused")
    assert answers.describe(number) in world.message("Programmed")
    await world.shows(ELEVATED_V4)
    await world.until_says("Programmed", "True", "Programmed")
    assert count(metrics.ROUTE_ERRORS, errno.errorcode[number]) - before == 3


@pytest.mark.usefixtures("mute")
async def test_one_refused_address_holds_no_other_one_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(said="target", ips=BOTH)
    await world.until_listening()
    refuse(world, monkeypatch, errno.EBUSY, times=3, only="fd00:65::2")
    world.announce()
    assert ["metric 512" in line for line in world.routes()] == [True]
    await world.until_says("Programmed", "False", "Refused")
    assert world.message("Programmed") == f"fd00:65::2: {BUSY}"
    await world.shows(ELEVATED_V4, ELEVATED_V6)


async def test_a_new_metric_that_is_refused_takes_the_old_route_from_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EBUSY between the old route and the new one: a guest is there, and keeps what it has."""
    await ask_under_another_uid(world)
    refuse(world, monkeypatch, errno.EBUSY, times=3)
    world.announce(is_answer=True)
    assert world.state() == "Live"
    normal = [NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024"]
    await world.until_says("Programmed", "False", "Refused")
    await world.shows(*normal)
    await world.shows(ELEVATED_V4, ELEVATED_V6)


async def test_a_refusal_is_tried_again_by_itself(world: World) -> None:
    """A link that is down refuses with ENETDOWN; only this address waits for another attempt."""
    world.node.run("ip link set tap1 down")
    world.put("down", interface="tap1", ips=["10.65.0.9"])
    await world.until_says("Programmed", "False", "Refused", "down")
    before = count(metrics.ROUTE_ERRORS, "ENETDOWN")
    await world.until(lambda: count(metrics.ROUTE_ERRORS, "ENETDOWN") >= before + 2)
    world.put()
    await world.shows(NORMAL_V4)
    await world.until_says("Programmed", "True", "Programmed")
    world.node.run("ip link set tap1 up")
    await world.shows(NORMAL_V4, "10.65.0.9 dev tap1 ... metric 1024")
    await world.until_says("Programmed", "True", "Programmed", "down")


def take_the_place(world: World) -> None:
    """Have somebody else's routes where the elevated ones of both families would be."""
    world.node.run("ip route add 10.65.0.2 dev tap1 scope link proto 5 metric 512")
    world.node.run("ip -6 route add fd00:65::2 dev tap1 proto 5 metric 512")


async def ask_under_another_uid(world: World) -> None:
    """Make a Base whose guest is asked because it is to be a target: nothing is prepared."""
    world.put(ips=BOTH)
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    world.node.guest_runs("ip link set eth arp off")
    world.put(said="target", ips=BOTH)
    assert world.state() == "Asking"


def _allowed(world: World) -> Sequence[IPAddress]:
    (endpoint,) = world.loop.endpoints.values()
    return endpoint.admission.allowed
