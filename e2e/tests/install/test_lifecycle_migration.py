"""Whatever an owner does to Handover in the middle of a migration costs the VM nothing more.

One VM and one stream of pings, a millisecond apart, go through all of it.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from handover_lab.cluster import observer
from handover_lab.cluster.observer import Object
from handover_lab.cluster.operations import NEW_VERSION, NEXT, Upkeep, tag_next
from handover_lab.demo.report import MOST_LOST_AFTER_SWITCH
from handover_lab.lab import Lab, Migrated
from handover_lab.network.measure import Switchover
from handover_lab.network.ping_record import Witness
from handover_lab.testing.scenario import ELEVATED, NORMAL, Trial, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

MOVED = [(ELEVATED, True), (NORMAL, True), (ELEVATED, False)]
"""What the agent does to the target's routes, and no more, whatever is done to it."""

LOST_IF_AWAY = 200
"""Pings that a target would lose whose agent is just starting."""

PROBE_INTERVAL_MS = 200
CONVERGENCE_S = 15
ENDPOINTS = "handover_nodeagent_endpoints"


@pytest.fixture(scope="module")
def upkeep(lab: Lab) -> Upkeep:
    """Have an owner of the cluster, and a new version of Handover."""
    for node in lab.cluster.nodes.values():
        tag_next(node)
    return Upkeep(lab.client)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stream(berthed: Lab) -> AsyncIterator[Trial]:
    """One VM under one stream of traffic."""
    async with Trial.open(berthed) as opened:
        yield opened


@dataclass
class Bill:
    """What the migrations cost, of which each began when its test did."""

    trial: Trial
    witness: Witness
    began_ns: int = 0
    costs: list[int] = field(default_factory=list)

    def open(self) -> None:
        """Begin with the next test."""
        self.witness.forget()
        self.began_ns = time.time_ns()

    async def cost(self, migrated: Migrated) -> int:
        """Count the pings that the network has lost since the test began."""
        return await self.trial.lost_by_network(self.witness, self.began_ns, migrated.move)

    async def charge(self, migrated: Migrated) -> None:
        """See that it was not more than where the agent has to start first, and write it down."""
        self.costs.append(await self.cost(migrated))
        assert self.costs[-1] < LOST_IF_AWAY


@pytest.fixture(scope="module")
def bill(stream: Trial, witness: Witness) -> Bill:
    """What all of it costs."""
    return Bill(stream, witness)


@pytest_asyncio.fixture(loop_scope="session")
async def trial(stream: Trial, bill: Bill) -> AsyncIterator[Trial]:
    """The VM wherever the test before has brought it; afterwards, it has moved."""
    if stream.lab.yard.home != stream.here:
        stream.turn()
    bill.open()
    yield stream
    await stream.lab.yard.answered()
    await stream.catch_up()
    for address in stream.lab.yard.nic.addresses:
        assert stream.changes(stream.there, address, bill.began_ns) == MOVED
        assert stream.changes(stream.here, address, bill.began_ns) == [(NORMAL, False)]


async def test_an_upgrade_waits_for_the_guest_that_is_awaited(
    trial: Trial, upkeep: Upkeep, bill: Bill
) -> None:
    """Guards the agent's stop: on SIGTERM in Target it serves on."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    old = await upkeep.agent(trial.there)
    async with asyncio.TaskGroup() as group:
        group.create_task(upkeep.upgrade(*NEW_VERSION))
        await upkeep.said(old, "serving_on")
        migrated = await trial.lab.complete(migration)

    assert {pod.tag for pod in await upkeep.pods()} == {NEXT}
    assert migrated.cutover is not None
    assert migrated.cutover.signal == "RARP"
    await bill.charge(migrated)


async def test_a_rollback_finds_the_guest_that_has_just_come(
    trial: Trial, upkeep: Upkeep, bill: Bill
) -> None:
    """Guards an agent's start: the kernel's elevated route tells it that the guest is here."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    switchover = await move(trial)

    await upkeep.roll_back()

    assert NEXT not in {pod.tag for pod in await upkeep.pods()}
    assert await states(trial, trial.there) == {"Live": 1}
    migrated = await conclude(trial, migration, switchover)
    await bill.charge(migrated)


