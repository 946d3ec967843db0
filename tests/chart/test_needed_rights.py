"""Every right that the operator's roles give is needed, and no other is missing: it asks for each.

The operator begins with no right at all, and is given one whenever its log says that it lacks one,
while a person and KubeVirt do what they do. What it was given in the end must be what the chart
gives.
"""

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio import client, config
from tests.chart import needs
from tests.chart.conftest import Kubectl, Manifest
from tests.chart.needs import NEEDY, ROOM, Needy

from handover_api import names
from handover_api.names import ObjectKey
from handover_lab.cluster.controlplane import ControlPlane
from handover_operator.controller import Controller
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.connection import Connection
from handover_operator.kube.errors import Outdated, Refused

pytestmark = pytest.mark.api

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
ON_CONFLICT = {
    ("handover.dev", kind, "get")
    for kind in ("livemigrations", "workloadendpoints", "handoverconfigurations")
}
"""What the operator reads again when somebody else was faster: proved by itself."""

OURS = {"apiVersion": names.API_VERSION}
WAY = {"source": "here", "target": "nowhere"}


def foreign(plural: str, name: str, short: str) -> Manifest:
    """Compose a kind of KubeVirt that holds anything."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.kubevirt.io"},
        "spec": {
            "group": "kubevirt.io",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": name, "shortNames": [short]},
            "versions": [version],
        },
    }


KUBEVIRT = (
    foreign("virtualmachineinstances", "VirtualMachineInstance", "vmi"),
    foreign("virtualmachineinstancemigrations", "VirtualMachineInstanceMigration", "vmim"),
)


def vmi(binding: str = "bridge") -> Manifest:
    """Compose a VMI that runs on node-a."""
    interface = {"name": "default", binding: {}, "macAddress": "02:7a:31:00:00:01"}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm"},
        "spec": {
            "domain": {"devices": {"interfaces": [interface]}},
            "networks": [{"name": "default", "pod": {}}],
        },
        "status": {"phase": "Running", "nodeName": "node-a"},
    }


def vmim(phase: str) -> Manifest:
    """Compose a migration of the VMI."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "move"},
        "spec": {"vmiName": "vm"},
        "status": {"phase": phase},
    }


def launcher(name: str, vmi_uid: str, **metadata: object) -> Manifest:
    """Compose a virt-launcher pod on node-a."""
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "ownerReferences": [{**owner, "uid": vmi_uid, "controller": True}],
            "labels": {"kubevirt.io": "virt-launcher", **metadata.pop("labels", {})},  # type: ignore[dict-item]
            **metadata,
        },
        "spec": {"nodeName": "node-a", "containers": [{"name": "compute", "image": "launcher"}]},
    }


