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
    world.operator.kubevirt._ttl = 60
    world.apply(vmim(phase="Scheduling"))
    assert world.migration()["spec"]["ttlSecondsAfterFinished"] == 60


@pytest.mark.parametrize(
    ("owner_uid", "course"),
    [("never-was", "never-was"), ("uid-m", "another"), ("never-was", "uid-m")],
)
def test_a_forged_one_gives_way_to_that_of_the_migration(
    running: Any, vmim: Build, pod: Build, owner_uid: str, course: str
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
    spec = {"id": course, "source": {"workload": {"name": "p9"}}}
    running.apply({"kind": "LiveMigration", "metadata": metadata, "spec": spec})
    running.apply(vmim(phase="Scheduling", sourcePod="p1"), pod("p2", "b", migration="m"))
    assert running.migration()["metadata"]["uid"] != "forged"
    assert running.migration()["spec"]["id"] == "uid-m"
    assert running.said() == {"p1": "source of m", "p2": "target of m (not armed)"}
