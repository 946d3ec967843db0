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
from handover_lab.cluster.operations import NEW_VERSION, NEXT, Operations, tag_next
from handover_lab.lab import Lab, Migrated
from handover_lab.network.measure import Switchover
from handover_lab.network.ping_record import PingRecord
from handover_lab.testing.scenario import (
    CONVERGENCE,
    ELEVATED,
    MOST_LOST,
    NORMAL,
    Scenario,
    name_of,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

MOVED = [(ELEVATED, True), (NORMAL, True), (ELEVATED, False)]
"""What the agent does to the target's routes, and no more, whatever is done to it."""

LOST_IF_AWAY = 200
"""Pings that a target would lose whose agent is just starting."""

PROBE_INTERVAL_MS = 200
CONVERGENCE_S = 15
ENDPOINTS = "handover_nodeagent_endpoints"


@pytest.fixture(scope="module")
def operations(lab: Lab) -> Operations:
    """Have an owner of the cluster, and a new version of Handover."""
    for node in lab.cluster.nodes.values():
        tag_next(node)
    return Operations(lab.client)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stream(with_cpu_share: Lab) -> AsyncIterator[Scenario]:
    """One VM under one stream of traffic."""
    async with Scenario.open(with_cpu_share) as opened:
        yield opened


@dataclass
class Bill:
    """What the migrations cost, of which each began when its test did."""

    scenario: Scenario
    ping_record: PingRecord
    began_ns: int = 0
    costs: list[int] = field(default_factory=list)

    def open(self) -> None:
        """Begin with the next test."""
        self.ping_record.forget()
        self.began_ns = time.time_ns()

    async def cost(self, migrated: Migrated) -> int:
        """Count the pings that the network has lost since the test began."""
        return await self.scenario.lost_by_network(self.ping_record, self.began_ns, migrated.move)

    async def charge(self, migrated: Migrated) -> None:
        """See that it was not more than where the agent has to start first, and write it down."""
        self.costs.append(await self.cost(migrated))
        assert self.costs[-1] < LOST_IF_AWAY


@pytest.fixture(scope="module")
def bill(stream: Scenario, ping_record: PingRecord) -> Bill:
    """What all of it costs."""
    return Bill(stream, ping_record)


@pytest_asyncio.fixture(loop_scope="session")
async def scenario(stream: Scenario, bill: Bill) -> AsyncIterator[Scenario]:
    """The VM wherever the test before has brought it; afterwards, it has moved."""
    if stream.lab.vm.home != stream.here:
        stream.swap_nodes()
    bill.open()
    yield stream
    await stream.lab.vm.answered()
    await stream.catch_up()
    for address in stream.lab.vm.nic.addresses:
        assert stream.changes(stream.there, address, bill.began_ns) == MOVED
        assert stream.changes(stream.here, address, bill.began_ns) == [(NORMAL, False)]


async def test_an_upgrade_waits_for_the_guest_that_is_awaited(
    scenario: Scenario, operations: Operations, bill: Bill
) -> None:
    """Guards the agent's stop: on SIGTERM in Target it serves on."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    old = await operations.agent(scenario.there)
    async with asyncio.TaskGroup() as group:
        group.create_task(operations.upgrade(*NEW_VERSION))
        await operations.said(old, "serving_on")
        migrated = await scenario.lab.complete(migration)

    assert {pod.tag for pod in await operations.pods()} == {NEXT}
    assert migrated.cutover is not None
    assert migrated.cutover.signal == "RARP"
    await bill.charge(migrated)


async def test_a_rollback_finds_the_guest_that_has_just_come(
    scenario: Scenario, operations: Operations, bill: Bill
) -> None:
    """Guards an agent's start: the kernel's elevated route tells it that the guest is here."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    switchover = await move(scenario)

    await operations.roll_back()

    assert NEXT not in {pod.tag for pod in await operations.pods()}
    assert await states(scenario, scenario.there) == {"Live": 1}
    migrated = await conclude(scenario, migration, switchover)
    await bill.charge(migrated)


async def test_an_upgrade_changes_no_deadline(
    scenario: Scenario, operations: Operations, bill: Bill
) -> None:
    """Guards the agent's memory: its successor ends TimeWait when it would have."""
    await scenario.configure(liveMigrationRouteConvergenceTime=f"{CONVERGENCE_S}s")
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    switchover = await move(scenario)
    async with asyncio.TaskGroup() as group:
        concluding = group.create_task(conclude(scenario, migration, switchover))
        await scenario.lab.in_state(name_of(scenario.there), "TimeWait")
        deadline = observer.when_ns(scenario.seen(scenario.there)["status"]["deadline"])
        old = await operations.agent(scenario.there)

        await operations.upgrade(
            "nodeagent.podAnnotations.upgrade=third", "nodeagent.maxUnavailable=2"
        )

        new = await operations.agent(scenario.there)
        assert new.name != old.name
        assert await states(scenario, scenario.there) == {"TimeWait": 1}

    await scenario.configure(liveMigrationRouteConvergenceTime=CONVERGENCE)
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        reverted = [
            entry for entry in scenario.journals[scenario.there].of(address) if entry.is_ours
        ]
        assert deadline <= reverted[-1].at_ns < new.started_ns + CONVERGENCE_S * 10**9
    await bill.charge(concluding.result())


async def test_an_agent_that_is_killed_costs_its_restart_and_two_probes(
    scenario: Scenario, bill: Bill
) -> None:
    """Guards the question at an agent's start: this QEMU and its guest announce nothing at all."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    await scenario.target.execute("migrate-set-parameters", {"announce-rounds": 0})
    killed = await scenario.agent(scenario.there)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(move(scenario))
        await scenario.succeeded(scenario.there, killed)
        ready = time.time_ns()

    migrated = await conclude(scenario, migration, moving.result())
    assert migrated.cutover is not None
    assert migrated.cutover.signal == "Probe"
    away_ms = max(0, ready - migrated.move.switchover.resumed_ns) // 10**6
    most = away_ms + 2 * PROBE_INTERVAL_MS + MOST_LOST
    assert await bill.cost(migrated) <= most


async def test_kubelet_and_containerd_start_again_under_a_migration(
    scenario: Scenario, operations: Operations, bill: Bill
) -> None:
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    for name in (scenario.here, scenario.there):
        pod, agent = await operations.agent(name), await scenario.agent(name)
        scenario.lab.cluster.nodes[name].restart_containerd()
        scenario.lab.cluster.nodes[name].restart_kubelet()
        await operations.answers(pod)
        assert await scenario.agent(name) == agent

    migrated = await scenario.lab.complete(migration)
    await bill.charge(migrated)


async def test_both_nodes_are_drained_and_the_operator_moves_with_a_migration(
    scenario: Scenario, operations: Operations, bill: Bill
) -> None:
    """Guards the budget: the second drain waits until the first operator works elsewhere."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    agents = [await scenario.agent(node) for node in (scenario.here, scenario.there)]
    first = (await operations.leader()).node
    (second,) = scenario.lab.cluster.nodes.keys() - {first}

    try:
        await operations.drain(first)
        assert (await operations.leader()).node == second
        async with operations.drain_that_waits(second):
            switchover = await move(scenario)
            await operations.uncordon(first)
        assert (await operations.leader()).node == first
        migrated = await conclude(scenario, migration, switchover)
    finally:
        for node in (first, second):
            await operations.uncordon(node)

    assert agents == [await scenario.agent(node) for node in (scenario.here, scenario.there)]
    await bill.charge(migrated)


async def test_none_of_it_costs_more_than_any_migration(stream: Scenario, bill: Bill) -> None:
    """Of them all, because others may need the processors just when a route has to move."""
    assert statistics.median(bill.costs) <= MOST_LOST
    session = (await stream.lab.vm.stop_flows())["TCP session"]
    assert not session.broken


async def move(scenario: Scenario) -> Switchover:
    """Let the VM move, and Handover follow; nobody says how it ended."""
    switchover = await scenario.lab.vm.move(scenario.here, scenario.there)
    await scenario.lab.in_state(name_of(scenario.there), "Live")
    return switchover


async def conclude(scenario: Scenario, migration: Object, switchover: Switchover) -> Migrated:
    """Say that *migration* succeeded, and wait until Handover is done."""
    name = migration["metadata"]["name"]
    await scenario.lab.say_outcome(name, "Succeeded")
    await scenario.lab.vm.end(scenario.here)
    way = (scenario.here, scenario.there)
    return await scenario.lab.conclude(name, way, switchover.began_ns, switchover)


async def states(scenario: Scenario, node: str) -> dict[str, float]:
    """Ask the agent that is on *node* now how many endpoints it has in which state."""
    told = await scenario.metrics(node)
    return {
        dict(labels)["state"]: value
        for (name, labels), value in told.items()
        if name == ENDPOINTS and value
    }
