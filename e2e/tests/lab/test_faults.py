"""Agents that are killed before and after each single step, while a real VM migrates.

One VM goes back and forth. All that a successor has is the kernel, the memory and the guest.
"""

import asyncio
import contextlib
import functools
import itertools
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple

import pytest
import pytest_asyncio

from handover_lab.lab import Lab
from handover_lab.network import tap
from handover_lab.network.ping_record import PingRecord
from handover_lab.processes.waiting import until
from handover_lab.testing import agent_processes
from handover_lab.testing.agent_processes import AgentProcess
from handover_lab.testing.interrupted_migration import (
    AgentState,
    InterruptedMigration,
    metrics_over_time,
)
from handover_lab.testing.scenario import CONVERGENCE, ELEVATED, NORMAL, Scenario

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

MS: Final = 10**6
SETTLED: Final = 100 * MS
PROBE_INTERVAL: Final = 500 * MS
TIME_WAIT: Final = 3000 * MS
USUAL: Final = {"liveMigrationRouteConvergenceTime": CONVERGENCE, "probeInterval": "200ms"}
QUICK: Final = {"liveMigrationRouteConvergenceTime": "500ms", "probeInterval": "500ms"}


def around(*steps: str) -> tuple[str, ...]:
    """Name the moments before and after each of *steps*."""
    return tuple(f"{moment} {step}" for step in steps for moment in ("before", "after"))


def since(first: str, fault: str) -> tuple[str, ...]:
    """Return the order to die at *fault*, which counts from the *first* moment on."""
    return (first, fault) if fault != first else (fault,)


class Faults(NamedTuple):
    """At which moments agents die in one migration: the source's withdraws, else the target's."""

    preparing: str | None
    cutting_over: str
    withdrawing: str | None
    converging: str | None


HEARING: Final = "before hearing"
DECIDING: Final = "before deciding"
CUTTING_OVER: Final = around(
    *("hearing", "sending", "answer", "deciding", "gateway"),
    *("listening", "memory", "rename", "report"),
)
UNHEARD: Final = (HEARING, "before sending")
PREPARING: Final = around("deciding", "listening", "memory", "report")
WITHDRAWING: Final = (
    *around("deciding", "question", "timer", "exchange", "memory", "report"),
    "before removal",
)
CONVERGING: Final = (*around("deciding", "timer", "exchange", "memory", "report"), "before removal")
# A migration takes seconds, a death in it one more: each has one of every kind, as far as they go.
FAULTS: Final = tuple(
    itertools.starmap(Faults, zip_longest(PREPARING, CUTTING_OVER, WITHDRAWING, CONVERGING))
)


