"""The loop when the kernel refuses, forgets, or has more to tell than it can."""

import errno
import socket
import threading
from collections.abc import Sequence

import pytest
from tests.nodeagent.kernel.world import (
    CNI_V6,
    ELEVATED_V4,
    GUARD,
    NORMAL_V4,
    World,
    count,
)

from handover_nodeagent import metrics
from handover_nodeagent.kernel import drift, messages, netlink
from handover_nodeagent.network import IPAddress

pytestmark = pytest.mark.root

BOTH = ["10.65.0.2", "fd00:65::2"]
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
    channel = world.loop.router._channel
    transact, left = channel.transact, [number] * times
    packed = socket.inet_pton(socket.AF_INET6, only) if only else b""

    def transact_or_refuse(requests: Sequence[bytes]) -> list[int]:
        is_new = [messages.HEADER.unpack_from(one)[1] == messages.NEWROUTE for one in requests]
        passed = [
            one for one, new in zip(requests, is_new, strict=True) if not new or packed not in one
        ]
        if not left or len(passed) == len(requests):
            return transact(requests)
        refusal, results = left.pop(), iter(transact(passed))
        return [next(results) if one in passed else refusal for one in requests]

    monkeypatch.setattr(channel, "transact", transact_or_refuse)


# What somebody took away.


async def test_a_route_that_somebody_removed_is_back(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows(NORMAL_V4)


@pytest.mark.parametrize(
    "edit",
    [
        "nft flush table arp handover",
        "nft delete table arp handover",
        "nft flush ruleset",
        "nft add rule arp handover output accept",
        "nft delete chain arp handover output",
    ],
)
async def test_a_guard_that_somebody_edited_is_made_anew_at_once(world: World, edit: str) -> None:
    """Heard, counted, and repaired at the first attempt: nothing waits for a timer."""
    world.put()
    guard = world.loop.kernel.guard
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    await world.until(lambda: not guard._work.is_set())
    whole = world.node.run(GUARD)
    drifts, failures = count(metrics.DRIFT), count(metrics.GUARD_ERRORS)
    world.node.run(edit)
    assert world.node.run(GUARD) != whole
    await world.until(lambda: world.node.run(GUARD) == whole)
    assert count(metrics.DRIFT) == drifts + 1
    assert count(metrics.GUARD_ERRORS) == failures
    assert world.condition("Programmed") == ("True", "Programmed")


async def test_a_guard_of_which_nobody_heard_is_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOBUFS on the socket that hears of nftables: what was changed is not told."""
    await world.kill()
    monkeypatch.setattr(drift, "_RECEIVE_BUFFER", SMALLEST)
    monkeypatch.setattr(drift.DriftWatch.__init__, "__kwdefaults__", {"receive_buffer": SMALLEST})
    await world.start()
    world.put()
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    await world.until(lambda: not world.loop.kernel.guard._work.is_set())
    heard, drifts = count(metrics.GUARD, "replace"), count(metrics.DRIFT)
    many = "; ".join(f"add chain ip x c{number}" for number in range(300))
    world.node.run("nft add table ip x")
    world.node.run(f"nft {many}; flush table arp handover")
    assert "saddr ip 10.65.0.2" not in world.node.run(GUARD)
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    assert count(metrics.GUARD, "replace") > heard
    assert count(metrics.DRIFT) == drifts


@pytest.mark.usefixtures("mute")
async def test_a_guard_that_takes_its_time_delays_no_cutover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the guard is written off the loop."""
    world.put(said="target")
    await world.until_listening()
    guard = world.loop.kernel.guard
    await world.until(lambda: not guard._work.is_set())
    free, done, run = threading.Event(), threading.Event(), guard._table._run

    def run_slowly(text: str) -> str:
        free.wait(5)
        done.set()
        return run(text)

    monkeypatch.setattr(guard._table, "_run", run_slowly)
    guard.replace()
    await world.until(lambda: not guard._work.is_set())
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until_state("Live")
    assert not done.is_set()
    free.set()


# What the kernel could not tell.


@pytest.mark.usefixtures("mute")
async def test_after_an_overflow_everything_is_observed(world: World) -> None:
    """More changes than the notification socket holds: what they were is not told, but seen."""
    world.put(ips=BOTH)
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    heard = world.observation._notifications._subscription._socket
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALLEST)
    before = count(metrics.OVERFLOWS)
    flood = [f"route add 10.66.{n // 250}.{n % 250} dev tap1 scope link" for n in range(300)]
    lost = [
        "route delete 10.65.0.2 dev tap0 metric 1024",
        f"route add {CNI_V6.replace('1024', '9')}",
    ]
    # The loop runs again when all of it has happened.
    world.node.run_batch([*flood, *lost])
    assert not any("10.65.0.2" in line for line in world.routes())
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 proto 88 metric 1024")
    assert count(metrics.OVERFLOWS) > before


