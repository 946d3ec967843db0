"""What becomes of KubeVirt's objects, situation by situation."""

from collections.abc import Callable
from typing import Any

import pytest

from handover_api import names
from handover_operator.kinds import Foreign, Kind

A, B = ("10.0.0.1",), ("10.0.0.2",)
Build = Callable[..., dict[str, Any]]


def phase(world: Any, vmim: Build, name: str) -> None:
    """Let the VMIM enter a phase."""
    world.apply(vmim(phase=name, sourcePod="p1"))


def test_a_launcher_pod_has_an_endpoint(running: Any) -> None:
    endpoint = running.endpoint("p1")
    assert endpoint["spec"] == {
        "node": "a",
        "workload": "p1",
        "ips": ["10.0.0.1"],
        "mac": "02:7a:31:00:00:01",
    }
    assert endpoint["metadata"]["labels"] == {"kubevirt.io": "virt-launcher", "app": "web"}
    assert endpoint["metadata"]["annotations"] == {names.ADAPTER: "kubevirt"}
    assert endpoint["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "p1", "uid": "uid-p1", "controller": True}
    ]


def test_both_families_are_taken_over(world: Any, vmi: Build, pod: Build) -> None:
    world.apply(vmi(node="a"), pod("p1", "a", ("10.0.0.1", "FD00::1")))
    assert world.endpoint("p1")["spec"]["ips"] == ["10.0.0.1", "fd00::1"]


def test_a_mac_that_is_known_later_is_written_later(world: Any, vmi: Build, pod: Build) -> None:
    """A VirtualMachine without a macAddress: KubeVirt reports it when the guest runs."""
    bridge = [{"name": "default", "bridge": {}}]
    world.apply(vmi(interfaces=bridge), pod("p1", "a", A))
    assert "mac" not in world.endpoint("p1")["spec"]
    reported = {"interfaces": [{"name": "default", "mac": "02:7A:31:00:00:09"}]}
    world.apply(vmi(node="a", interfaces=bridge, status=reported))
    assert world.endpoint("p1")["spec"]["mac"] == "02:7a:31:00:00:09"


def test_nothing_is_made_before_there_is_a_network(world: Any, vmi: Build, pod: Build) -> None:
    world.apply(vmi(), pod("p1"), pod("p1", "a"))
    assert world.endpoint("p1") is None
    world.apply(pod("p1", "a", A))
    assert world.said() == {"p1": "-"}


