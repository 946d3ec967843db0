"""The real operator beside a played KubeVirt: only VMIMs are asked for, all else happens."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from handover_api import names
from handover_lab.kubevirt.objects import POD, VMIM, Guest
from handover_lab.kubevirt.simulated import STEPS
from handover_lab.processes import waiting
from handover_operator.kinds import Kind

pytestmark = pytest.mark.api

IPS = ("10.65.0.2", "fd00::2")
MIGRATION_EVENTS = 'handover_operator_events_total{kind="LiveMigration"}'
VMIM_EVENTS = 'handover_operator_events_total{kind="VirtualMachineInstanceMigration"}'


async def prepared(desk: Any, *, ips: tuple[str, ...] = IPS, vm: str = "web") -> Any:
    """Start a VM on node-a, and ask for its migration to node-b."""
    await desk.kubevirt.start(Guest(vm, labels={"app": "web"}), "node-a", IPS)
    await desk.until(desk.roles, bool)
    migration = await desk.kubevirt.request(vm, "move")
    migration.node, migration.ips = "node-b", ips
    return migration


def never_without_a_role(desk: Any, target: str) -> None:
    """No version of the target's endpoint was without a role or an outcome."""
    assert desk.history[target][0] == "target of move"
    assert "-" not in desk.history[target]


@pytest.mark.usefixtures("operator")
async def test_a_migration_from_nothing_to_its_end(desk: Any) -> None:
    migration = await prepared(desk)
    (endpoint,) = await desk.objects(Kind.ENDPOINT)
    assert endpoint["spec"]["ips"] == [*IPS]
    assert endpoint["spec"]["mac"] == "02:7a:31:00:00:01"
    assert endpoint["metadata"]["labels"]["app"] == "web"
    await migration.until("bind")
    source, target = migration.source_pod, migration.target_pod
    await desk.until_roles({source: "source of move", target: "target of move"})
    found = await desk.until_migration("move", lambda raw: raw.get("status", {}).get("phase"))
    assert found["spec"]["id"] == migration.uid
    assert found["spec"]["armed"] is False
    await migration.until("target_ready")
    await desk.until_migration("move", lambda raw: raw["spec"]["armed"])
    await desk.report(source, "Base", migration.uid)
    await desk.report(target, "Target", migration.uid)
    await migration.until("resume")
    await desk.report(target, "Live", migration.uid)
    await migration.until("succeed")
    await desk.until_roles({source: "source of move Succeeded", target: "target of move"})
    await migration.until("end_source")  # its endpoint goes with it, so nothing lingers
    await desk.until_roles({target: "target of move Succeeded"})
    await desk.report(target, "Base", migration.uid)
    await desk.until_migration("move", lambda raw: phase(raw) == "Succeeded")
    never_without_a_role(desk, target)
    await desk.api.call("DELETE", f"{VMIM.format(desk.namespace)}/move")
    await desk.until_migration("move", lambda raw: not raw)
    await desk.api.call("DELETE", f"{POD.format(desk.namespace)}/{target}")
    await desk.until_roles({})


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("step", STEPS[:-2])
async def test_a_failure_after_any_step_gives_the_source_back_its_traffic(
    desk: Any, step: str
) -> None:
    migration = await prepared(desk)
    await migration.until(step)
    if STEPS.index(step) >= STEPS.index("bind"):
        await desk.until(desk.roles, lambda roles: len(roles) == 2)
    await migration.fail()
    ended = "source of move Aborted"
    await desk.until(
        desk.roles,
        lambda roles: roles in ({migration.source_pod: ended}, {migration.source_pod: "-"}),
    )
    if migration.target_pod in desk.history:
        never_without_a_role(desk, migration.target_pod)
        await desk.until_migration("move", lambda raw: phase(raw) == "Aborted")


@pytest.mark.usefixtures("operator")
async def test_a_failure_after_the_announcement_rolls_back(desk: Any) -> None:
    migration = await prepared(desk)
    await migration.until("run")
    source, target = migration.source_pod, migration.target_pod
    await desk.until_roles({source: "source of move", target: "target of move"})
    await desk.report(target, "Live", migration.uid)
    await desk.until_migration("move", lambda raw: phase(raw) == "Live")
    await migration.fail()
    await desk.until_roles({source: "source of move Aborted"})
    assert desk.history[target][-1] in {"target of move Aborted", "target of move"}


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("step", ["schedule", "bind", "hand_off", "target_ready", "run"])
async def test_a_cancelled_migration_is_an_aborted_one(desk: Any, step: str) -> None:
    migration = await prepared(desk)
    await migration.until(step)
    await desk.until_migration("move", bool)
    await migration.cancel()
    await desk.until_roles({migration.source_pod: "source of move Aborted"})
    await desk.until_migration("move", lambda raw: not raw)


