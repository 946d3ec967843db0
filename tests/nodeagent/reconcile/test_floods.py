"""What a guest's frames may cost, and what silence is: probes that left, and no answer."""

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import ELEVATED_V4, NORMAL_V4, World

from handover_api.names import ObjectKey
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.sniff import capture, probe

pytestmark = pytest.mark.root
KEY = ObjectKey("default", "vm")
GARP = bytes.fromhex(
    "ffffffffffff 525400650002 0806 0001 0800 06 04 0001525400650002 0a410002 000000000000 0a410002"
)


def come_alive(node: Node) -> None:
    """Let the guest's kernel answer from now on."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    node.guest_runs("ip link set eth arp on")


async def to_withdrawn(world: World, name: str = "vm", **spec: Any) -> None:
    """Let the source's guest be gone."""
    world.put(name, said="source", **spec)
    world.put(name, said="source Succeeded", **spec)
    await world.until_state("Withdrawn", name)


@pytest.mark.usefixtures("mute")
async def test_a_guest_that_comes_back_is_asked_whatever_was_never_answered(
    world: World, node: Node
) -> None:
    """Any frame of its own proves that it takes out of its queue what is there."""
    await to_withdrawn(world)
    listener = world.loop.listening.of(KEY)
    assert listener is not None
    assert listener._listener is not None
    spent = dataclasses.replace(listener._listener.series, unanswered=probe.LIMIT, due=None)
    listener._listener.probe(spent)
    come_alive(node)
    world.send(GARP)
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


class Work:
    """Counts what the loop does to the world."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = 0
        self.probes: list[float] = []
        for thing, name in (
            (world.loop.enforcer, "apply"),
            (world.memory, "keep"),
            (world.loop.publisher, "report"),
            (world.loop, "follow_machine"),
            (Channel, "transact"),
        ):
            monkeypatch.setattr(thing, name, self._counted(getattr(thing, name)))
        send = capture.Capture.send

        def noted(self_: capture.Capture, frame: bytes) -> bool:
            self.probes.append(time.monotonic())
            return send(self_, frame)

        monkeypatch.setattr(capture.Capture, "send", noted)

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **named: Any) -> Any:
            self.done += 1
            return work(*arguments, **named)

        return count


@pytest.mark.usefixtures("mute")
async def test_frames_that_change_nothing_cost_no_work_but_a_few_probes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four guests that flood must leave the loop to the guest that is about to come."""
    names = [f"vm{number}" for number in range(4)]
    for number, name in enumerate(names):
        await to_withdrawn(world, name, ips=[f"10.65.0.{number + 10}"])
    work = Work(world, monkeypatch)
    began = time.monotonic()
    for _ in range(1000):
        for name in names:
            world.announce(name)
        await asyncio.sleep(0)
    seconds = math.ceil(time.monotonic() - began)
    assert work.done == 0
    # A series is begun by frames once a second; it asks five times in that.
    assert len(work.probes) <= len(names) * (seconds + 1) * (probe.FAST_ROUNDS + 1)
    assert {world.state(name) for name in names} == {"Withdrawn"}


async def test_a_true_rarp_is_heard_whatever_the_neighbor_table_remembers(
    world: World, node: Node
) -> None:
    """A stale entry of an older guest may be asked; it outvotes nobody."""
    node.run("ip neigh add 10.65.0.2 lladdr 02:00:00:00:00:99 dev tap0 nud stale")
    world.put(said="target", mac=None)
    await world.until_listening()
    assert world.loop.endpoints[KEY].neigh_mac == "02:00:00:00:00:99"
    world.send()
    await world.shows(ELEVATED_V4)
    assert world.loop.endpoints[KEY].mac == "52:54:00:65:00:02"


@pytest.mark.usefixtures("alive")
async def test_a_guest_whose_mac_only_the_kernel_knows_is_asked_and_answers(
    world: World, node: Node
) -> None:
    world.put(said="source", mac=None)
    await world.shows(NORMAL_V4)
    # Learned by the kernel since the endpoint came.
    node.run("ip neigh replace 10.65.0.2 lladdr 52:54:00:65:00:02 dev tap0 nud reachable")
    world.put(said="source Succeeded", mac=None)
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Give a device whose queue is full as long as ``is_full``."""
    device = SimpleNamespace(is_full=False, refused=0)
    send = capture.Capture.send

    def refuse(self: capture.Capture, frame: bytes) -> bool:
        device.refused += device.is_full
        return not device.is_full and send(self, frame)

    monkeypatch.setattr(capture.Capture, "send", refuse)
    return device


@pytest.mark.usefixtures("alive")
async def test_a_question_that_could_not_be_sent_is_put_again_and_is_no_silence(
    world: World, stuck: SimpleNamespace
) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    stuck.is_full = True
    world.put(said="source Succeeded")
    # Three frames at first; a fourth comes only after the time of the silence.
    await world.until(lambda: stuck.refused > 3)
    assert world.state() == "Asking"
    stuck.is_full = False
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("alive")
async def test_a_guest_behind_a_link_that_is_down_is_not_taken_for_gone(
    world: World, node: Node
) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    node.run("ip link set tap0 down")
    await world.until(lambda: not world.routes())
    world.put(said="source Succeeded")
    await asyncio.sleep(0.3)  # longer than a silence
    assert world.state() == "Asking"
    node.run("ip link set tap0 up")
    await world.until_says("StillAlive", "True", "GuestAnswers")
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("alive")
async def test_a_link_that_goes_away_takes_its_guest_along(world: World, node: Node) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    node.run("ip link set tap0 down")
    world.put(said="source Succeeded")
    node.run("ip link delete tap0")
    await world.until_state("Withdrawn")


async def test_a_tap_whose_guest_has_ended_is_silent_though_it_takes_no_frame(
    world: World, node: Node
) -> None:
    node.run("ip tuntap add tap9 mode tap")
    node.run("ip link set tap9 up")
    world.put(said="source", interface="tap9")
    await world.until(lambda: world.loop.endpoints[KEY].link)
    world.put(said="source Succeeded", interface="tap9")
    await world.until_state("Withdrawn")


@pytest.mark.usefixtures("alive")
async def test_an_agent_that_only_observes_sends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(world, monkeypatch)
    world.configure(mode="observe")
    world.put(said="target", mac=None)
    await world.until_listening()
    assert "observe" in world.message("Listening")
    world.put(said="target")
    world.send(GARP)
    await world.until_state("Live")
    world.put(said="target Aborted")
    await world.until_says("StillAlive", "Unknown", "CannotAsk")
    assert work.probes == []
    assert world.routes() == []
    assert not world.node.run("ip neigh show dev tap0 nud reachable")
    assert ("vm", "StillAlive") not in world.reports.events
    world.configure(mode="active")
    await world.until_says("StillAlive", "True", "GuestAnswers")
    assert work.probes