@dataclass
class Relay:
    """One scenario for all tests, as long as each ends as it should."""

    lab: Lab
    agents: Mapping[str, AgentProcess]
    ping_record: PingRecord
    stack: contextlib.AsyncExitStack
    scenario: Scenario | None = None

    async def lend(self) -> Scenario:
        """Return the scenario; a new one, with a VM booted anew, where the last test kept it."""
        scenario, self.scenario = self.scenario, None
        if scenario is None:
            await self.stack.aclose()
            for node in list(self.lab.vm.guests):
                await self.lab.vm.end(node)
            scenario = await self.stack.enter_async_context(Scenario.open(self.lab))
            await scenario.configure(**QUICK)
        return scenario

    def give_back(self, scenario: Scenario) -> None:
        """Take a scenario that is in order, with the VM where it has moved."""
        scenario.swap_nodes()
        self.scenario = scenario


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def relay(
    lab: Lab, ping_record: PingRecord, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    """The lab with agents that are processes of ours."""
    directory = tmp_path_factory.mktemp("agents")
    async with (
        agent_processes.take_over(lab, directory) as agents,
        contextlib.AsyncExitStack() as stack,
    ):
        relay = Relay(lab, agents, ping_record, stack)
        yield relay
        scenario = await relay.lend()
        await scenario.configure(**USUAL)


@pytest_asyncio.fixture(loop_scope="session")
async def interrupted(relay: Relay) -> AsyncIterator[InterruptedMigration]:
    """A migration to come; whoever dies in it was killed, and the network followed it once."""
    interrupted = InterruptedMigration(await relay.lend(), relay.agents, relay.ping_record)
    relay.ping_record.forget()
    before = {one: (len(one.deaths), len(one.troubles())) for one in relay.agents.values()}
    yield interrupted
    for agent, (deaths, troubles) in before.items():
        assert {death.status for death in agent.deaths[deaths:]} <= {-signal.SIGKILL}
        assert agent.troubles()[troubles:] == []


async def followed(interrupted: InterruptedMigration, served_ns: int = 0) -> tuple[int, int]:
    """See that the network followed the VM once, in order, and that nothing is left behind.

    From *served_ns* on, but not before the others send to the target, no packet is lost. Return
    when the target's first route was in, and the last.
    """
    await interrupted.end()
    scenario, nic, switchover = (
        interrupted.scenario,
        interrupted.scenario.lab.vm.nic,
        interrupted.switchover,
    )
    assert switchover is not None
    routed = [interrupted.changes(scenario.there, one)[0].at_ns for one in nic.addresses]
    preferred = [interrupted.preferred_ns(address) for address in nic.addresses]
    settled_ns = max(served_ns, *preferred) + SETTLED
    for address in nic.addresses:
        there = interrupted.changes(scenario.there, address)
        here = interrupted.changes(scenario.here, address)
        assert [entry.present for entry in there if entry.metric == ELEVATED] == [True, False]
        assert [set(), {NORMAL}] == [
            metrics for metrics in metrics_over_time(there) if ELEVATED not in metrics
        ]
        assert [(entry.metric, entry.present) for entry in here] == [(NORMAL, False)]
        # Never a route before its guest, never two of one priority.
        assert switchover.resumed_ns < there[0].at_ns < here[0].at_ns < there[1].at_ns
        assert scenario.ways_back(address, settled_ns) == []
    assert (
        await scenario.lost_by_network(interrupted.ping_record, settled_ns, home=scenario.there)
        == 0
    )
    assert not scenario.lab.vm.flows["TCP session"].recording.broken
    for node, state in ((scenario.here, "Withdrawn"), (scenario.there, "Base")):
        expected = AgentState.expected(nic, node, state)
        look = functools.partial(asyncio.to_thread, AgentState.of, scenario.lab.cluster.nodes[node])
        await until(look, expected.__eq__, f"what is left on {node}")
    return min(routed), max(routed)


@pytest.mark.parametrize(
    "faults", FAULTS, ids=lambda faults: ", ".join(one or "-" for one in faults)
)
async def test_agents_that_die_before_and_after_each_step_cost_no_route(
    relay: Relay, interrupted: InterruptedMigration, faults: Faults
) -> None:
    """Guards the restart from kernel, memory and guest: Felix loses the route after 10 to 20 s.

    And the same where a target prepares, a source withdraws, and the priorities return.
    """
    source, target = interrupted.source, interrupted.target
    if faults.preparing:
        target.order(faults.preparing)
    await interrupted.prepare()
    if faults.preparing:
        death = await target.death()
        await target.begins(death.at_ns)
    # What the agent does before it hears its guest is not of the cutover.
    target.order(*since(HEARING, faults.cutting_over))

    switchover = await interrupted.move()

    death = await target.death()
    begun_ns = await target.begins(death.at_ns)
    assert death.at_ns > switchover.resumed_ns
    await interrupted.live()
    if faults.withdrawing:
        source.order(faults.withdrawing)
    if faults.converging:
        # Nor is a successor's start of the convergence, which the outcome begins.
        target.order(*since(DECIDING, faults.converging))
    await interrupted.succeed()
    if faults.withdrawing:
        await source.death()
    if faults.converging:
        await target.death()
    first_ns, last_ns = await followed(interrupted)
    if faults.cutting_over in UNHEARD:
        assert death.at_ns < first_ns
        assert last_ns < begun_ns + 2 * PROBE_INTERVAL
    else:
        # The dead one's work, not its successor's: both moments may have been seen a little late.
        assert last_ns - death.at_ns < begun_ns - last_ns
    relay.give_back(interrupted.scenario)


async def test_an_agent_that_dies_in_time_wait_keeps_its_deadline(
    relay: Relay, interrupted: InterruptedMigration
) -> None:
    """Guards the deadline by the wall clock: no priority returns early, and none a restart later.

    Early it would stand beside those of the source, which others still believe.
    """
    await interrupted.scenario.configure(liveMigrationRouteConvergenceTime="3s")
    await interrupted.prepare()
    await interrupted.move()
    await interrupted.live()
    interrupted.target.order("after memory")
    await interrupted.succeed()
    death = await interrupted.target.death()
    begun_ns = await interrupted.target.begins(death.at_ns)
    await followed(interrupted)
    for address in interrupted.scenario.lab.vm.nic.addresses:
        left = interrupted.changes(interrupted.scenario.here, address)[0].at_ns
        normal = interrupted.changes(interrupted.scenario.there, address)[1].at_ns
        assert left + TIME_WAIT < normal < begun_ns + TIME_WAIT
    await interrupted.scenario.configure(**QUICK)
    relay.give_back(interrupted.scenario)


async def test_a_guest_that_moves_while_agent_and_api_are_dead_is_followed(
    relay: Relay, interrupted: InterruptedMigration
) -> None:
    """Guards the memory: without it the successor would know of no endpoint.

    And of the next one, that it takes its own route for what it is.
    """
    lab = interrupted.scenario.lab
    await interrupted.prepare()
    interrupted.target.order("before hearing")
    lab.cluster.control_plane.stop_api()
    try:
        await interrupted.move()
        death = await interrupted.target.death()
        begun_ns = await interrupted.target.begins(death.at_ns)
        await interrupted.routed()
        interrupted.target.kill()
        death = await interrupted.target.death()
        await interrupted.target.begins(death.at_ns)
        await lab.vm.answered()
    finally:
        lab.cluster.control_plane.start_api()
        await lab.stop_watches()
        await lab.start_watches()
    await interrupted.succeed()

    _, last_ns = await followed(interrupted)

    assert last_ns < begun_ns + 2 * PROBE_INTERVAL
    relay.give_back(interrupted.scenario)


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(interrupted: InterruptedMigration) -> AsyncIterator[InterruptedMigration]:
    """A migration to a node whose gateway has a MAC of its own, by agents that ask no guest."""
    scenario = interrupted.scenario
    name, node = scenario.lab.vm.nic.tap, scenario.lab.cluster.nodes[scenario.there]
    node.run(f"ip link set {name} address ee:ee:ee:ee:ee:0b")
    await scenario.configure(probeInterval="0s")
    yield interrupted
    await scenario.configure(**QUICK)
    node.run(f"ip link set {name} address {tap.MAC}")


async def test_a_guest_hears_of_its_gateway_though_the_agent_died_before_it_said_so(
    relay: Relay, stranger: InterruptedMigration
) -> None:
    """Guards the successor's word: else the guest sends to the old node's MAC for half a minute."""
    await stranger.prepare()
    stranger.target.order("before gateway")
    await stranger.move()
    death = await stranger.target.death()
    begun_ns = await stranger.target.begins(death.at_ns)
    await stranger.succeed()
    await followed(stranger, begun_ns)

    stranger.scenario.swap_nodes()
    back = InterruptedMigration(stranger.scenario, relay.agents, relay.ping_record)
    relay.ping_record.forget()
    await back.prepare()
    await back.move()
    await back.succeed()
    await followed(back)
    relay.give_back(back.scenario)
