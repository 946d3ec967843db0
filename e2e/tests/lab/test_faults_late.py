"""What goes wrong late: the VM fails after its cutover, or the API says what is not true.

Packets decide. Who does not answer gets no traffic any more (design 9.3); a guest that answers
keeps its routes, whatever the API says of it (design 9.17).
"""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from handover_lab.cluster import observer
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.lab import Lab
from handover_lab.network.ping_record import Witness
from handover_lab.processes.waiting import until
from handover_lab.testing.scenario import ELEVATED, NORMAL, Trial, name_of

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

MS: Final = 10**6
SETTLED: Final = 100 * MS
UNDER_WAY: Final = 500 * MS
STATELESS: Final = ("ping", "ping v6", "UDP echo")
SPACE: Final = ("--namespace", "handover-system")
OPERATOR: Final = ("deployment", "handover-operator", *SPACE)
AS_OPERATOR: Final = "--as=system:serviceaccount:handover-system:handover-operator"
CRD: Final = "workloadendpoints.handover.dev"
OF_THE_SERVER: Final = ("resourceVersion", "uid", "creationTimestamp", "generation")


@pytest_asyncio.fixture(loop_scope="session")
async def trial(berthed: Lab) -> AsyncIterator[Trial]:
    """The lab in order, with a guest that answers in time while agents start beside it."""
    async with Trial.open(berthed) as opened:
        yield opened


async def cut_over(trial: Trial, witness: Witness) -> str:
    """Let the VM move until its target is Live; return the migration's name."""
    witness.forget()
    migration = trial.migration()
    await trial.lab.prepare(migration)
    await trial.lab.yard.move(trial.here, trial.there, SHORT_PAUSE)
    await trial.lab.in_state(name_of(trial.there), "Live")
    return str(migration["metadata"]["name"])


async def in_doubt(trial: Trial, node: str) -> None:
    """Wait until the agent on *node* says that a guest answers that should be gone."""
    name = name_of(node)
    wanted = ("StillAlive", "True")
    await trial.lab.endpoints.until(
        lambda seen: wanted in {(c["type"], c["status"]) for c in observer.conditions(seen[name])},
        f"a doubt of {name}",
    )


async def served(trial: Trial, witness: Witness, home: str, since_ns: int) -> None:
    """See that since then no packet to the VM at *home* was lost."""
    await trial.lab.yard.answered()
    await trial.catch_up()
    assert await trial.lost_by_network(witness, since_ns, home=home) == 0
    assert not trial.lab.yard.flows["TCP session"].recording.broken


async def unharmed(trial: Trial, witness: Witness, home: str, since_ns: int) -> None:
    """See that since then no packet to the VM at *home* was lost, and no route came or went."""
    await served(trial, witness, home, since_ns)
    for address in trial.lab.yard.nic.addresses:
        for journal in trial.journals.values():
            assert [entry for entry in journal.of(address) if entry.at_ns > since_ns] == []


@pytest.mark.parametrize("killed", [False, True], ids=["agent lives", "agent is killed"])
async def test_a_guest_that_fails_after_its_cutover_is_served_at_its_source(
    trial: Trial, witness: Witness, *, killed: bool
) -> None:
    """Guards the way from Live to Withdrawn: who keeps a dead guest's routes swallows all."""
    name = await cut_over(trial, witness)
    await trial.lab.yard.end(trial.there)
    await trial.source.execute("cont")

    await trial.lab.say_outcome(name, "Aborted")
    if killed:
        await trial.replace_agent(trial.there)

    await trial.lab.in_state(name_of(trial.there), "Withdrawn")
    await trial.lab.in_phase(name, "Aborted")
    settled = time.time_ns() + SETTLED
    for flow in STATELESS:
        await trial.lab.yard.flows[flow].answered(settled + UNDER_WAY)
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        assert trial.changes(trial.there, address) == [(ELEVATED, True), (ELEVATED, False)]
        assert trial.changes(trial.here, address) == [(NORMAL, True)]
    assert await trial.lost_by_network(witness, settled, home=trial.here) == 0
    assert trial.seen(trial.here)["status"]["state"] == "Base"


