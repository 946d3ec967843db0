"""What goes wrong late: the VM fails after its cutover, or the API says what is not true.

Packets decide. Who does not answer gets no traffic any more; a guest that answers
keeps its routes, whatever the API says of it.
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
from handover_lab.network.ping_record import PingRecord
from handover_lab.processes.waiting import until
from handover_lab.testing.scenario import ELEVATED, NORMAL, Scenario, name_of

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
async def scenario(with_cpu_share: Lab) -> AsyncIterator[Scenario]:
    """The lab in order, with a guest that answers in time while agents start beside it."""
    async with Scenario.open(with_cpu_share) as opened:
        yield opened


async def cut_over(scenario: Scenario, ping_record: PingRecord) -> str:
    """Let the VM move until its target is Live; return the migration's name."""
    ping_record.forget()
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    await scenario.lab.vm.move(scenario.here, scenario.there, SHORT_PAUSE)
    await scenario.lab.in_state(name_of(scenario.there), "Live")
    return str(migration["metadata"]["name"])


async def in_doubt(scenario: Scenario, node: str) -> None:
    """Wait until the agent on *node* says that a guest answers that should be gone."""
    name = name_of(node)
    wanted = ("StillAlive", "True")
    await scenario.lab.endpoints.until(
        lambda seen: wanted in {(c["type"], c["status"]) for c in observer.conditions(seen[name])},
        f"a doubt of {name}",
    )


async def served(scenario: Scenario, ping_record: PingRecord, home: str, since_ns: int) -> None:
    """See that since then no packet to the VM at *home* was lost."""
    await scenario.lab.vm.answered()
    await scenario.catch_up()
    assert await scenario.lost_by_network(ping_record, since_ns, home=home) == 0
    assert not scenario.lab.vm.flows["TCP session"].recording.broken


async def unharmed(scenario: Scenario, ping_record: PingRecord, home: str, since_ns: int) -> None:
    """See that since then no packet to the VM at *home* was lost, and no route came or went."""
    await served(scenario, ping_record, home, since_ns)
    for address in scenario.lab.vm.nic.addresses:
        for journal in scenario.journals.values():
            assert [entry for entry in journal.of(address) if entry.at_ns > since_ns] == []


@pytest.mark.parametrize("killed", [False, True], ids=["agent lives", "agent is killed"])
async def test_a_guest_that_fails_after_its_cutover_is_served_at_its_source(
    scenario: Scenario, ping_record: PingRecord, *, killed: bool
) -> None:
    """Guards the way from Live to Withdrawn: who keeps a dead guest's routes swallows all."""
    name = await cut_over(scenario, ping_record)
    await scenario.lab.vm.end(scenario.there)
    await scenario.source.execute("cont")

    await scenario.lab.say_outcome(name, "Aborted")
    if killed:
        await scenario.replace_agent(scenario.there)

    await scenario.lab.in_state(name_of(scenario.there), "Withdrawn")
    await scenario.lab.in_phase(name, "Aborted")
    settled = time.time_ns() + SETTLED
    for flow in STATELESS:
        await scenario.lab.vm.flows[flow].answered(settled + UNDER_WAY)
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        assert scenario.changes(scenario.there, address) == [(ELEVATED, True), (ELEVATED, False)]
        assert scenario.changes(scenario.here, address) == [(NORMAL, True)]
    assert await scenario.lost_by_network(ping_record, settled, home=scenario.here) == 0
    assert scenario.seen(scenario.here)["status"]["state"] == "Base"