@pytest.mark.usefixtures("mute")
async def test_answers_that_the_kernel_dropped_are_found_out(world: World) -> None:
    """ENOBUFS on the request socket, in the middle of a prepared cutover of 16 addresses.

    Each is refused at first, because somebody else's route has its metric: too much to say.
    """
    addresses = [f"10.65.7.{number}" for number in range(16)]
    world.put(said="target", ips=addresses)
    await world.until_listening()
    channel = world.loop.router._channel
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
    channel = world.loop.router._channel
    transact = channel.transact

    def unsaid(requests: Sequence[bytes]) -> list[int]:
        monkeypatch.setattr(channel, "transact", transact)
        return [errno.ENOBUFS for _ in transact(requests)]

    monkeypatch.setattr(channel, "transact", unsaid)
    world.announce()
    assert [line for line in world.routes() if "metric 512" in line]
    await world.until_state("Live")
    await world.until_says("Programmed", "True", "Programmed")
    await world.shows(ELEVATED_V4)
    assert len(world.loop.router.routes_of(_allowed(world), world.node.tap0)) == 1


# What changed while it was read.


class Restless:
    """A dump's socket, before whose second part another link appears: the kernel notices."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        self._world = world
        self._sock = sock
        self._parts = 0

    def recv(self, size: int) -> bytes:
        """Receive one part."""
        self._parts += 1
        if self._parts == 2:
            self._world.node.run("ip link add restless type veth peer name far")
            self._world.node.run("ip link delete restless")
        return self._sock.recv(size)


@pytest.mark.parametrize("times", [1, 8], ids=["once", "at each attempt"])
async def test_a_dump_that_a_change_interrupted_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """NLM_F_DUMP_INTR; while everything is in doubt, the condition says so."""
    world.put()
    await world.shows(NORMAL_V4)
    await world.until_says("Programmed", "True", "Programmed")
    world.node.run_batch([f"link add many{n} type veth peer name far-{n}" for n in range(40)])
    interrupted: list[bool] = []
    read = netlink._read_dump

    def read_restlessly(sock: socket.socket, found: list[bytes]) -> bool:
        if len(interrupted) == times:
            return read(sock, found)
        restless = Restless(world, sock)
        is_whole = read(restless, found)  # type: ignore[arg-type]
        if restless._parts > 1:
            interrupted.append(not is_whole)
        return is_whole

    monkeypatch.setattr(netlink, "_read_dump", read_restlessly)
    with world.deaf():
        world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
        world.observation.look()
        if times == 8:
            await world.until_says("Programmed", "False", "Refused")
            assert "the kernel cannot be read" in world.message("Programmed")
        await world.shows(NORMAL_V4)
    assert interrupted == [True] * times
    await world.until_says("Programmed", "True", "Programmed")


# What the kernel refuses in the middle of a cutover.


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
    assert netlink.describe(number) in world.message("Programmed")
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
    (resident,) = world.loop.residents.values()
    return resident.admission.allowed
