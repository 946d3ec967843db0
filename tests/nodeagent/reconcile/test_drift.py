"""The loop when kernel and mirror part: edits, lost notifications, interrupted dumps."""

import socket
import threading
from typing import Any

import pytest
from tests.nodeagent.world import CNI_V6, ELEVATED_V4, GUARD, NORMAL_V4, World, count

from handover_nodeagent import metrics
from handover_nodeagent.kernel.netlink import answers, dump
from handover_nodeagent.kernel.nft import drift
from handover_nodeagent.kernel.nft.outcome import Outcome
from handover_nodeagent.reconcile import repairs
from handover_nodeagent.routes import foreign

pytestmark = pytest.mark.root

BOTH = ["10.65.0.2", "fd00:65::2"]
SMALLEST = 1
"""Bytes of a receive buffer; the kernel makes them as few as it can."""


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
    guard = world.loop.enforcer.guard
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


async def test_two_authors_of_the_guard_fight_slowly_and_say_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each undoes the other: ten rounds at once, then one in two seconds, until one gives up."""
    monkeypatch.setattr(repairs, "CALM", 1.0)
    world.put()
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    made = count(metrics.GUARD, "replace")
    for number in range(foreign.BURST + 20):
        drifts = count(metrics.DRIFT)
        world.node.run(f"nft add chain arp handover x{number}")
        await world.until(lambda: count(metrics.DRIFT) > drifts)  # noqa: B023  at once
        await world.until(lambda: not world.loop.enforcer.guard._work.is_set())
    assert count(metrics.GUARD, "replace") <= made + foreign.BURST + 2
    await world.until(lambda: world.condition("Unguarded") == ("True", "GuardContested"))
    assert world.condition("Programmed") == ("True", "Programmed")
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    await world.until(lambda: world.condition("Unguarded") is None)


async def written(world: World) -> None:
    """Wait until the agent has written of the guard what it had to."""
    await world.until(lambda: not world.loop.enforcer.guard._work.is_set())
    # In the one thread that also writes, and so after that.
    await world.loop.enforcer.guard._table.observe()


async def test_a_guard_of_which_nobody_heard_is_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOBUFS on the socket that hears of nftables: what was changed is not told."""
    # What the first agent still writes would be another author's change to the second one.
    await written(world)
    await world.kill()
    # Enough for what we write ourselves, and not for so many chains.
    small = (drift.DriftWatch.__init__.__kwdefaults__ or {}) | {"receive_buffer": 1 << 13}
    monkeypatch.setattr(drift.DriftWatch.__init__, "__kwdefaults__", small)
    await world.start()
    world.put()
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    await written(world)
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
    guard = world.loop.enforcer.guard
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(GUARD))
    await world.until(lambda: not guard._work.is_set())
    free, done, run = threading.Event(), threading.Event(), guard.writer._run

    def run_slowly(text: str, purpose: str) -> Outcome:
        free.wait(5)
        done.set()
        return run(text, purpose)

    monkeypatch.setattr(guard.writer, "_run", run_slowly)
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


# What changed while it was read.


class Restless:
    """A dump's socket, before whose second part another link appears: the kernel notices."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        self._world = world
        self._sock = sock
        self._parts = 0

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, Any]:
        """Receive one part."""
        self._parts += 1
        if self._parts == 2:
            self._world.node.run("ip link add restless type veth peer name far")
            self._world.node.run("ip link delete restless")
        return self._sock.recvmsg(size)


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
    receive = dump._receive

    def receive_restlessly(sock: socket.socket, answer: answers.Dump) -> None:
        if len(interrupted) == times:
            receive(sock, answer)
            return
        restless = Restless(world, sock)
        receive(restless, answer)  # type: ignore[arg-type]
        if restless._parts > 1:
            interrupted.append(not answer.is_consistent)

    monkeypatch.setattr(dump, "_receive", receive_restlessly)
    with world.deaf():
        world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
        world.observation.request_resync()
        if times == 8:
            await world.until_says("Programmed", "False", "Refused")
            assert "the kernel cannot be read" in world.message("Programmed")
        await world.shows(NORMAL_V4)
    assert interrupted == [True] * times
    await world.until_says("Programmed", "True", "Programmed")
