"""A guest that says nothing, and one that does not run yet: the probe and its bounds."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handover_lab.cluster import observer
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.testing.scenario import Scenario, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SECOND = 10**9
MOST_UNANSWERED = 100
OF_THE_KERNEL = 10
"""Frames that the node itself sends on a new link: multicast listener reports and the like."""

PATIENCE_S = 4
"""At twenty milliseconds an unbounded prober would send 400 frames in that time."""


async def test_the_answer_to_a_probe_that_waited_moves_the_route(scenario: Scenario) -> None:
    """Guards the probe: this QEMU and its guest announce nothing at all."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    await scenario.target.execute("migrate-set-parameters", {"announce-rounds": 0})

    switchover = await scenario.lab.vm.move(scenario.here, scenario.there, SHORT_PAUSE)

    # Nobody has said that the migration succeeded.
    await scenario.lab.in_state(name_of(scenario.there), "Live", seconds=5)
    cutover = scenario.seen(scenario.there)["status"]["lastCutover"]
    assert cutover["signal"] == "Probe"
    assert 0 < observer.when_ns(cutover["time"]) - switchover.resumed_ns < SECOND
    await scenario.lab.say_outcome(migration["metadata"]["name"], "Succeeded")
    await scenario.lab.vm.end(scenario.here)
    await scenario.lab.in_phase(migration["metadata"]["name"], "Succeeded")
    await scenario.lab.vm.answered()
    assert not (await scenario.lab.vm.stop_flows())["TCP session"].broken


async def test_an_agent_that_was_away_during_the_announcements_asks(scenario: Scenario) -> None:
    """Guards the fast probes at an agent's start; its successor has nothing but the question."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    killed = await scenario.agent(scenario.there)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    await scenario.lab.vm.move(scenario.here, scenario.there, SHORT_PAUSE)

    await scenario.lab.in_state(name_of(scenario.there), "Live", seconds=20)
    await scenario.lab.say_outcome(migration["metadata"]["name"], "Succeeded")
    await scenario.lab.vm.end(scenario.here)
    await scenario.lab.in_phase(migration["metadata"]["name"], "Succeeded")
    await scenario.lab.vm.answered()
    assert not (await scenario.lab.vm.stop_flows())["TCP session"].broken


@pytest_asyncio.fixture(loop_scope="session")
async def eager(scenario: Scenario) -> AsyncIterator[Scenario]:
    """The lab with agents that probe as often as they may."""
    await scenario.configure(probeInterval="20ms")
    yield scenario
    await scenario.configure(probeInterval="200ms")


async def test_probes_leave_the_queue_of_a_guest_that_does_not_run_to_its_traffic(
    eager: Scenario,
) -> None:
    """Guards the prober's bounds: a thousand waiting frames, and the first packets are lost."""
    scenario = eager
    queued, _ = queue(scenario)
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    # What came before QEMU opened the tap had no queue to wait in.
    _, dropped = queue(scenario)

    await asyncio.sleep(PATIENCE_S)

    assert 0 < queue(scenario)[0] - queued <= MOST_UNANSWERED + OF_THE_KERNEL
    migrated = await scenario.lab.complete(migration)
    assert queue(scenario)[1] == dropped
    (felt,) = await scenario.loss(migrated.move)
    assert felt["TCP session"].lost == 0


def queue(scenario: Scenario) -> tuple[int, int]:
    """Count the frames that the target's node ever had for the guest, and those it dropped."""
    node, tap = scenario.lab.cluster.nodes[scenario.there], scenario.lab.vm.nic.tap
    (sent,) = json.loads(node.run(f"tc -statistics -json qdisc show dev {tap}"))
    (link,) = json.loads(node.run(f"ip -statistics -json link show dev {tap}"))
    return sent["packets"], sent["drops"] + link["stats64"]["tx"]["dropped"]
