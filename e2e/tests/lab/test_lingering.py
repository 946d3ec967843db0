"""A source that lingers after the success, with or without its routes, never gets traffic back."""

import os
import signal
import time

import pytest

from handover_lab.cluster import observer
from handover_lab.cluster.observer import Object
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.network.ping_record import Witness
from handover_lab.testing.scenario import ELEVATED, NORMAL, Trial, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

MS = 10**6
SETTLED = 100 * MS


def lingers(migration: Object) -> str:
    """Return why the source of *migration* lingers, if it does."""
    found = [c for c in observer.conditions(migration) if c["type"] == "SourceLingers"]
    return found[0]["reason"] if found and found[0]["status"] == "True" else ""


async def test_a_source_that_keeps_its_routes_gets_no_traffic_back(
    trial: Trial, witness: Witness
) -> None:
    """Guards the order of telling: beside a dead source a target of the same priority loses half.

    The target keeps its elevated priority, long after the convergence time, until no source has
    routes any more.
    """
    witness.forget()
    migration = trial.migration()
    name = migration["metadata"]["name"]
    await trial.lab.prepare(migration)
    pids = await trial.agent(trial.here)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        switchover = await trial.lab.yard.move(trial.here, trial.there, SHORT_PAUSE)
        await trial.lab.in_state(name_of(trial.there), "Live")
        settled = time.time_ns() + SETTLED
        await trial.lab.say_outcome(name, "Succeeded")
        await trial.lab.yard.end(trial.here)

        await trial.lab.migrations.until(
            lambda seen: lingers(seen[name]) == "StillRouted", "a source that lingers"
        )
        await trial.catch_up()
        assert observer.phase_of(trial.lab.migrations.objects[name]) == "Converging"
        for address in trial.lab.yard.nic.addresses:
            assert trial.changes(trial.there, address) == [(ELEVATED, True)]
            assert trial.changes(trial.here, address) == [(NORMAL, True)]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    await trial.lab.in_phase(name, "Succeeded")
    await trial.lab.yard.answered()
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        assert trial.changes(trial.there, address)[-2:] == [(NORMAL, True), (ELEVATED, False)]
        assert trial.ways_back(address, settled) == []
    assert await trial.lost_by_network(witness, settled, home=trial.there) == 0
    assert switchover.resumed_ns < settled
    assert not (await trial.lab.yard.hush())["TCP session"].broken


async def test_a_source_endpoint_that_nobody_deletes_gets_no_traffic_back(
    trial: Trial, witness: Witness
) -> None:
    """Guards Withdrawn: neither a new agent nor a touched object gives the source a route."""
    witness.forget()
    migrated = await trial.lab.migrate(trial.migration())
    settled = migrated.cutover.at_ns + SETTLED if migrated.cutover else 0

    await trial.lab.kubectl("label", "workloadendpoint", name_of(trial.here), "touched=yes")
    await trial.replace_agent(trial.here)

    await trial.lab.yard.answered()
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        assert trial.changes(trial.here, address) == [(NORMAL, True), (NORMAL, False)]
        assert trial.ways_back(address, settled) == []
    assert await trial.lost_by_network(witness, settled, home=trial.there) == 0