@pytest.fixture
def needy(api_server: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> Iterator[Needy]:
    """Have an operator without rights."""
    with needs.without_rights(api_server, kubectl, tmp_path) as needy:
        yield needy


@pytest.fixture
def kubevirt(kubectl: Kubectl) -> Iterator[None]:
    """Have KubeVirt's kinds in the cluster."""
    for each in KUBEVIRT:
        kubectl("apply", "--filename=-", given=json.dumps(each))
        kubectl("wait", "--for=condition=Established", f"crd/{each['metadata']['name']}")
    yield
    kubectl("delete", "pods,vmi,vmim", "--all", "-n", ROOM, "--force", "--grace-period=0")
    for each in KUBEVIRT:
        kubectl("delete", "crd", each["metadata"]["name"])


@pytest.mark.usefixtures("kubevirt")
def test_the_operator_asks_for_just_what_the_chart_gives(
    needy: Needy, kubectl: Kubectl, release: dict[str, Manifest]
) -> None:
    def apply(manifest: Manifest) -> dict[str, Any]:
        arguments = ("apply", "-n", ROOM, "--filename=-", "--output=json")
        made: dict[str, Any] = json.loads(kubectl(*arguments, given=json.dumps(manifest)))
        return made

    def says(what: str, path: str, wanted: str) -> Callable[[], bool]:
        ask = ("get", what, "-n", ROOM, f"--output=jsonpath={{{path}}}", "--ignore-not-found")
        return lambda: kubectl(*ask).strip() == wanted

    def address(pod: str) -> None:
        status = '{"status": {"podIPs": [{"ip": "10.65.0.7"}], "podIP": "10.65.0.7"}}'
        patch = ("--subresource=status", "--type=merge", f"--patch={status}")
        kubectl("patch", "pod", pod, "-n", ROOM, *patch)

    # Somebody moves a guest to a node that does not exist.
    for name in ("here", "nowhere"):
        spec = {"node": name, "workload": name, "ips": ["10.65.0.8"]}
        apply({**OURS, "kind": "WorkloadEndpoint", "metadata": {"name": name}, "spec": spec})
    sides = {side: {"endpoint": {"name": at}} for side, at in WAY.items()}
    apply({**OURS, "kind": "LiveMigration", "metadata": {"name": "lost"}, "spec": sides})
    # KubeVirt runs a VM, and moves it.
    uid = apply(vmi())["metadata"]["uid"]
    apply(launcher("launcher-a", uid))
    address("launcher-a")
    needy.until(says("wep/launcher-a", ".spec.node", "node-a"))
    apply(vmim("Scheduling"))
    needy.until(says("lm/move", ".spec.source.workload.name", "launcher-a"))
    needy.until(says("wep/launcher-a", r".metadata.annotations.handover\.dev/role", "source"))
    apply(vmim("TargetReady"))
    needy.until(says("lm/move", ".spec.armed", "true"))
    lacking = {("kubevirt.io", each["spec"]["names"]["plural"], "get") for each in KUBEVIRT}

    def asked() -> bool:
        # A pod whose VMI and VMIM nobody has seen. Each time others: what a list shows at the start
        # is not asked for, nor what is known to be absent.
        one = uuid.uuid4().hex
        stray = {"kubevirt.io/migrationJobUID": f"gone-{one}"}
        where = {"kubevirt.io/migrationJobName": f"gone-{one}"}
        apply(launcher(f"stray-{one}", f"another-{one}", labels=stray, annotations=where))
        return lacking <= needy.rights

    needy.until(asked)
    # The guest comes to hide behind the pod.
    apply(vmi("masquerade"))
    needy.until(says("wep/launcher-a", ".spec.node", ""))
    apply(vmim("Failed"))
    needy.until(says("lm/move", ".status.phase", "Aborted"))
    needy.until(lambda: ("", "events", "create") in needy.rights)
    kubectl(
        "patch", "lm/move", "-n", ROOM, "--type=merge", '-p={"spec":{"ttlSecondsAfterFinished":0}}'
    )
    needy.until(says("lm/move", ".status.phase", ""))
    needy.until(
        says("lm/lost", '.status.conditions[?(@.type=="TargetReady")].reason', "NodeAbsent")
    )
    needy.until(lambda: '"Accepted"' in kubectl("get", "hc", "default", "--output=json"))

    roles = ("ClusterRole/handover-operator", "ClusterRole/handover-operator-kubevirt")
    given = needs.rights(release, *roles, "Role/handover-operator")
    assert needy.rights - ON_CONFLICT == given - ON_CONFLICT


@pytest.mark.parametrize(
    ("kind", "name", "subresource"),
    [
        (Kind.ENDPOINT, "lone", ""),
        (Kind.MIGRATION, "lone", "/status"),
        (Kind.CONFIGURATION, "default", "/status"),
    ],
)
async def test_the_operator_reads_again_what_somebody_else_has_changed(
    needy: Needy,
    api_server: ControlPlane,
    kubectl: Kubectl,
    kind: Kind,
    name: str,
    subresource: str,
) -> None:
    key = ObjectKey("" if kind is Kind.CONFIGURATION else ROOM, name)
    specs: dict[Kind, dict[str, object]] = {
        Kind.ENDPOINT: {"node": "node-a", "workload": "vm", "ips": ["10.65.0.9"]},
        Kind.MIGRATION: {"source": {"endpoint": {"name": "lone"}}},
        Kind.CONFIGURATION: {},
    }
    made = {"apiVersion": names.API_VERSION, "kind": kind.value, "spec": specs[kind]}
    given = json.dumps({**made, "metadata": {"name": name}})
    kubectl("apply", "-n", ROOM, "--filename=-", given=given)
    needy.rights = {("handover.dev", f"{kind.plural}{subresource}", "patch")}
    needy.write_role()
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(api_server.credentials(NEEDY)), client_configuration=configuration
    )
    connection = Connection(configuration)
    controller = Controller(Cluster(connection), lambda: NOW)
    stale = {"metadata": {"resourceVersion": "1"}, **({"status": {}} if subresource else {})}

    try:
        with pytest.raises(Refused, match=f'cannot get resource "{kind.plural}"'):
            await controller._writer.patch(kind, key, stale, subresource=subresource)
        needy.rights.add(("handover.dev", kind.plural, "get"))
        needy.write_role()
        with pytest.raises(Outdated):
            await controller._writer.patch(kind, key, stale, subresource=subresource)
    finally:
        await connection.close()