@pytest.mark.parametrize(
    "fields",
    [
        {"owners": []},
        {"labels": {"kubevirt.io": "hotplug-disk"}},
        {"annotations": {"kubevirt.io/ephemeral-provisioning": "true"}},
        {"vmi": "another"},
        {
            "owners": [
                {"apiVersion": "v1", "kind": "Pod", "name": "vm", "uid": "uid-vm"},
                {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm"},
            ]
        },
    ],
    ids=["no owner", "attachment pod", "provisioning pod", "another VMI", "not controlled"],
)
def test_what_only_looks_like_a_launcher_is_none(
    world: Any, vmi: Build, pod: Build, fields: dict[str, Any]
) -> None:
    world.apply(vmi(node="a"), pod("p1", "a", A, **fields))
    assert world.said() == {}


def test_a_pod_of_an_earlier_vmi_of_that_name_is_none(world: Any, vmi: Build, pod: Build) -> None:
    world.apply(vmi(node="a", metadata={"uid": "new"}), pod("p1", "a", A))
    assert world.said() == {}


@pytest.mark.parametrize("ended", ["Succeeded", "Failed"])
def test_an_ended_pod_gives_up_its_endpoint(running: Any, ended: str) -> None:
    running.patch(Foreign.POD, "p1", {"status": {"phase": ended}})
    assert running.settle().said() == {}


def test_an_endpoint_outlives_what_is_not_known_to_have_ended(running: Any) -> None:
    for kind, name in ((Foreign.VMI, "vm"), (Foreign.POD, "p1")):
        running.operator.forget(kind, running.stored[kind, running.key(name)])
        assert running.settle().said() == {"p1": "-"}


def test_a_deleted_endpoint_comes_back(running: Any) -> None:
    running.delete(Kind.ENDPOINT, "p1")
    assert running.settle().said() == {"p1": "-"}


def test_labels_follow_the_pod_and_others_stay(running: Any) -> None:
    running.patch(Kind.ENDPOINT, "p1", {"metadata": {"labels": {"mine": "stays"}}})
    running.settle()
    running.patch(Foreign.POD, "p1", {"metadata": {"labels": {"app": None, "tier": "gold"}}})
    running.settle()
    labels = running.endpoint("p1")["metadata"]["labels"]
    assert labels == {"kubevirt.io": "virt-launcher", "mine": "stays", "tier": "gold"}


def test_a_label_that_a_pod_lost_while_nobody_looked_leaves_its_endpoint(running: Any) -> None:
    running.patch(Kind.ENDPOINT, "p1", {"metadata": {"labels": {"mine": "stays"}}})
    running.settle()
    running.patch(Foreign.POD, "p1", {"metadata": {"labels": {"app": None}}})
    running.restart()
    labels = running.endpoint("p1")["metadata"]["labels"]
    assert labels == {"kubevirt.io": "virt-launcher", "mine": "stays"}
    assert running.log == ["patch p1"]


def test_where_nobody_tells_who_wrote_a_label_it_stays(running: Any) -> None:
    running.endpoint("p1")["metadata"]["managedFields"] = []
    running.patch(Foreign.POD, "p1", {"metadata": {"labels": {"app": None}}})
    running.restart()
    assert running.endpoint("p1")["metadata"]["labels"]["app"] == "web"


@pytest.mark.parametrize("binding", ["masquerade", "slirp", "sriov", "passt", "passtBinding"])
def test_a_binding_that_cannot_keep_the_address_is_told_of(
    world: Any, vmi: Build, pod: Build, vmim: Build, binding: str
) -> None:
    world.apply(
        vmi(node="a", interfaces=[{"name": "default", binding: {}}]),
        pod("p1", "a", A),
        vmim(phase="Scheduling"),
    )
    assert world.said() == {}
    (desired,) = world.operator.adapter.desired().values()
    (refused,) = desired.not_followed
    assert refused.text.startswith(f"interface default is not followed: {binding} ")
    annotations = world.migration()["metadata"]["annotations"]
    assert annotations[names.NOT_FOLLOWED] == refused.text


def test_what_is_said_and_named_is_bounded(world: Any, vmi: Build, pod: Build, vmim: Build) -> None:
    """A VM with a thousand interfaces, and a pod with more addresses than an endpoint may have."""
    names_ = [f"net{number}" for number in range(1_000)]
    world.apply(
        vmi(
            node="a",
            interfaces=[
                {"name": "default", "bridge": {}},
                *({"name": name, "sriov": {}} for name in names_),
            ],
            networks=[
                {"name": "default", "pod": {}},
                *({"name": name, "multus": {"networkName": name}} for name in names_),
            ],
        ),
        pod("p1", "a", tuple(f"10.0.0.{number}" for number in range(1, 100))),
        vmim(phase="Scheduling"),
    )
    assert len(world.endpoint("p1")["spec"]["ips"]) == 16
    note = world.migration()["metadata"]["annotations"][names.NOT_FOLLOWED]
    assert note.endswith("and 995 more")
    assert len(note) < 1_000


def test_secondary_interfaces_are_endpoints_of_the_same_workload(
    world: Any, vmi: Build, pod: Build
) -> None:
    status = (
        '[{"name": "cni", "interface": "eth0", "ips": ["10.0.0.1"], "default": true},'
        ' {"name": "vms/vlan100", "interface": "pod1dba23260aa", "ips": ["192.0.2.7", "2001::7"]},'
        ' {"name": "vms/vlan200", "interface": "net2", "ips": ["192.0.2.8"]}]'
    )
    world.apply(
        vmi(
            node="a",
            interfaces=[
                {"name": "default", "masquerade": {}},
                {"name": "vlan100", "bridge": {}},
                {
                    "name": "old",
                    "binding": {"name": "managedTap"},
                    "macAddress": "02-AA-00-00-00-01",
                },
                {"name": "quiet", "bridge": {}},
            ],
            networks=[
                {"name": "default", "pod": {}},
                {"name": "vlan100", "multus": {"networkName": "vlan100"}},
                {"name": "old", "multus": {"networkName": "vms/vlan200"}},
                {"name": "quiet", "multus": {"networkName": "vms/vlan300"}},
            ],
            status={"interfaces": [{"name": "vlan100", "mac": "02:7A:31:00:00:02"}]},
        ),
        pod("p1", "a", A, annotations={"k8s.v1.cni.cncf.io/network-status": status}),
    )
    specs = {name: world.endpoint(name)["spec"] for name in world.said()}
    assert {spec["workload"] for spec in specs.values()} == {"p1"}
    assert {name: (spec["ips"], spec["mac"]) for name, spec in specs.items()} == {
        "p1.pod1dba23260aa": (["192.0.2.7", "2001::7"], "02:7a:31:00:00:02"),
        "p1.podcba06b5736f": (["192.0.2.8"], "02:aa:00:00:00:01"),
    }


def test_the_target_is_made_with_its_role_before_it_has_a_network(moving: Any) -> None:
    assert moving.said() == {
        "p1": "source of m",
        "p2": "target of m (not armed)",
    }
    assert moving.endpoint("p2")["spec"]["ips"] == ["10.0.0.1"]
    assert moving.log[-3:] != []
    spec = moving.migration()["spec"]
    assert spec == {
        "id": "uid-m",
        "source": {"workload": {"name": "p1"}},
        "target": {"selector": {"matchLabels": {"kubevirt.io/migrationJobUID": "uid-m"}}},
        "armed": False,
        "ttlSecondsAfterFinished": 3600,
    }


def test_the_target_keeps_its_addresses_or_is_corrected(moving: Any, pod: Build) -> None:
    moving.log.clear()
    moving.apply(pod("p2", "b", A, migration="m"))
    assert moving.log == []
    moving.apply(pod("p2", "b", B, migration="m"))
    assert moving.endpoint("p2")["spec"]["ips"] == ["10.0.0.2"]
    assert moving.said()["p2"] == "target of m (not armed)"
    (kept,) = [
        condition
        for condition in moving.migration()["status"]["conditions"]
        if condition["type"] == "AddressKept"
    ]
    assert (kept["status"], kept["reason"]) == ("False", "AddressChanged")


def test_it_is_armed_from_target_ready_on(moving: Any, vmim: Build) -> None:
    phase(moving, vmim, "PreparingTarget")
    assert moving.said()["p2"] == "target of m (not armed)"
    phase(moving, vmim, "TargetReady")
    assert moving.said() == {"p1": "source of m", "p2": "target of m"}


def test_success_is_told_by_the_final_phase_only(moving: Any, vmi: Build, vmim: Build) -> None:
    phase(moving, vmim, "Running")
    state = {"migrationUid": "uid-m", "completed": True, "endTimestamp": "2026-11-24T12:00:00Z"}
    moving.apply(vmi(node="b", status={"migrationState": state}))
    assert moving.said()["p2"] == "target of m"
    phase(moving, vmim, "Succeeded")
    assert moving.said() == {"p1": "source of m Succeeded", "p2": "target of m Succeeded"}


def test_how_it_went_is_told_of_the_vm_and_outlives_the_migration(moving: Any, vmim: Build) -> None:
    phase(moving, vmim, "Failed")
    moving.delete(Foreign.VMIM, "m")
    assert moving.settle().migration() is None
    assert "VirtualMachineInstance vm: Aborted" in moving.events


def test_a_guest_behind_its_pod_s_address_moves_without_a_success(
    world: Any, vmi: Build, pod: Build, vmim: Build
) -> None:
    hidden = [{"name": "default", "masquerade": {}}]
    world.apply(
        vmi(node="a", interfaces=hidden),
        pod("p1", "a", A),
        vmim(phase="Scheduling", sourcePod="p1"),
        pod("p2", "b", B, migration="m"),
    )
    phase(world, vmim, "Running")
    world.apply(vmi(node="b", interfaces=hidden))
    phase(world, vmim, "Succeeded")
    status = world.migration()["status"]
    (finished,) = [each for each in status["conditions"] if each["type"] == "Finished"]
    assert (status["phase"], finished["reason"]) == ("NotFollowed", "NotFollowed")
    assert "masquerade" in finished["message"]
    assert "VirtualMachineInstance vm: NotFollowed" in world.events


def test_failure_is_told_by_the_final_phase(moving: Any, vmim: Build) -> None:
    phase(moving, vmim, "Failed")
    assert moving.said() == {"p1": "source of m Aborted", "p2": "target of m Aborted"}
    moving.patch(Foreign.POD, "p2", {"status": {"phase": "Failed"}})
    assert moving.settle().said() == {"p1": "source of m Aborted"}


def test_at_most_three_writes_besides_the_creation(moving: Any, vmim: Build, pod: Build) -> None:
    """Of spec and annotations, per object and migration; the status is the resolver's."""
    moving.apply(pod("p2", "b", A, migration="m"))
    phase(moving, vmim, "Running")
    phase(moving, vmim, "Succeeded")
    moving.apply(pod("p2", "b", A, migration="m", labels={"kubevirt.io/nodeName": "b"}))
    counted = {name: moving.log.count(f"patch {name}") for name in ("p1", "p2")}
    assert counted == {"p1": 2, "p2": 3}


def test_a_finished_vmim_makes_nothing(running: Any, vmim: Build, pod: Build) -> None:
    running.apply(vmim(phase="Failed"), pod("p2", "b", B, migration="m"))
    assert running.migration() is None
    assert running.said() == {"p1": "-"}


def test_the_label_of_a_migration_long_ago_means_nothing(
    world: Any, vmi: Build, pod: Build
) -> None:
    world.apply(vmi(node="b"), pod("p2", "b", B, migration="gone"))
    assert world.said() == {"p2": "-"}
    assert world.migration("gone") is None


def test_a_lingering_pod_of_a_lost_migration_attracts_nothing(running: Any, pod: Build) -> None:
    running.apply(pod("p2", "b", B, migration="gone"))
    assert running.said() == {"p1": "-"}


def test_a_vmim_that_no_watch_has_shown_is_asked_for(
    world: Any, vmi: Build, pod: Build, vmim: Build
) -> None:
    world.apply(vmi(node="a"), pod("p1", "a", A))
    world.put(vmim(phase="Running", sourcePod="p1"))
    world.watches[Foreign.VMIM].clear()
    world.apply(pod("p2", "b", migration="m"))
    assert world.said()["p2"] == "target of m"


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        ("b", {"p1": "source of m Succeeded", "p2": "target of m Succeeded"}),
        ("a", {"p1": "source of m Aborted", "p2": "target of m Aborted"}),
    ],
)
def test_a_vmim_gone_without_a_final_phase_ended_where_the_guest_is(
    moving: Any, vmi: Build, node: str, wanted: dict[str, str]
) -> None:
    moving.apply(vmi(node=node))
    moving.delete(Foreign.VMIM, "m")
    assert moving.settle().said() == wanted
    assert moving.migration() is None  # collected with its VMIM