@pytest.mark.usefixtures("operator")
async def test_two_migrations_in_a_row(desk: Any) -> None:
    first = await prepared(desk)
    await first.until("succeed")
    second = await desk.kubevirt.request("web", "again")
    second.node, second.ips = "node-c", IPS
    await second.until("bind")
    await desk.until_roles(
        {
            first.source_pod: "source of move Succeeded",
            first.target_pod: "source of again",
            second.target_pod: "target of again",
        }
    )
    await first.end_source()
    await second.until("end_source")
    await desk.until_roles({second.target_pod: "target of again Succeeded"})
    assert desk.history[second.target_pod][0] == "target of again"


@pytest.mark.usefixtures("operator")
async def test_addresses_that_change_are_said_where_one_looks(desk: Any) -> None:
    migration = await prepared(desk, ips=("10.65.9.9",))
    await migration.until("bind")
    await desk.until(desk.roles, lambda roles: len(roles) == 2)
    await migration.until("wire")
    endpoint = await desk.until(
        lambda: desk.api.call("GET", desk.path(Kind.ENDPOINT, migration.target_pod)),
        lambda raw: raw["spec"]["ips"] == ["10.65.9.9"],
    )
    assert desk.said(endpoint) == "target of move"
    await desk.until_migration("move", lambda raw: condition(raw) == ("False", "AddressChanged"))
    await desk.until(lambda: desk.events("move"), lambda told: "AddressChanged" in told)


def phase(raw: Any) -> str | None:
    """Return the phase of a LiveMigration."""
    found: str | None = raw.get("status", {}).get("phase")
    return found


def condition(raw: Any) -> tuple[str, str] | None:
    """Return status and reason of AddressKept."""
    for found in raw.get("status", {}).get("conditions", []):
        if found["type"] == "AddressKept":
            return found["status"], found["reason"]
    return None


@pytest.mark.usefixtures("operator")
async def test_a_binding_that_is_not_followed_is_said_where_one_looks(desk: Any) -> None:
    await desk.kubevirt.start(Guest("web", binding="masquerade"), "node-a", IPS)
    await desk.until(lambda: desk.events("web"), lambda told: told == ["NotFollowed"])
    migration = await desk.kubevirt.request("web", "move")
    await migration.until("schedule")
    await desk.until_migration("move", lambda raw: condition(raw) == ("False", "NotFollowed"))
    assert await desk.roles() == {}


@pytest.mark.usefixtures("operator")
async def test_what_people_made_stays_as_it_is(desk: Any) -> None:
    spec = {"node": "node-x", "workload": "mine", "ips": ["10.9.9.9"]}
    names_of_pods = [f"virt-launcher-web-{number}" for number in (1, 2)]
    for name in names_of_pods:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "metadata": {"name": name},
            "spec": spec,
        }
        await desk.api.call("POST", desk.path(Kind.ENDPOINT), body)
    theirs = {
        "apiVersion": names.API_VERSION,
        "kind": "LiveMigration",
        "metadata": {"name": "move"},
        "spec": {"source": {"workload": {"name": "nobody"}}},
    }
    await desk.api.call("POST", desk.path(Kind.MIGRATION), theirs)
    migration = await prepared(desk)
    await migration.until("end_source")
    for name in ("move", *names_of_pods):
        await desk.until(
            lambda name=name: desk.events(name), lambda told: told.count("NameClash") >= 1
        )
    for raw in await desk.objects(Kind.ENDPOINT):
        assert (raw["spec"]["node"], desk.said(raw)) == ("node-x", "-")
    found = await desk.migration("move")
    assert found["spec"]["source"] == {"workload": {"name": "nobody"}}
    assert "outcome" not in found["spec"]


async def test_killed_after_each_step_it_goes_on_and_rewrites_nothing(
    new_operator: Callable[..., Any], desk: Any
) -> None:
    operator = new_operator()
    await operator.start()
    migration = await prepared(desk)
    target = "target of move"
    for step in ("schedule", "bind", "hand_off", "target_ready", "run", "switch", "succeed"):
        operator.kill()
        await migration.until(step)
        await operator.start()
        source, moved = migration.source_pod, migration.target_pod
        if step == "succeed":
            break
        wanted = {source: "source of move"} | ({} if step == "schedule" else {moved: target})
        await desk.until_roles(wanted)
        armed = STEPS.index(step) >= STEPS.index("target_ready")
        await desk.until_migration("move", lambda raw, armed=armed: raw["spec"]["armed"] is armed)
        if step == "switch":
            # Without any report it would be a migration that nobody has followed.
            await desk.report(moved, "Live", migration.uid)
    await desk.until_roles({source: "source of move Succeeded", moved: f"{target} Succeeded"})
    never_without_a_role(desk, moved)
    await desk.report(moved, "Base", migration.uid)
    await desk.until_migration("move", lambda raw: phase(raw) == "Succeeded")
    before = await desk.versions()
    operator.kill()
    await operator.start()
    await desk.until(
        lambda: operator.metric("handover_operator_events_total"), lambda told: told >= 7
    )
    await desk.until(
        lambda: operator.metric("handover_operator_queue_length"), lambda left: left == 0
    )
    assert await desk.versions() == before
    assert await operator.metric("handover_operator_writes_total") == 0


