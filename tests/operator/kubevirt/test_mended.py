"""What somebody has changed in the adapter's own objects, and what somebody has forged."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from handover_api import names
from handover_operator.kinds import Kind

Build = Callable[..., dict[str, Any]]

ELSEWHERE = {
    "another label": {"selector": {"matchLabels": {"app": "web"}}},
    "one more label": {
        "selector": {"matchLabels": {"kubevirt.io/migrationJobUID": "uid-m", "app": "web"}}
    },
    "an expression": {"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
    "a workload": {"workload": {"name": "p9"}},
    "an endpoint": {"endpoint": {"name": "p9"}},
}


@pytest.mark.parametrize("target", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_target_that_somebody_has_changed_is_mended(moving: Any, target: dict[str, Any]) -> None:
    wanted, said = copy.deepcopy(moving.migration()["spec"]), moving.said()
    changed = copy.deepcopy(moving.migration())
    changed["spec"]["target"] = target
    assert moving.apply(changed).migration()["spec"] == wanted
    assert moving.said() == said


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"workload": None, "endpoint": {"name": "p9"}}},
        {"source": {"workload": {"name": "p9"}}},
        {"armed": True},
        {"ttlSecondsAfterFinished": 0},
        {"ttlSecondsAfterFinished": None},
    ],
)
def test_all_else_of_its_spec_is_mended_too(moving: Any, change: dict[str, Any]) -> None:
    wanted = copy.deepcopy(moving.migration()["spec"])
    moving.patch(Kind.MIGRATION, "m", {"spec": change})
    assert moving.settle().migration()["spec"] == wanted


def test_its_owner_is_given_back(moving: Any) -> None:
    wanted = copy.deepcopy(moving.migration()["metadata"]["ownerReferences"])
    moving.patch(Kind.MIGRATION, "m", {"metadata": {"ownerReferences": None}})
    assert moving.settle().migration()["metadata"]["ownerReferences"] == wanted


def test_the_workload_of_an_endpoint_is_mended(running: Any) -> None:
    running.patch(Kind.ENDPOINT, "p1", {"spec": {"workload": "another"}})
    assert running.settle().endpoint("p1")["spec"]["workload"] == "p1"


def test_a_setting_says_how_long_it_can_be_looked_at(world: Any, vmim: Build) -> None:
    world.operator.kubevirt._diff.ttl = 60
    world.apply(vmim(phase="Scheduling"))
    assert world.migration()["spec"]["ttlSecondsAfterFinished"] == 60


@pytest.mark.parametrize(
    ("owner_uid", "spec_id"),
    [("never-was", "never-was"), ("uid-m", "another"), ("never-was", "uid-m")],
)
def test_a_forged_one_gives_way_to_that_of_the_migration(
    running: Any, vmim: Build, pod: Build, owner_uid: str, spec_id: str
) -> None:
    owner = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "name": "m",
        "uid": owner_uid,
        "controller": True,
    }
    metadata = {
        "name": "m",
        "namespace": "vms",
        "uid": "forged",
        "annotations": {names.ADAPTER: "kubevirt"},
        "ownerReferences": [owner],
    }
    spec = {"id": spec_id, "source": {"workload": {"name": "p9"}}}
    running.apply({"kind": "LiveMigration", "metadata": metadata, "spec": spec})
    running.apply(vmim(phase="Scheduling", sourcePod="p1"), pod("p2", "b", migration="m"))
    assert running.migration()["metadata"]["uid"] != "forged"
    assert running.migration()["spec"]["id"] == "uid-m"
    assert running.said() == {"p1": "source of m", "p2": "target of m (not armed)"}


def unreadable(kind: str, name: str) -> dict[str, Any]:
    """Compose an object of ours whose spec no version of the contract allows."""
    spec = {"node": 7} if kind == "WorkloadEndpoint" else {"source": 7}
    return {"kind": kind, "metadata": {"name": name, "namespace": "vms"}, "spec": spec}


@pytest.mark.parametrize(
    ("kind", "name", "owner"),
    [
        (Kind.ENDPOINT, "p1", "Pod p1"),
        (Kind.MIGRATION, "m", "VirtualMachineInstanceMigration m"),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_name_that_what_nobody_can_read_holds_is_told_and_left_alone(
    world: Any,
    vmi: Build,
    pod: Build,
    vmim: Build,
    *,
    kind: Kind,
    name: str,
    owner: str,
    is_known: bool,
) -> None:
    world.put(unreadable(kind.value, name))
    if not is_known:  # its watch is late: only the request to make ours shows it
        world.watches[kind].clear()
    world.apply(vmi(node="a"), pod("p1", "a", ("10.0.0.1",)), vmim(phase="Scheduling"))
    clashes = [event for event in world.events if event.endswith("NameClash")]
    assert sorted(clashes) == sorted([f"{kind} {name}: NameClash", f"{owner}: NameClash"])
    assert not [line for line in world.log if line.split()[:2] == ["create", name]]


def test_when_it_can_be_read_it_counts_and_when_it_goes_ours_is_made(
    world: Any, vmi: Build, pod: Build
) -> None:
    world.apply(unreadable("WorkloadEndpoint", "p1"), vmi(node="a"), pod("p1", "a", ("10.0.0.1",)))
    theirs = {"node": "x", "workload": "mine", "ips": ["10.9.9.9"]}
    world.patch(Kind.ENDPOINT, "p1", {"spec": theirs})
    assert world.settle().endpoint("p1")["spec"] == theirs
    world.delete(Kind.ENDPOINT, "p1")
    assert world.settle().endpoint("p1")["spec"]["workload"] == "p1"


def test_one_of_ours_that_somebody_has_made_unreadable_is_written_again_when_it_can_be_read(
    running: Any, pod: Build
) -> None:
    running.patch(Kind.ENDPOINT, "p1", {"spec": {"node": 7}})
    running.apply(pod("p1", "a", ("10.0.0.2",)))
    assert running.endpoint("p1")["spec"]["ips"] == ["10.0.0.1"]
    running.patch(Kind.ENDPOINT, "p1", {"spec": {"node": "a"}})
    assert running.settle().endpoint("p1")["spec"]["ips"] == ["10.0.0.2"]
