"""A target attracts nothing before its VM is there: no migration, no order, no CNI changes that."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from handover_lab.cluster.node import Node
from handover_lab.guest import migration as qemu
from handover_lab.guest.migration import CRAWL, Limits
from handover_lab.guest.qemu import GuestError, Nic
from handover_lab.network.journal import MAIN, Entry
from handover_lab.network.ping_record import PingRecord
from handover_lab.processes.waiting import until
from handover_lab.testing.scenario import ELEVATED, Scenario, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

PARKING = "5254"
SLOWLY = Limits(bytes_per_second=CRAWL)


async def cancelled(scenario: Scenario, name: str) -> None:
    """Let QEMU call it off, and the driver say so."""
    await qemu.cancel(scenario.source)
    await scenario.lab.say_outcome(name, "Aborted")


async def failed(scenario: Scenario, name: str) -> None:
    """Let the target's QEMU die with half of the memory, and the driver say so."""
    old = len(scenario.source.events)
    await scenario.lab.vm.end(scenario.there)
    await scenario.source.expect(*qemu.FAILURES, after=old)
    await scenario.lab.say_outcome(name, "Aborted")


async def given_up(scenario: Scenario, name: str) -> None:
    """Let the driver say so while QEMU still sends memory."""
    await scenario.lab.say_outcome(name, "Aborted")
    await scenario.lab.in_state(name_of(scenario.there), "Withdrawn")
    await qemu.cancel(scenario.source)


async def forgotten(scenario: Scenario, name: str) -> None:
    """Let somebody delete the object while QEMU still sends memory."""
    await scenario.lab.delete("livemigration", name)
    await scenario.lab.in_state(name_of(scenario.there), "Withdrawn")
    await qemu.cancel(scenario.source)


@pytest.mark.parametrize("end", [cancelled, failed, given_up, forgotten])
async def test_a_migration_that_does_not_happen_changes_no_route(
    scenario: Scenario, ping_record: PingRecord, end: Callable[[Scenario, str], Awaitable[None]]
) -> None:
    """Guards the way from Target to Withdrawn: elsewhere the target takes the traffic for 30 s."""
    ping_record.forget()
    began = time.time_ns()
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    old = len(scenario.source.events)
    moving = asyncio.create_task(scenario.lab.vm.move(scenario.here, scenario.there, SLOWLY))
    try:
        await scenario.source.expect("RESUME", after=old)
        await end(scenario, migration["metadata"]["name"])
        with pytest.raises(GuestError, match="ended as"):
            await moving
    finally:
        moving.cancel()
    await scenario.lab.in_state(name_of(scenario.there), "Withdrawn")
    await scenario.lab.vm.end(scenario.there)
    await scenario.lab.vm.answered()
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        target = scenario.journals[scenario.there].of(address)
        assert [entry for entry in target if entry.is_ours] == []
        for journal in scenario.journals.values():
            assert [entry for entry in journal.of(address) if entry.at_ns > began] == []
    assert await scenario.lost_by_network(ping_record, began, home=scenario.here) == 0
    assert not (await scenario.lab.vm.stop_flows())["TCP session"].broken


@pytest_asyncio.fixture(loop_scope="session")
async def plugin(scenario: Scenario) -> AsyncIterator[Callable[[], None]]:
    """A CNI plug-in that installs host routes of its own for the VM on the target's node."""
    node, nic = scenario.lab.cluster.nodes[scenario.there], scenario.lab.vm.nic
    yield lambda: install(node, nic)
    await scenario.lab.kubectl("delete", "workloadendpoints", "--all", "--wait")
    # As long as an agent knows the endpoint it writes a parked copy anew that somebody removes.
    await until(
        lambda: scenario.known(scenario.there), lambda number: number == 0, "a forgotten endpoint"
    )
    for address in nic.addresses:
        for table in (PARKING, MAIN):
            node.run(f"ip route del {address} dev {nic.tap} proto boot table {table} || true")


def install(node: Node, nic: Nic) -> None:
    """Add the routes as many plug-ins do: no protocol, no metric."""
    for address in nic.addresses:
        node.run(f"ip route add {address} dev {nic.tap}")


STEPS = ("endpoint", "migration", "plug-in")


@pytest.mark.parametrize("first", range(len(STEPS)), ids=[f"{step} first" for step in STEPS])
async def test_no_order_of_events_gives_a_target_a_route_before_its_vm(
    scenario: Scenario, plugin: Callable[[], None], first: int
) -> None:
    """Guards awaitRole and the parking of foreign routes, in IPv6 also below the one of BGP."""
    await scenario.lab.delete("workloadendpoint", name_of(scenario.there))
    await until(
        lambda: scenario.known(scenario.there),
        lambda number: number == 0,
        "an agent without endpoints",
    )
    migration = scenario.migration()
    for step in (*STEPS[first:], *STEPS[:first]):
        if step == "endpoint":
            await scenario.lab.apply(scenario.endpoint(scenario.there))
        elif step == "migration":
            await scenario.lab.apply(migration)
        else:
            plugin()
    await scenario.lab.vm.start_target(scenario.there)
    journal = scenario.journals[scenario.there]
    for address in scenario.lab.vm.nic.addresses:
        await journal.until(functools.partial(is_gone, address))
        assert is_parked(scenario.lab.cluster.nodes[scenario.there], address)
    await scenario.lab.in_phase(migration["metadata"]["name"], "Ready")

    migrated = await scenario.lab.complete(migration)

    await scenario.catch_up()
    (felt,) = await scenario.loss(migrated.move)
    assert felt["TCP session"].lost == 0
    for address in scenario.lab.vm.nic.addresses:
        entries = [e for e in journal.entries if e.address == address]
        ours = [e for e in entries if e.is_ours]
        assert ours[0].metric == ELEVATED
        assert ours[0].at_ns > migrated.move.switchover.resumed_ns
        plugins = [e.present for e in entries if is_foreign(e)]
        assert plugins[:2] == [True, False]
        assert is_parked(scenario.lab.cluster.nodes[scenario.there], address)


def is_parked(node: Node, address: str) -> bool:
    """Whether the plug-in's route is kept aside; an earlier agent's copy of it counts."""
    family = 6 if ":" in address else 4
    return bool(node.run(f"ip -{family} route show {address} table {PARKING} || true"))


def is_foreign(entry: Entry) -> bool:
    """Whether it is a route of the plug-in, in the main table."""
    return entry.protocol == "boot" and entry.table == MAIN


def is_gone(address: str, entry: Entry) -> bool:
    """Whether the plug-in's route to *address* was taken out."""
    return is_foreign(entry) and entry.address == address and not entry.present