def test_a_vmim_gone_after_its_final_phase_keeps_its_outcome(moving: Any, vmim: Build) -> None:
    """Final phase and deletion arrive before anything could be written."""
    moving.put(vmim(phase="Failed", sourcePod="p1"))
    moving.delete(Foreign.VMIM, "m")
    assert moving.settle().said() == {"p1": "source of m Aborted", "p2": "target of m Aborted"}


def test_a_live_migration_deleted_under_way_is_made_again(moving: Any, vmim: Build) -> None:
    before = moving.said()
    moving.log.clear()
    moving.delete(Kind.MIGRATION, "m")
    assert moving.settle().said() == before
    assert [line for line in moving.log if "/status" not in line] == ["get m", "create m", "uid m"]
    phase(moving, vmim, "Succeeded")
    assert moving.said()["p2"] == "target of m Succeeded"


def test_the_next_migration_starts_where_the_last_has_ended(
    moving: Any, vmi: Build, vmim: Build, pod: Build
) -> None:
    moving.apply(vmi(node="b"), pod("p2", "b", A, migration="m"))
    phase(moving, vmim, "Succeeded")
    moving.apply(
        vmim("m2", "Pending", sourcePod="p2"),
        pod("p3", "c", migration="m2"),
        vmim("m2", "Scheduling", sourcePod="p2"),
    )
    assert moving.said() == {
        "p1": "source of m Succeeded",
        "p2": "source of m2",
        "p3": "target of m2 (not armed)",
    }