async def test_an_upgrade_changes_no_deadline(trial: Trial, upkeep: Upkeep, bill: Bill) -> None:
    """Guards the agent's memory: its successor ends TimeWait when it would have."""
    await trial.configure(liveMigrationRouteConvergenceTime=f"{CONVERGENCE_S}s")
    migration = trial.migration()
    await trial.lab.prepare(migration)
    switchover = await move(trial)
    async with asyncio.TaskGroup() as group:
        concluding = group.create_task(conclude(trial, migration, switchover))
        await trial.lab.in_state(name_of(trial.there), "TimeWait")
        deadline = observer.when_ns(trial.seen(trial.there)["status"]["deadline"])
        old = await upkeep.agent(trial.there)

        await upkeep.upgrade("nodeagent.podAnnotations.upgrade=third", "nodeagent.maxUnavailable=2")

        new = await upkeep.agent(trial.there)
        assert new.name != old.name
        assert await states(trial, trial.there) == {"TimeWait": 1}

    await trial.configure(liveMigrationRouteConvergenceTime="3s")
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        reverted = [entry for entry in trial.journals[trial.there].of(address) if entry.is_ours]
        assert deadline <= reverted[-1].at_ns < new.started_ns + CONVERGENCE_S * 10**9
    await bill.charge(concluding.result())


async def test_an_agent_that_is_killed_costs_its_restart_and_two_probes(
    trial: Trial, bill: Bill
) -> None:
    """Guards the question at an agent's start: this QEMU and its guest announce nothing at all."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    await trial.target.execute("migrate-set-parameters", {"announce-rounds": 0})
    killed = await trial.agent(trial.there)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(move(trial))
        await trial.succeeded(trial.there, killed)
        ready = time.time_ns()

    migrated = await conclude(trial, migration, moving.result())
    assert migrated.cutover is not None
    assert migrated.cutover.signal == "Probe"
    away_ms = max(0, ready - migrated.move.switchover.resumed_ns) // 10**6
    most = away_ms + 2 * PROBE_INTERVAL_MS + MOST_LOST_AFTER_SWITCH
    assert await bill.cost(migrated) <= most


async def test_kubelet_and_containerd_start_again_under_a_migration(
    trial: Trial, upkeep: Upkeep, bill: Bill
) -> None:
    migration = trial.migration()
    await trial.lab.prepare(migration)
    for name in (trial.here, trial.there):
        pod, agent = await upkeep.agent(name), await trial.agent(name)
        trial.lab.cluster.nodes[name].restart_containerd()
        trial.lab.cluster.nodes[name].restart_kubelet()
        await upkeep.answers(pod)
        assert await trial.agent(name) == agent

    migrated = await trial.lab.complete(migration)
    await bill.charge(migrated)


async def test_both_nodes_are_drained_and_the_operator_moves_with_a_migration(
    trial: Trial, upkeep: Upkeep, bill: Bill
) -> None:
    """Guards the budget: the second drain waits until the first operator works elsewhere."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    agents = [await trial.agent(node) for node in (trial.here, trial.there)]
    first = (await upkeep.leader()).node
    (second,) = trial.lab.cluster.nodes.keys() - {first}

    try:
        await upkeep.drain(first)
        assert (await upkeep.leader()).node == second
        async with upkeep.drain_that_waits(second):
            switchover = await move(trial)
            await upkeep.uncordon(first)
        assert (await upkeep.leader()).node == first
        migrated = await conclude(trial, migration, switchover)
    finally:
        for node in (first, second):
            await upkeep.uncordon(node)

    assert agents == [await trial.agent(node) for node in (trial.here, trial.there)]
    await bill.charge(migrated)


async def test_none_of_it_costs_more_than_any_migration(stream: Trial, bill: Bill) -> None:
    """Of them all, because others may need the processors just when a route has to move."""
    assert statistics.median(bill.costs) <= MOST_LOST_AFTER_SWITCH
    session = (await stream.lab.yard.hush())["TCP session"]
    assert not session.broken


async def move(trial: Trial) -> Switchover:
    """Let the VM move, and Handover follow; nobody says how it ended."""
    switchover = await trial.lab.yard.move(trial.here, trial.there)
    await trial.lab.in_state(name_of(trial.there), "Live")
    return switchover


async def conclude(trial: Trial, migration: Object, switchover: Switchover) -> Migrated:
    """Say that *migration* succeeded, and wait until Handover is done."""
    name = migration["metadata"]["name"]
    await trial.lab.say_outcome(name, "Succeeded")
    await trial.lab.yard.end(trial.here)
    way = (trial.here, trial.there)
    return await trial.lab.conclude(name, way, switchover.began_ns, switchover)


async def states(trial: Trial, node: str) -> dict[str, float]:
    """Ask the agent that is on *node* now how many endpoints it has in which state."""
    told = await trial.metrics(node)
    return {
        dict(labels)["state"]: value
        for (name, labels), value in told.items()
        if name == ENDPOINTS and value
    }
