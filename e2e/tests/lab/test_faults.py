"""Agents that are killed before and after each single step, while a real VM migrates (design 9.1).

One VM goes back and forth. All that a successor has is the kernel, the memory and the guest.
"""

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import pytest
import pytest_asyncio

from handover_lab.lab import Lab
from handover_lab.network import tap
from handover_lab.network.ping_record import Witness
from handover_lab.processes.waiting import until
from handover_lab.testing import agent_processes
from handover_lab.testing.agent_processes import StandIn
from handover_lab.testing.interrupted_migration import Attack, Remains, standing
from handover_lab.testing.scenario import ELEVATED, NORMAL, Trial

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

MS: Final = 10**6
SETTLED: Final = 100 * MS
PROBE_INTERVAL: Final = 500 * MS
CONVERGENCE: Final = 3000 * MS
USUAL: Final = {"liveMigrationRouteConvergenceTime": "3s", "probeInterval": "200ms"}
QUICK: Final = {"liveMigrationRouteConvergenceTime": "1s", "probeInterval": "500ms"}


def around(*steps: str) -> tuple[str, ...]:
    """Name the moments before and after each of *steps*."""
    return tuple(f"{moment} {step}" for step in steps for moment in ("before", "after"))


TO_CUT_OVER: Final = (
    *("hearing", "sending", "answer", "deciding", "gateway"),
    *("attendance", "memory", "rename", "report"),
)
UNHEARD: Final = ("before hearing", "before sending")
PREPARING: Final = around("deciding", "attendance", "memory", "report")
WITHDRAWING: Final = (
    *around("deciding", "question", "timer", "exchange", "memory", "report"),
    "before removal",
)
CONVERGING: Final = (*around("deciding", "timer", "exchange", "memory", "report"), "before removal")