async def test_a_late_cancellation_takes_no_route_of_a_guest_that_has_arrived(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards Asking, also after a restart: else the target would withdraw from a guest there.

    The guest goes before the word: the source is told to ask its own and lets go, and only then
    the target gets the routes of a guest that has settled.
    """
    name = await cut_over(scenario, ping_record)
    settled = time.time_ns() + SETTLED

    await scenario.lab.say_outcome(name, "Aborted")

    await scenario.lab.in_phase(name, "Aborted")
    await in_doubt(scenario, scenario.there)
    await scenario.replace_agent(scenario.there)
    await scenario.lab.in_state(name_of(scenario.here), "Withdrawn")
    await scenario.lab.in_state(name_of(scenario.there), "Base")
    await served(scenario, ping_record, scenario.there, settled)
    for address in scenario.lab.vm.nic.addresses:
        arrived = [(ELEVATED, True), (NORMAL, True), (ELEVATED, False)]
        assert scenario.changes(scenario.there, address) == arrived
        assert scenario.changes(scenario.here, address) == [(NORMAL, True), (NORMAL, False)]

    # From where it is it can move on.
    await scenario.lab.vm.end(scenario.here)
    scenario.swap_nodes()
    await scenario.lab.migrate(scenario.migration())


async def test_a_success_that_is_none_takes_no_route_of_a_guest_that_stayed(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards Asking on the source, also after a restart: else the VM would be nowhere."""
    migration = scenario.migration()
    await scenario.lab.prepare(migration)
    ping_record.forget()
    began = time.time_ns()

    await scenario.lab.say_outcome(migration["metadata"]["name"], "Succeeded")

    await in_doubt(scenario, scenario.here)
    await scenario.replace_agent(scenario.here)
    await in_doubt(scenario, scenario.here)
    await unharmed(scenario, ping_record, scenario.here, began)
    assert scenario.seen(scenario.there)["status"]["state"] == "Target"


async def test_roles_that_somebody_strips_take_no_route(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards what a vanished role means: nothing, to an agent that saw it go and to a new one.

    Nobody is there who would give it again.
    """
    name = await cut_over(scenario, ping_record)
    settled = time.time_ns() + SETTLED
    await scenario.lab.kubectl("scale", *OPERATOR, "--replicas=0")
    pods = ("pods", *SPACE, "--selector", "app.kubernetes.io/component=operator")
    await scenario.lab.kubectl("wait", *pods, "--for=delete", "--timeout=60s")
    try:
        for node in (scenario.here, scenario.there):
            marks = scenario.seen(node)["metadata"]["annotations"]
            ours = [f"{mark}-" for mark in marks if mark.startswith("handover.dev/")]
            await scenario.lab.kubectl("annotate", AS_OPERATOR, "wep", name_of(node), *ours)
        await scenario.replace_agent(scenario.here)
        await scenario.replace_agent(scenario.there)
        await unharmed(scenario, ping_record, scenario.there, settled)
    finally:
        await scenario.lab.kubectl("scale", *OPERATOR, "--replicas=2")
        await scenario.lab.kubectl("rollout", "status", *OPERATOR, "--timeout=60s")

    await scenario.lab.say_outcome(name, "Succeeded")
    await scenario.lab.vm.end(scenario.here)
    await scenario.lab.in_phase(name, "Succeeded")


async def test_a_deleted_crd_takes_no_route_and_later_everything_goes_on(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards orphans: with their kind all endpoints are gone, and no guest is."""
    ping_record.forget()
    began = time.time_ns()
    crd: dict[str, Any] = json.loads(await scenario.lab.kubectl("get", "crd", CRD, "-o", "json"))
    crd.pop("status")
    for field in OF_THE_SERVER:
        crd["metadata"].pop(field, None)

    await scenario.lab.delete("crd", CRD)
    try:
        await until(
            lambda: scenario.known(scenario.here, scenario.there),
            lambda number: number == 0,
            "agents without endpoints",
        )
    finally:
        await scenario.lab.apply(crd)
        await scenario.lab.kubectl("wait", "crd", CRD, "--for=condition=Established")
        await open_eyes_anew(scenario.lab)
    await scenario.lab.apply(*(scenario.endpoint(node) for node in (scenario.here, scenario.there)))
    await scenario.lab.in_state(name_of(scenario.here), "Base")
    await unharmed(scenario, ping_record, scenario.here, began)

    await scenario.lab.migrate(scenario.migration())


async def open_eyes_anew(lab: Lab) -> None:
    """Watch again: nobody goes on watching a kind that was away."""
    await lab.stop_watches()
    await lab.start_watches()
