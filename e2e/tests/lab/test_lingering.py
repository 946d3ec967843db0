"""A source that lingers after the success, with or without its routes, never gets traffic back."""

import os
import signal
import time

import pytest

from handover_lab.cluster import observer
from handover_lab.cluster.observer import Object
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.network.ping_record import PingRecord
from handover_lab.testing.scenario import ELEVATED, NORMAL, Scenario, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

MS = 10**6
SETTLED = 100 * MS


def lingers(migration: Object) -> str:
    """Return why the source of *migration* lingers, if it does."""
    found = [c for c in observer.conditions(migration) if c["type"] == "SourceLingers"]
    return found[0]["reason"] if found and found[0]["status"] == "True" else ""


async def test_a_source_that_keeps_its_routes_gets_no_traffic_back(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards the order of telling: beside a dead source a target of the same priority loses half.

    The target keeps its elevated priority, long after the convergence time, until no source has
    routes any more.
    """
    ping_record.forget()
    migration = scenario.migration()
    name = migration["metadata"]["name"]
    await scenario.lab.prepare(migration)
    pids = await scenario.agent(scenario.here)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        switchover = await scenario.lab.vm.move(scenario.here, scenario.there, SHORT_PAUSE)
        await scenario.lab.in_state(name_of(scenario.there), "Live")
        settled = time.time_ns() + SETTLED
        await scenario.lab.say_outcome(name, "Succeeded")
        await scenario.lab.vm.end(scenario.here)

        await scenario.lab.migrations.until(
            lambda seen: lingers(seen[name]) == "StillRouted", "a source that lingers"
        )
        await scenario.catch_up()
        assert observer.phase_of(scenario.lab.migrations.objects[name]) == "Converging"
        for address in scenario.lab.vm.nic.addresses:
            assert scenario.changes(scenario.there, address) == [(ELEVATED, True)]
            assert scenario.changes(scenario.here, address) == [(NORMAL, True)]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    await scenario.lab.in_phase(name, "Succeeded")
    await scenario.lab.vm.answered()
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        assert scenario.changes(scenario.there, address)[-2:] == [(NORMAL, True), (ELEVATED, False)]
        assert scenario.ways_back(address, settled) == []
    assert await scenario.lost_by_network(ping_record, settled, home=scenario.there) == 0
    assert switchover.resumed_ns < settled
    assert not (await scenario.lab.vm.stop_flows())["TCP session"].broken


async def test_a_source_endpoint_that_nobody_deletes_gets_no_traffic_back(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards Withdrawn: neither a new agent nor a touched object gives the source a route."""
    ping_record.forget()
    migrated = await scenario.lab.migrate(scenario.migration())
    settled = migrated.cutover.at_ns + SETTLED if migrated.cutover else 0

    await scenario.lab.kubectl("label", "workloadendpoint", name_of(scenario.here), "touched=yes")
    await scenario.replace_agent(scenario.here)

    await scenario.lab.vm.answered()
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        assert scenario.changes(scenario.here, address) == [(NORMAL, True), (NORMAL, False)]
        assert scenario.ways_back(address, settled) == []
    assert await scenario.lost_by_network(ping_record, settled, home=scenario.there) == 0