@dataclass
class Relay:
    """One trial for all tests, as long as each ends as it should."""

    lab: Lab
    agents: Mapping[str, StandIn]
    witness: Witness
    stack: contextlib.AsyncExitStack
    trial: Trial | None = None

    async def lend(self) -> Trial:
        """Return the trial; a new one, with a VM booted anew, where the last test kept it."""
        trial, self.trial = self.trial, None
        if trial is None:
            await self.stack.aclose()
            for node in list(self.lab.yard.guests):
                await self.lab.yard.end(node)
            trial = await self.stack.enter_async_context(Trial.open(self.lab))
            await trial.configure(**QUICK)
        return trial

    def give_back(self, trial: Trial) -> None:
        """Take a trial that is in order, with the VM where it has moved."""
        trial.turn()
        self.trial = trial


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def relay(
    lab: Lab, witness: Witness, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    """The lab with stand-ins for its agents."""
    room = tmp_path_factory.mktemp("standins")
    async with agent_processes.take_over(lab, room) as agents, contextlib.AsyncExitStack() as stack:
        relay = Relay(lab, agents, witness, stack)
        yield relay
        trial = await relay.lend()
        await trial.configure(**USUAL)


@pytest_asyncio.fixture(loop_scope="session")
async def attack(relay: Relay) -> AsyncIterator[Attack]:
    """A migration to come; whoever dies in it was killed, and the network followed it once."""
    attack = Attack(await relay.lend(), relay.agents, relay.witness)
    relay.witness.forget()
    before = {one: (len(one.deaths), len(one.troubles())) for one in relay.agents.values()}
    yield attack
    for agent, (deaths, troubles) in before.items():
        assert {death.status for death in agent.deaths[deaths:]} <= {-signal.SIGKILL}
        assert agent.troubles()[troubles:] == []


async def followed(attack: Attack, served_ns: int = 0) -> tuple[int, int]:
    """See that the network followed the VM once, in order, and that nothing is left behind.

    From *served_ns* on, but not before the others send to the target, no packet is lost. Return
    when the target's first route was in, and the last.
    """
    await attack.end()
    trial, nic, switchover = attack.trial, attack.trial.lab.yard.nic, attack.switchover
    assert switchover is not None
    routed = [attack.changes(trial.there, one)[0].at_ns for one in nic.addresses]
    preferred = [attack.preferred_ns(address) for address in nic.addresses]
    settled_ns = max(served_ns, *preferred) + SETTLED
    for address in nic.addresses:
        there = attack.changes(trial.there, address)
        here = attack.changes(trial.here, address)
        assert [entry.present for entry in there if entry.metric == ELEVATED] == [True, False]
        assert [set(), {NORMAL}] == [
            metrics for metrics in standing(there) if ELEVATED not in metrics
        ]
        assert [(entry.metric, entry.present) for entry in here] == [(NORMAL, False)]
        # Never a route before its guest, never two of one priority.
        assert switchover.resumed_ns < there[0].at_ns < here[0].at_ns < there[1].at_ns
        assert trial.ways_back(address, settled_ns) == []
    assert await trial.lost_by_network(attack.witness, settled_ns, home=trial.there) == 0
    assert not trial.lab.yard.flows["TCP session"].recording.broken
    for node, state in ((trial.here, "Withdrawn"), (trial.there, "Base")):
        proper = Remains.proper(nic, node, state)
        look = functools.partial(asyncio.to_thread, Remains.of, trial.lab.cluster.nodes[node])
        await until(look, proper.__eq__, f"what is left on {node}")
    return min(routed), max(routed)


@pytest.mark.parametrize("fault", around(*TO_CUT_OVER))
async def test_an_agent_that_dies_in_its_cutover_costs_no_route(
    relay: Relay, attack: Attack, fault: str
) -> None:
    """Guards the restart from kernel, memory and guest: Felix loses the route after 10 to 20 s."""
    await attack.prepare()
    attack.target.order(fault)

    switchover = await attack.move()

    death = await attack.target.death()
    begun_ns = await attack.target.begins(death.at_ns)
    assert death.at_ns > switchover.resumed_ns
    await attack.succeed()
    first_ns, last_ns = await followed(attack)
    if fault in UNHEARD:
        assert death.at_ns < first_ns
        assert last_ns < begun_ns + 2 * PROBE_INTERVAL
    else:
        # The dead one's work, not its successor's: both moments may have been seen a little late.
        assert last_ns - death.at_ns < begun_ns - last_ns
    relay.give_back(attack.trial)


@pytest.mark.parametrize(
    "faults",
    list(zip_longest(PREPARING, WITHDRAWING, CONVERGING)),
    ids=lambda faults: ", ".join(fault or "-" for fault in faults),
)
async def test_agents_that_die_before_and_after_it_cost_nothing(
    relay: Relay, attack: Attack, faults: tuple[str | None, str, str | None]
) -> None:
    """Guards the same where a target prepares, a source withdraws, and the priorities return."""
    preparing, withdrawing, converging = faults
    if preparing:
        attack.target.order(preparing)
    await attack.prepare()
    if preparing:
        death = await attack.target.death()
        await attack.target.begins(death.at_ns)
    await attack.move()
    await attack.live()
    attack.source.order(withdrawing)
    if converging:
        attack.target.order(converging)

    await attack.succeed()

    await attack.source.death()
    if converging:
        await attack.target.death()
    await followed(attack)
    relay.give_back(attack.trial)


async def test_an_agent_that_dies_in_time_wait_keeps_its_deadline(
    relay: Relay, attack: Attack
) -> None:
    """Guards the deadline by the wall clock: no priority returns early, and none a restart later.

    Early it would stand beside those of the source, which others still believe.
    """
    await attack.trial.configure(liveMigrationRouteConvergenceTime="3s")
    await attack.prepare()
    await attack.move()
    await attack.live()
    attack.target.order("after memory")
    await attack.succeed()
    death = await attack.target.death()
    begun_ns = await attack.target.begins(death.at_ns)
    await followed(attack)
    for address in attack.trial.lab.yard.nic.addresses:
        left = attack.changes(attack.trial.here, address)[0].at_ns
        normal = attack.changes(attack.trial.there, address)[1].at_ns
        assert left + CONVERGENCE < normal < begun_ns + CONVERGENCE
    await attack.trial.configure(**QUICK)
    relay.give_back(attack.trial)


async def test_a_guest_that_moves_while_agent_and_api_are_dead_is_followed(
    relay: Relay, attack: Attack
) -> None:
    """Guards the memory: without it the successor would know of no endpoint.

    And of the next one, that it takes its own route for what it is.
    """
    lab = attack.trial.lab
    await attack.prepare()
    attack.target.order("before hearing")
    lab.cluster.control_plane.stop_api()
    try:
        await attack.move()
        death = await attack.target.death()
        begun_ns = await attack.target.begins(death.at_ns)
        await attack.routed()
        attack.target.kill()
        death = await attack.target.death()
        await attack.target.begins(death.at_ns)
        await lab.yard.answered()
    finally:
        lab.cluster.control_plane.start_api()
        await lab.close_eyes()
        await lab.open_eyes()
    await attack.succeed()

    _, last_ns = await followed(attack)

    assert last_ns < begun_ns + 2 * PROBE_INTERVAL
    relay.give_back(attack.trial)


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(attack: Attack) -> AsyncIterator[Attack]:
    """A migration to a node whose gateway has a MAC of its own, by agents that ask no guest."""
    trial = attack.trial
    name, node = trial.lab.yard.nic.tap, trial.lab.cluster.nodes[trial.there]
    node.run(f"ip link set {name} address ee:ee:ee:ee:ee:0b")
    await trial.configure(probeInterval="0s")
    yield attack
    await trial.configure(**QUICK)
    node.run(f"ip link set {name} address {tap.MAC}")


async def test_a_guest_hears_of_its_gateway_though_the_agent_died_before_it_said_so(
    relay: Relay, stranger: Attack
) -> None:
    """Guards the successor's word: else the guest sends to the old node's MAC for half a minute."""
    await stranger.prepare()
    stranger.target.order("before gateway")
    await stranger.move()
    death = await stranger.target.death()
    begun_ns = await stranger.target.begins(death.at_ns)
    await stranger.succeed()
    await followed(stranger, begun_ns)

    stranger.trial.turn()
    back = Attack(stranger.trial, relay.agents, relay.witness)
    relay.witness.forget()
    await back.prepare()
    await back.move()
    await back.succeed()
    await followed(back)
    relay.give_back(back.trial)
