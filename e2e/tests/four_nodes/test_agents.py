"""Without any BGP speaker every node and every pod follows, whatever happens to the agents."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from handover_lab.four_nodes import trial
from handover_lab.four_nodes.cluster import BYSTANDERS
from handover_lab.four_nodes.lab import FourNodeLab, name_of
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.network.journal import Journal
from handover_lab.processes.waiting import until

pytestmark = [
    pytest.mark.four_nodes,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
    pytest.mark.parametrize("four_nodes", ["segment", "routed"], indirect=True, scope="session"),
]

DISTRIBUTED = "89"
"""The protocol number of routes that agents keep for guests on other nodes."""

OUTAGE_S = 3.0

CONVERGENCE_S = 2.0
"""As the lab has it configured."""


@pytest_asyncio.fixture(loop_scope="session")
async def away(four_nodes: FourNodeLab) -> AsyncIterator[FourNodeLab]:
    """The lab whose agents carry the routes, with the VM on the node that is not its home."""
    async with four_nodes.carried("agents"):
        if four_nodes.vm.home == four_nodes.first:
            await four_nodes.migrate(four_nodes.migration())
        await followed(four_nodes)
        yield four_nodes


async def followed(lab: FourNodeLab, *, is_away: bool = True) -> None:
    """Wait until every bystander has a route of its own to each address, or none any more."""
    wanted = len(lab.vm.nic.addresses) if is_away else 0
    for name in BYSTANDERS:
        await until(
            lambda name=name: asyncio.to_thread(distributed, lab, name),  # type: ignore[misc]
            lambda found: len(found) == wanted,
            f"{wanted} routes of the agent's on {name}",
        )


def distributed(lab: FourNodeLab, node: str) -> Mapping[str, str]:
    """Return the agent's routes on *node* for guests elsewhere: by address, the rest."""
    place = lab.cluster.nodes[node]
    text = place.run(f"for f in 4 6; do ip -$f route show proto {DISTRIBUTED}; done")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return {words[0]: words[-1] for words in lines if words[0] in lab.vm.nic.addresses}


@contextlib.asynccontextmanager
async def unbroken(lab: FourNodeLab) -> AsyncIterator[None]:
    """See that no bystander is without a route for a moment in which it had one."""
    async with contextlib.AsyncExitStack() as stack:
        journals = {
            name: await stack.enter_async_context(Journal.open(lab.cluster.nodes[name]))
            for name in BYSTANDERS
        }
        yield
        for name, journal in journals.items():
            await journal.catch_up()
            for address in lab.vm.nic.addresses:
                moments = [standing for _, standing in journal.moments(address)]
                assert all(moments), (name, address)


async def test_everybody_follows_there_and_back(four_nodes: FourNodeLab) -> None:
    async with four_nodes.carried("agents"):
        there = await trial.run(four_nodes)
        back = await trial.run(four_nodes)
        await followed(four_nodes, is_away=four_nodes.vm.home != four_nodes.first)

    for found in (there, back):
        assert found.migrated.cutover is not None
        for name in ("outside", "outside v6", "pod", "pod v6"):
            assert found.losses[name].outage_ms is not None, found.told()
        assert found.lost_after_switch < trial.AFTER_NS / 1e6, found.told()


async def test_everybody_connects_to_a_guest_that_is_away(away: FourNodeLab) -> None:
    """Its home sends on for clients outside, under rules that drop what fits no connection."""
    with away.strict(1):
        await away.vm.start_flows()
        began_ns = time.time_ns()
        for flow in dict(away.vm.flows).values():
            await flow.answered(began_ns)
        await away.vm.stop_flows()


async def bystanders_restart(lab: FourNodeLab) -> None:
    """Have all bystanders' agents die, and see what those after them make of it."""
    for name in BYSTANDERS:
        lab.agents[name].kill()
    for name in BYSTANDERS:
        await lab.agents[name].death()
    await asyncio.sleep(OUTAGE_S)
    await followed(lab)


async def test_an_agent_that_restarts_drops_nothing(away: FourNodeLab) -> None:
    async with unbroken(away):
        await bystanders_restart(away)


async def test_an_agent_that_restarts_without_the_api_drops_nothing(away: FourNodeLab) -> None:
    plane = away.cluster.control_plane
    async with unbroken(away):
        plane.stop_api()
        try:
            await bystanders_restart(away)
        finally:
            plane.start_api()
            await away.stop_watches()
            await away.start_watches()
        await followed(away)


async def test_a_node_that_dies_takes_its_routes_along(away: FourNodeLab) -> None:
    """Its endpoints may stay in the API for long: it is the Node that tells."""
    ways = {name: dict(distributed(away, name)) for name in BYSTANDERS}
    began = time.monotonic()
    async with away.gone(away.vm.home):
        await followed(away, is_away=False)
        # Until then it may have been one that only looked dead.
        assert time.monotonic() - began >= CONVERGENCE_S
    await followed(away)
    assert {name: dict(distributed(away, name)) for name in BYSTANDERS} == ways


async def test_a_bystander_that_dies_holds_up_nobody(away: FourNodeLab) -> None:
    """And what it had is not what it has once it is back."""
    living, dead = BYSTANDERS
    async with away.gone(dead):
        found = await away.migrate(away.migration())
        await until(
            lambda: asyncio.to_thread(distributed, away, living), lambda ways: not ways, "no route"
        )
    assert found.cutover is not None
    await followed(away, is_away=False)


async def test_a_guest_that_comes_home_while_an_agent_is_away_leaves_no_route(
    away: FourNodeLab,
) -> None:
    async with away.agents[BYSTANDERS[1]].held():
        await away.migrate(away.migration())

    await followed(away, is_away=False)


async def test_an_outage_of_the_api_drops_nothing_and_stops_nobody(away: FourNodeLab) -> None:
    """The guest moves in the middle of it: who was told by the API before follows without it."""
    await away.vm.start_flows()
    migration = away.migration()
    await away.prepare(migration)
    source, target = away.vm.home, away.away
    plane = away.cluster.control_plane

    plane.stop_api()
    try:
        switchover = await away.vm.move(source, target, SHORT_PAUSE)
        await asyncio.sleep(OUTAGE_S)
        flows = dict(away.vm.flows)
        for name in ("outside", "pod"):
            await flows[name].answered(switchover.resumed_ns)
    finally:
        plane.start_api()
        await away.stop_watches()
        await away.start_watches()
    await away.say_outcome(migration["metadata"]["name"], "Succeeded")
    await away.vm.end(source)
    # An API server that has just begun refuses roles for half a minute: see errors.Unprepared.
    await away.in_phase(migration["metadata"]["name"], "Succeeded", seconds=90)
    await away.vm.stop_flows()
    await followed(away, is_away=target != away.first)


async def test_a_guest_that_dies_takes_its_routes_along(away: FourNodeLab) -> None:
    await away.vm.end(away.vm.home)
    await away.kubectl("delete", "workloadendpoints", "--all", "--wait")
    try:
        await followed(away, is_away=False)
    finally:
        await away.vm.boot(away.first)
        await away.serve()
        await away.in_state(name_of(away.first), "Base")