def test_a_retry_has_another_pod(moving: Any, vmim: Build, pod: Build) -> None:
    phase(moving, vmim, "Failed")
    moving.apply(
        vmim("m2", "Scheduling", sourcePod="p1"),
        pod("p3", "b", migration="m2"),
    )
    assert moving.said() == {
        "p1": "source of m2",
        "p2": "target of m Aborted",
        "p3": "target of m2 (not armed)",
    }


def test_one_half_of_a_decentralised_migration_is_enough(
    world: Any, vmi: Build, vmim: Build, pod: Build
) -> None:
    """The receiving half: its state names pods and nodes that are not here."""
    state = {"migrationUid": "uid-m", "sourcePod": "far", "sourceNode": "far"}
    world.apply(
        vmi(status={"phase": "Scheduled", "nodeName": "b", "migrationState": state}),
        vmim(phase="Scheduling"),
        pod("p2", "b", migration="m"),
    )
    assert world.said() == {}
    world.apply(pod("p2", "b", B, migration="m"))
    assert world.said() == {"p2": "target of m (not armed)"}
    assert "source" not in world.migration()["spec"]
    world.delete(Foreign.VMIM, "m")
    assert world.settle().said() == {"p2": "target of m Aborted"}


def test_the_sending_half_tells_its_source(running: Any, vmim: Build) -> None:
    running.apply(vmim(phase="Scheduling", sourcePod="p1"))
    assert running.said() == {"p1": "source of m"}
    phase(running, vmim, "Succeeded")
    assert running.said() == {"p1": "source of m Succeeded"}
    assert running.migration()["status"]["phase"] == "NotFollowed"  # nobody here has seen it