async def test_a_migration_that_ended_while_it_was_down_is_told(
    new_operator: Callable[..., Any], desk: Any
) -> None:
    """VMIM and LiveMigration are gone as well: only the guest's place tells how it ended."""
    operator = new_operator()
    await operator.start()
    migration = await prepared(desk)
    await migration.until("run")
    source, target = migration.source_pod, migration.target_pod
    await desk.until_roles({source: "source of move", target: "target of move"})
    operator.kill()
    await migration.until("succeed")
    await desk.api.call("DELETE", f"{VMIM.format(desk.namespace)}/move")
    await desk.until_migration("move", lambda raw: not raw)
    await operator.start()
    succeeded = {source: "source of move Succeeded", target: "target of move Succeeded"}
    await desk.until_roles(succeeded)


async def test_a_label_that_goes_while_it_is_down_leaves_the_endpoint(
    new_operator: Callable[..., Any], desk: Any
) -> None:
    operator = new_operator()
    await operator.start()
    labels = {"tier": "gold", "app": "web"}
    pod = await desk.kubevirt.start(Guest("web", labels=labels), "node-a", IPS)
    await desk.until(desk.roles, bool)
    path = desk.path(Kind.ENDPOINT, pod)
    await desk.api.call("PATCH", path, {"metadata": {"labels": {"mine": "stays"}}})
    operator.kill()
    await desk.kubevirt.patch_pod(pod, {"metadata": {"labels": {"tier": None}}})
    await operator.start()
    found = await desk.until(
        lambda: desk.api.call("GET", path), lambda raw: "tier" not in raw["metadata"]["labels"]
    )
    assert found["metadata"]["labels"]["app"] == "web"
    assert found["metadata"]["labels"]["mine"] == "stays"


async def test_an_hour_after_its_end_a_migration_is_gone_for_good(operator: Any, desk: Any) -> None:
    migration = await prepared(desk)
    await migration.until("bind")
    await desk.until(desk.roles, lambda roles: len(roles) == 2)
    await migration.fail()
    found = await desk.until_migration("move", lambda raw: phase(raw) == "Aborted")
    completed = dt.datetime.fromisoformat(found["status"]["completionTime"])
    path = desk.path(Kind.MIGRATION, "move") + "/status"
    for seconds, stays in ((3500, True), (3601, False)):
        told = await operator.metric(MIGRATION_EVENTS)
        earlier = (completed - dt.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        await desk.api.call("PATCH", path, {"status": {"completionTime": earlier}})
        await until_told(operator, MIGRATION_EVENTS, told)
        if stays:
            assert await desk.migration("move")
    await desk.until_migration("move", lambda raw: not raw)
    # The migration of KubeVirt is still there, and that it changes brings nothing back.
    told = await operator.metric(VMIM_EVENTS)
    await desk.kubevirt.patch_vmim("move", {"metadata": {"labels": {"seen": "again"}}})
    await until_told(operator, VMIM_EVENTS, told)
    assert not await desk.migration("move")
    assert await desk.roles() == {migration.source_pod: "source of move Aborted"}


async def until_told(operator: Any, events: str, before: float) -> None:
    """Wait until the operator has heard of something more, and done what follows."""
    await waiting.until(lambda: operator.metric(events), lambda now: now > before)
    await operator.until_idle()


@pytest.mark.parametrize("step", ["schedule", "bind", "run"])
async def test_a_failure_while_it_is_down_is_told(
    new_operator: Callable[..., Any], desk: Any, step: str
) -> None:
    operator = new_operator()
    await operator.start()
    migration = await prepared(desk)
    await migration.until(step)
    await desk.until(desk.roles, lambda roles: roles.get(migration.source_pod) == "source of move")
    operator.kill()
    await migration.fail()
    await operator.start()
    await desk.until_roles({migration.source_pod: "source of move Aborted"})
    await desk.until_migration("move", lambda raw: phase(raw) == "Aborted")
    if migration.target_pod in desk.history:
        never_without_a_role(desk, migration.target_pod)


async def test_switched_off_it_makes_nothing(new_operator: Callable[..., Any], desk: Any) -> None:
    operator = new_operator(HANDOVER_KUBEVIRT="false")
    await operator.start()
    await desk.kubevirt.start(Guest("web"), "node-a", IPS)
    migration = await desk.kubevirt.request("web", "move")
    migration.node, migration.ips = "node-b", IPS
    await migration.until("run")
    assert await operator.metric('handover_operator_events_total{kind="Pod"}') == 0
    assert await desk.objects(Kind.ENDPOINT) == await desk.objects(Kind.MIGRATION) == []
