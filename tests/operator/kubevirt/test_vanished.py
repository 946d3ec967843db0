"""Objects that are gone: when, how they ended, and what is made or taken back for them."""

from collections.abc import Callable
from typing import Any

import pytest

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt.desired import Lookup, Owner
from handover_operator.kubevirt.queue_items import Item, Made, Subject, is_urgent

Build = Callable[..., dict[str, Any]]
SUCCEEDED = {"p1": "source of m Succeeded", "p2": "target of m Succeeded"}
KEY = ObjectKey("vms", "p1")
ABORTED = {"p1": "source of m Aborted", "p2": "target of m Aborted"}


def test_where_the_guest_is_now_decides_however_late_the_watches_are(
    moving: Any, vmi: Build
) -> None:
    moving.put(vmi(node="b"))
    moving.watches[Foreign.VMI].clear()
    moving.delete(Foreign.VMIM, "m")
    assert moving.settle().said() == SUCCEEDED


def test_the_last_version_of_what_is_gone_tells_how_it_ended(moving: Any, vmim: Build) -> None:
    """The guest is still said to be on node a, and no watch has shown the final phase."""
    moving.put(vmim(phase="Succeeded", sourcePod="p1"))
    moving.watches[Foreign.VMIM].clear()
    moving.delete(Foreign.VMIM, "m")
    assert moving.settle().said() == SUCCEEDED


def test_migration_state_names_the_node_where_no_watch_has_shown_the_pod(
    world: Any, vmi: Build, pod: Build, vmim: Build
) -> None:
    world.apply(vmi(node="a"), pod("p1", "a", ("10.0.0.1",)))
    world.apply(vmim(phase="Scheduling", sourcePod="p1"))
    state = {"migrationUid": "uid-m", "sourcePod": "p1", "targetNode": "b"}
    world.apply(vmi(node="b", status={"migrationState": state}))
    world.delete(Foreign.VMIM, "m")
    assert world.settle().said() == {"p1": "source of m Succeeded"}


def test_without_its_vm_a_migration_is_aborted(moving: Any) -> None:
    moving.delete(Foreign.VMI, "vm")
    moving.watches[Foreign.VMI].clear()
    moving.delete(Foreign.VMIM, "m")
    assert set(moving.settle().said().values()) <= set(ABORTED.values())


def test_what_was_deleted_in_a_gap_is_found_with_the_next_list(moving: Any) -> None:
    moving.delete(Foreign.VMIM, "m")
    for kind in (Foreign.VMIM, Kind.MIGRATION):
        moving.relist(kind)
    assert moving.settle().said() == ABORTED


def test_the_only_live_migration_that_goes_in_a_gap_gives_no_role_any_more(
    running: Any,
) -> None:
    spec = {"source": {"workload": {"name": "p1"}}}
    metadata = {"name": "mine", "namespace": "vms"}
    running.apply({"kind": "LiveMigration", "metadata": metadata, "spec": spec})
    assert running.said() == {"p1": "source of mine"}
    running.delete(Kind.MIGRATION, "mine")
    running.relist(Kind.MIGRATION)
    assert running.settle().said() == {"p1": "source of mine Aborted"}


@pytest.mark.parametrize(
    ("kind", "name", "made"), [(Foreign.POD, "p1", "p1"), (Foreign.VMIM, "m", "m")]
)
def test_nothing_is_made_for_an_owner_that_is_gone(
    moving: Any, kind: Foreign, name: str, made: str
) -> None:
    """What it owned was collected, and the watch that tells of it is faster than the owner's."""
    moving.log.clear()
    moving.delete(kind, name)
    ours = Kind.ENDPOINT if kind is Foreign.POD else Kind.MIGRATION
    while moving.watches[ours]:
        moving.deliver(ours)
    while choices := moving.operator.choices():
        choices[0]()
    moving.settle()
    assert f"create {made}" not in moving.log
    assert (ours, moving.key(made)) not in moving.stored


def test_what_was_made_while_its_owner_went_is_taken_back(running: Any, vmim: Build) -> None:
    running.put(vmim(phase="Scheduling", sourcePod="p1"))
    running.deliver(Foreign.VMIM)
    making = Subject(Kind.MIGRATION, running.key("m"))
    while not any(job.key == making for job in running.operator.jobs):
        running.operator.choices()[0]()
    assert running.migration() is None  # the request to make it is under way
    running.delete(Foreign.VMIM, "m")
    running.deliver(Foreign.VMIM)
    assert running.settle().migration() is None
    written = [line for line in running.log if line in {"create m", "delete m"}]
    assert written == ["create m", "delete m"]
    assert running.said()["p1"] in {"-", "source of m Aborted"}


