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


@pytest.mark.parametrize("item", [Subject(Kind.ENDPOINT, KEY), Lookup(KEY, Foreign.VMI, KEY, "u")])
def test_who_may_have_gone_is_asked_after_all_that_is_urgent(item: Item) -> None:
    assert is_urgent(item)
    assert not is_urgent(Made(Kind.ENDPOINT, KEY, "u", Owner(Foreign.POD, "p1", "uid-p1")))


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
