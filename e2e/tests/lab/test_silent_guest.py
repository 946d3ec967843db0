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
from handover_lab.testing.scenario import Trial, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SECOND = 10**9
MOST_UNANSWERED = 100
OF_THE_KERNEL = 10
"""Frames that the node itself sends on a new link: multicast listener reports and the like."""

PATIENCE_S = 8
"""At twenty milliseconds an unbounded prober would send 800 frames in that time."""


async def test_the_answer_to_a_probe_that_waited_moves_the_route(trial: Trial) -> None:
    """Guards the probe: this QEMU and its guest announce nothing at all."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    await trial.target.execute("migrate-set-parameters", {"announce-rounds": 0})

    switchover = await trial.lab.yard.move(trial.here, trial.there, SHORT_PAUSE)

    # Nobody has said that the migration succeeded.
    await trial.lab.in_state(name_of(trial.there), "Live", seconds=5)
    cutover = trial.seen(trial.there)["status"]["lastCutover"]
    assert cutover["signal"] == "Probe"
    assert 0 < observer.when_ns(cutover["time"]) - switchover.resumed_ns < SECOND
    await trial.lab.say_outcome(migration["metadata"]["name"], "Succeeded")
    await trial.lab.yard.end(trial.here)
    await trial.lab.in_phase(migration["metadata"]["name"], "Succeeded")
    await trial.lab.yard.answered()
    assert not (await trial.lab.yard.hush())["TCP session"].broken


async def test_an_agent_that_was_away_during_the_announcements_asks(trial: Trial) -> None:
    """Guards the fast probes at an agent's start; its successor has nothing but the question."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    killed = await trial.agent(trial.there)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    await trial.lab.yard.move(trial.here, trial.there, SHORT_PAUSE)

    await trial.lab.in_state(name_of(trial.there), "Live", seconds=20)
    await trial.lab.say_outcome(migration["metadata"]["name"], "Succeeded")
    await trial.lab.yard.end(trial.here)
    await trial.lab.in_phase(migration["metadata"]["name"], "Succeeded")
    await trial.lab.yard.answered()
    assert not (await trial.lab.yard.hush())["TCP session"].broken


@pytest_asyncio.fixture(loop_scope="session")
async def eager(trial: Trial) -> AsyncIterator[Trial]:
    """The lab with agents that probe as often as they may."""
    await trial.configure(probeInterval="20ms")
    yield trial
    await trial.configure(probeInterval="200ms")


async def test_probes_leave_the_queue_of_a_guest_that_does_not_run_to_its_traffic(
    eager: Trial,
) -> None:
    """Guards the prober's bounds: a thousand waiting frames, and the first packets are lost."""
    trial = eager
    queued, _ = queue(trial)
    migration = trial.migration()
    await trial.lab.prepare(migration)
    # What came before QEMU opened the tap had no queue to wait in.
    _, dropped = queue(trial)

    await asyncio.sleep(PATIENCE_S)

    assert 0 < queue(trial)[0] - queued <= MOST_UNANSWERED + OF_THE_KERNEL
    migrated = await trial.lab.complete(migration)
    assert queue(trial)[1] == dropped
    (felt,) = await trial.loss(migrated.move)
    assert felt["TCP session"].lost == 0


def queue(trial: Trial) -> tuple[int, int]:
    """Count the frames that the target's node ever had for the guest, and those it dropped."""
    node, tap = trial.lab.cluster.nodes[trial.there], trial.lab.yard.nic.tap
    (sent,) = json.loads(node.run(f"tc -statistics -json qdisc show dev {tap}"))
    (link,) = json.loads(node.run(f"ip -statistics -json link show dev {tap}"))
    return sent["packets"], sent["drops"] + link["stats64"]["tx"]["dropped"]