def test_a_migration_waits_for_no_look_at_what_was_just_told(
    running: Any, pod: Build, vmim: Build
) -> None:
    """Guards the guest's time: with looks before each write its role came twice as late."""
    running.log.clear()
    running.apply(vmim(phase="Scheduling", sourcePod="p1"), pod("p2", "b", migration="m"))
    assert "create p2" in running.log
    asked = {line for line in running.log if line.startswith(("get ", "uid "))}
    assert asked == {"uid m", "uid p2"}
    for name in ("m", "p2"):
        assert running.log.index(f"create {name}") < running.log.index(f"uid {name}")


@pytest.mark.parametrize("item", [Subject(Kind.ENDPOINT, KEY), Lookup(KEY, Foreign.VMI, KEY, "u")])
def test_who_may_have_gone_is_asked_after_all_that_is_urgent(item: Item) -> None:
    assert is_urgent(item)
    assert not is_urgent(Made(Kind.ENDPOINT, KEY, "u", Owner(Foreign.POD, "p1", "uid-p1")))


def again(pod: Build, vmim: Build) -> list[dict[str, Any]]:
    """Build a VMIM of the same name as one before, and its pod."""
    labels = {"kubevirt.io/migrationJobUID": "uid-again"}
    annotations = {"kubevirt.io/migrationJobName": "m"}
    return [
        vmim(phase="Scheduling", sourcePod="p1", metadata={"uid": "uid-again"}),
        pod("p3", "c", labels=labels, annotations=annotations),
    ]


def test_an_orphan_of_ours_is_finished_and_stands_in_nobodys_way(
    moving: Any, pod: Build, vmim: Build
) -> None:
    """As after ``kubectl delete vmim m --cascade=orphan``, and the next migration of that name."""
    moving.delete(Foreign.VMIM, "m", cascade=False)
    assert moving.settle().said() == ABORTED
    assert moving.migration()["spec"]["outcome"] == "Aborted"
    moving.apply(*again(pod, vmim))
    assert moving.migration()["spec"]["id"] == "uid-again"
    assert moving.said() == {
        "p1": "source of m",
        "p2": "target of m Aborted",
        "p3": "target of m (not armed)",
    }
    assert not [event for event in moving.events if "NameClash" in event]


def test_an_endpoint_that_lost_its_owner_gets_it_back_or_goes_when_its_pod_has_gone(
    running: Any,
) -> None:
    references = running.endpoint("p1")["metadata"]["ownerReferences"]
    running.patch(Kind.ENDPOINT, "p1", {"metadata": {"ownerReferences": None}})
    assert running.settle().endpoint("p1")["metadata"]["ownerReferences"] == references
    running.delete(Foreign.POD, "p1", cascade=False)
    assert running.settle().said() == {}


def test_nothing_is_remembered_of_what_is_gone(
    world: Any, vmi: Build, pod: Build, vmim: Build
) -> None:
    hidden = [{"name": "default", "masquerade": {}}]
    theirs = {"node": "x", "workload": "mine", "ips": ["10.9.9.9"]}
    metadata = {"name": "p1", "namespace": "vms", "uid": "theirs"}
    world.apply(
        {"kind": "WorkloadEndpoint", "metadata": metadata, "spec": theirs},
        vmi(node="a"),
        pod("p1", "a", ("10.0.0.1",)),
        vmi("vm2", node="a", interfaces=hidden),
        pod("p2", "a", ("10.0.0.2",), vmi="vm2"),
        vmim(phase="Scheduling"),
    )
    owned = world.migration()["metadata"]["ownerReferences"][0] | {"uid": "never-was"}
    forged = {"ownerReferences": [owned], "annotations": {names.ADAPTER: "kubevirt"}}
    spec = {"source": {"workload": {"name": "mine"}}, "id": "never-was"}
    odd = {"name": "odd", "namespace": "vms", **forged}
    world.apply({"kind": "LiveMigration", "metadata": odd, "spec": spec})
    assert {"NameClash", "NotFollowed"} <= {event.rpartition(" ")[2] for event in world.events}
    assert world.operator.kubevirt._diff.ownerless == {"never-was"}
    for kind, name in (
        *((Kind.ENDPOINT, "p1"), (Kind.MIGRATION, "odd"), (Foreign.VMIM, "m")),
        *((Foreign.POD, "p1"), (Foreign.POD, "p2"), (Foreign.VMI, "vm"), (Foreign.VMI, "vm2")),
    ):
        world.delete(kind, name)
    world.settle()
    kubevirt = world.operator.kubevirt
    assert (len(kubevirt._emitted), kubevirt._diff.ownerless) == (0, set())