def test_long_names_are_no_matter(world: Any, vmi: Build, vmim: Build, pod: Build) -> None:
    name, job = "v" * 200, "m" * 200
    world.apply(
        vmi(name, node="a"),
        pod("p1", "a", A, vmi=name),
        vmim(job, "Scheduling", name, sourcePod="p1"),
        pod("p2", "b", vmi=name, migration=job),
    )
    assert world.said() == {
        "p1": f"source of {job}",
        "p2": f"target of {job} (not armed)",
    }


def others(kind: Kind, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Build an object that a person made."""
    metadata = {"name": name, "namespace": "vms", "annotations": {}, "uid": "theirs"}
    return {"apiVersion": kind.api_version, "kind": kind.value, "metadata": metadata, "spec": spec}


def test_what_people_made_is_left_alone(world: Any, vmi: Build, pod: Build, vmim: Build) -> None:
    endpoint = {"node": "x", "workload": "mine", "ips": ["10.9.9.9"]}
    migration = {"source": {"workload": {"name": "mine"}}}
    world.apply(
        others(Kind.ENDPOINT, "p1", endpoint),
        others(Kind.MIGRATION, "m", migration),
        vmi(node="a"),
        pod("p1", "a", A),
        vmim(phase="Scheduling", sourcePod="p1"),
        pod("p2", "b", A, migration="m"),
        vmim(phase="Succeeded"),
    )
    assert world.endpoint("p1")["spec"] == endpoint
    assert world.migration()["spec"] == migration
    assert world.said()["p2"] == "target of m Succeeded"  # told without a LiveMigration


def test_a_name_that_becomes_free_is_taken(world: Any, vmi: Build, pod: Build) -> None:
    endpoint = {"node": "x", "workload": "mine", "ips": ["10.9.9.9"]}
    world.apply(others(Kind.ENDPOINT, "p1", endpoint), vmi(node="a"), pod("p1", "a", A))
    world.delete(Kind.ENDPOINT, "p1")
    assert world.settle().endpoint("p1")["spec"]["node"] == "a"


@pytest.mark.parametrize("at", ["Scheduling", "Running", "Succeeded", "Failed"])
def test_a_restart_rewrites_nothing(moving: Any, vmim: Build, at: str) -> None:
    phase(moving, vmim, at)
    before = moving.said()
    assert moving.restart().log == []
    assert moving.said() == before


def test_an_interface_that_is_unplugged_gives_up_its_endpoint(running: Any, vmi: Build) -> None:
    running.apply(vmi(node="a", interfaces=[]))
    assert running.said() == {}


def test_a_forgotten_vm_leaves_nothing_behind(moving: Any) -> None:
    for kind, name in (
        (Foreign.VMIM, "m"),
        (Foreign.POD, "p1"),
        (Foreign.POD, "p2"),
        (Foreign.VMI, "vm"),
    ):
        moving.delete(kind, name)
    moving.settle()
    adapter = moving.operator.adapter
    assert not any(
        (adapter._of_vmi, adapter._objects, adapter._desired, adapter._vmi_of_vmim, adapter._pods)
    )


def test_a_migration_made_anew_under_its_name_for_another_vmi_is_wanted(
    world: Any, vmi: Callable[..., Any], vmim: Callable[..., Any], pod: Callable[..., Any]
) -> None:
    # Of several, since the order in which VMIs are looked at is nobody's.
    for number in range(5):
        for name in (f"a{number}", f"b{number}"):
            world.apply(vmi(name, node="a"), pod(f"p-{name}", node="a", vmi=name))
        world.apply(vmim("m", phase="Running", vmi=f"a{number}"))
        anew = vmim("m", phase="Running", vmi=f"b{number}")
        anew["metadata"]["uid"] = f"anew-{number}"
        world.delete(Foreign.VMIM, "m")
        world.put(anew)
        # The deletion fell into a gap: only the new one is told.
        world.relist(Foreign.VMIM)
        world.settle()
        wanted = world.operator.adapter.migration(world.key("m"))
        assert wanted.owner.uid == f"anew-{number}"
        world.delete(Foreign.VMIM, "m")
        world.settle()


def test_a_part_of_a_status_that_is_no_more_is_taken_out_once(world: Any) -> None:
    status = {"sourceCount": 100, "source": [], "readyTime": "2026-11-24T12:00:00Z"}
    lm = {
        "apiVersion": names.API_VERSION,
        "kind": Kind.MIGRATION.value,
        "metadata": {"name": "m", "namespace": "vms", "uid": "u"},
        "spec": {"source": {"workload": {"name": "nobody"}}},
        "status": status,
    }
    world.apply(lm)
    assert world.log == ["patch m/status"]
    assert "sourceCount" not in world.migration("m")["status"]