async def test_a_late_cancellation_takes_no_route_of_a_guest_that_has_arrived(
    trial: Trial, witness: Witness
) -> None:
    """Guards Asking, also after a restart: else the target would withdraw from a guest there.

    The guest goes before the word: the source is told to ask its own and lets go, and only then
    the target gets the routes of a guest that has settled.
    """
    name = await cut_over(trial, witness)
    settled = time.time_ns() + SETTLED

    await trial.lab.say_outcome(name, "Aborted")

    await trial.lab.in_phase(name, "Aborted")
    await in_doubt(trial, trial.there)
    await trial.replace_agent(trial.there)
    await trial.lab.in_state(name_of(trial.here), "Withdrawn")
    await trial.lab.in_state(name_of(trial.there), "Base")
    await served(trial, witness, trial.there, settled)
    for address in trial.lab.yard.nic.addresses:
        arrived = [(ELEVATED, True), (NORMAL, True), (ELEVATED, False)]
        assert trial.changes(trial.there, address) == arrived
        assert trial.changes(trial.here, address) == [(NORMAL, True), (NORMAL, False)]

    # From where it is it can move on.
    await trial.lab.yard.end(trial.here)
    trial.turn()
    await trial.lab.migrate(trial.migration())


async def test_a_success_that_is_none_takes_no_route_of_a_guest_that_stayed(
    trial: Trial, witness: Witness
) -> None:
    """Guards Asking on the source, also after a restart: else the VM would be nowhere."""
    migration = trial.migration()
    await trial.lab.prepare(migration)
    witness.forget()
    began = time.time_ns()

    await trial.lab.say_outcome(migration["metadata"]["name"], "Succeeded")

    await in_doubt(trial, trial.here)
    await trial.replace_agent(trial.here)
    await in_doubt(trial, trial.here)
    await unharmed(trial, witness, trial.here, began)
    assert trial.seen(trial.there)["status"]["state"] == "Target"


async def test_roles_that_somebody_strips_take_no_route(trial: Trial, witness: Witness) -> None:
    """Guards what a vanished role means: nothing, to an agent that saw it go and to a new one.

    Nobody is there who would give it again.
    """
    name = await cut_over(trial, witness)
    settled = time.time_ns() + SETTLED
    await trial.lab.kubectl("scale", *OPERATOR, "--replicas=0")
    pods = ("pods", *SPACE, "--selector", "app.kubernetes.io/component=operator")
    await trial.lab.kubectl("wait", *pods, "--for=delete", "--timeout=60s")
    try:
        for node in (trial.here, trial.there):
            marks = trial.seen(node)["metadata"]["annotations"]
            ours = [f"{mark}-" for mark in marks if mark.startswith("handover.dev/")]
            await trial.lab.kubectl("annotate", AS_OPERATOR, "wep", name_of(node), *ours)
        await trial.replace_agent(trial.here)
        await trial.replace_agent(trial.there)
        await unharmed(trial, witness, trial.there, settled)
    finally:
        await trial.lab.kubectl("scale", *OPERATOR, "--replicas=2")
        await trial.lab.kubectl("rollout", "status", *OPERATOR, "--timeout=60s")

    await trial.lab.say_outcome(name, "Succeeded")
    await trial.lab.yard.end(trial.here)
    await trial.lab.in_phase(name, "Succeeded")


async def test_a_deleted_crd_takes_no_route_and_later_everything_goes_on(
    trial: Trial, witness: Witness
) -> None:
    """Guards orphans: with their kind all endpoints are gone, and no guest is."""
    witness.forget()
    began = time.time_ns()
    crd: dict[str, Any] = json.loads(await trial.lab.kubectl("get", "crd", CRD, "-o", "json"))
    crd.pop("status")
    for field in OF_THE_SERVER:
        crd["metadata"].pop(field, None)

    await trial.lab.delete("crd", CRD)
    try:
        await until(
            lambda: trial.known(trial.here, trial.there),
            lambda number: number == 0,
            "agents without endpoints",
        )
    finally:
        await trial.lab.apply(crd)
        await trial.lab.kubectl("wait", "crd", CRD, "--for=condition=Established")
        await open_eyes_anew(trial.lab)
    await trial.lab.apply(*(trial.endpoint(node) for node in (trial.here, trial.there)))
    await trial.lab.in_state(name_of(trial.here), "Base")
    await unharmed(trial, witness, trial.here, began)

    await trial.lab.migrate(trial.migration())


async def open_eyes_anew(stage: Lab) -> None:
    """Watch again: nobody goes on watching a kind that was away."""
    await stage.close_eyes()
    await stage.open_eyes()
