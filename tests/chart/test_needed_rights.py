"""Every right that the operator's roles give is needed, and no other is missing: it asks for each.

The operator begins with no right at all, and is given one whenever its log says that it lacks one,
while a person and KubeVirt do what they do. What it was given in the end must be what the chart
gives. The agent's few rights are asked for one by one.
"""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio import client, config
from tests.chart.conftest import Kubectl, Manifest

from handover_api import names
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpointStatus
from handover_lab.chart import CRDS
from handover_lab.controlplane import ControlPlane
from handover_nodeagent import access, notices, report
from handover_nodeagent.apiserver import ApiServer, Refused
from handover_nodeagent.notices import Notice, Waiting
from handover_operator import cluster
from handover_operator.cluster import Cluster
from handover_operator.kinds import Kind
from handover_operator.reconcile import Reconciler, Subject
from handover_operator.workqueue import Outdated

pytestmark = pytest.mark.api

NEEDY = "needy"
ROOM = "needy"
PATIENCE = 60.0
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
REFUSAL = re.compile(
    r'User \\*"needy\\*" cannot (\w+) resource \\*"([a-z/]+)\\*" in API group \\*"([a-z0-9.]*)\\*"'
)
ON_CONFLICT = {
    ("handover.dev", kind, "get")
    for kind in ("livemigrations", "workloadendpoints", "handoverconfigurations")
}
"""What the operator reads again when somebody else was faster: proved by itself."""

Right = tuple[str, str, str]


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


class Needy:
    """An operator, and the rights that it was given one by one."""

    def __init__(self, api_server: ControlPlane, kubectl: Kubectl, room: Path) -> None:
        self.rights: set[Right] = set()
        self.log = room / "log"
        self._kubectl = kubectl
        self._process: subprocess.Popen[bytes] | None = None
        self._read = self._turn = 0
        configuration = room / "configuration.yaml"
        configuration.write_text("probeInterval: 50ms\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(api_server.credentials(NEEDY)),
            "HANDOVER_CONFIGURATION_FILE": str(configuration),
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            "HANDOVER_PORT": "0",
            "HANDOVER_LEADER_ELECTION": "true",
            "HANDOVER_NAMESPACE": ROOM,
            # Started again, it still holds the Lease.
            "HANDOVER_POD_NAME": NEEDY,
            "HANDOVER_POD_UID": NEEDY,
        }

    def until(self, is_done: Callable[[], object]) -> None:
        """Wait, and give what is asked for meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not is_done():
            if time.monotonic() > deadline:
                pytest.fail(f"never done; the log ends with {self.log.read_text()[-2000:]}")
            self._run()
            self._give()
            time.sleep(0.05)

    def _run(self) -> None:
        if self._process is None or self._process.poll() is not None:
            program = Path(sys.executable).with_name("handover-operator")
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [program, "run"], env=self._environment, stdout=log, stderr=log
                )

    def _give(self) -> None:
        text = self.log.read_text() if self.log.exists() else ""
        asked = {
            (group, resource, verb) for verb, resource, group in REFUSAL.findall(text[self._read :])
        }
        self._read = text.rfind("\n") + 1
        if asked - self.rights:
            self.rights |= asked
            self.write_role()
            # Its next attempt may be far away.
            self.stop()

    def write_role(self) -> None:
        """Make the role that holds all that was given; it is in force when this returns."""
        self._turn += 1
        mark = f"/turn-{self._turn}"
        rules = [
            {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
            for group, resource, verb in sorted(self.rights)
        ]
        turn = {"nonResourceURLs": [mark], "verbs": ["get"]}
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
        self._kubectl(
            *("apply", "--filename=-"),
            given=json.dumps({**role, "metadata": {"name": NEEDY}, "rules": [*rules, turn]}),
        )
        while "yes" not in self._kubectl("auth", "can-i", "get", mark, user=NEEDY):
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def needy(api_server: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> Iterator[Needy]:
    """Have an operator without rights, in a cluster with our kinds and KubeVirt's."""
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")
    for each in KUBEVIRT:
        kubectl("apply", "--filename=-", given=json.dumps(each))
        kubectl("wait", "--for=condition=Established", f"crd/{each['metadata']['name']}")
    kubectl("create", "namespace", ROOM)
    needy = Needy(api_server, kubectl, tmp_path)
    kubectl("create", "clusterrolebinding", NEEDY, f"--clusterrole={NEEDY}", f"--user={NEEDY}")
    needy.write_role()
    yield needy
    needy.stop()
    kubectl("delete", "pods,vmi,vmim,lm,wep", "--all", "-n", ROOM, "--force", "--grace-period=0")
    kubectl("delete", "hc", "default", "--ignore-not-found")
    for each in KUBEVIRT:
        kubectl("delete", "crd", each["metadata"]["name"])
    kubectl("delete", f"clusterrolebinding/{NEEDY}", f"clusterrole/{NEEDY}")


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
    # Pods whose VMI and VMIM nobody has seen: what a list shows at the start is not asked for.
    stray = {"kubevirt.io/migrationJobUID": "gone"}
    where = {"kubevirt.io/migrationJobName": "gone"}
    lacking = {("kubevirt.io", each["spec"]["names"]["plural"], "get") for each in KUBEVIRT}

    def asked() -> bool:
        apply(launcher(f"stray-{uuid.uuid4().hex}", "another", labels=stray, annotations=where))
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
    needy.until(lambda: '"Accepted"' in kubectl("get", "hc", "default", "--output=json"))

    roles = ("ClusterRole/handover-operator", "ClusterRole/handover-operator-kubevirt")
    given = rights(release, *roles, "Role/handover-operator")
    assert needy.rights == given - ON_CONFLICT


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
    api = Cluster(configuration)
    reconciler = Reconciler(api, lambda: NOW)
    stale = {"metadata": {"resourceVersion": "1"}, **({"status": {}} if subresource else {})}

    try:
        with pytest.raises(cluster.Refused, match=f'cannot get resource "{kind.plural}"'):
            await reconciler._patch(Subject(kind, key), stale, subresource=subresource)
        needy.rights.add(("handover.dev", kind.plural, "get"))
        needy.write_role()
        with pytest.raises(Outdated):
            await reconciler._patch(Subject(kind, key), stale, subresource=subresource)
    finally:
        await api.close()


AGENTS = [
    ("handover.dev", "workloadendpoints", "list"),
    ("handover.dev", "workloadendpoints", "watch"),
    ("handover.dev", "handoverconfigurations", "list"),
    ("handover.dev", "handoverconfigurations", "watch"),
    ("handover.dev", "workloadendpoints/status", "patch"),
    ("", "events", "create"),
]


def test_the_agents_rights_are_those_that_are_tried_here(release: dict[str, Manifest]) -> None:
    assert rights(release, "ClusterRole/handover-nodeagent") == set(AGENTS)


@pytest.mark.parametrize("lacking", AGENTS, ids=" ".join)
async def test_an_agent_that_lacks_a_right_is_refused_what_it_does(
    needy: Needy, api_server: ControlPlane, kubectl: Kubectl, lacking: Right
) -> None:
    spec = {"node": "node-a", "workload": "vm", "ips": ["10.65.0.9"]}
    manifest = {"apiVersion": names.API_VERSION, "kind": "WorkloadEndpoint", "spec": spec}
    given = json.dumps({**manifest, "metadata": {"name": "lone"}})
    uid = json.loads(kubectl("apply", "-n", ROOM, "--filename=-", "--output=json", given=given))
    needy.rights = set(AGENTS) - {lacking}
    needy.write_role()
    group, resource, verb = lacking

    async with ApiServer(access.find({"KUBECONFIG": str(api_server.credentials(NEEDY))})) as api:
        with pytest.raises(
            Refused, match=f'cannot {verb} resource "{resource}" in API group "{group}"'
        ):
            await live(api, uid["metadata"]["uid"])
        needy.rights = set(AGENTS)
        needy.write_role()
        await live(api, uid["metadata"]["uid"])


async def live(api: ApiServer, uid: str) -> None:
    """Do all that an agent does, by the calls that it uses."""
    for plural in (names.WORKLOAD_ENDPOINTS, names.CONFIGURATIONS):
        path = f"/apis/{names.API_VERSION}/{plural}"
        async for page in api.pages(path):
            version = page.version
        query = {"resourceVersion": version, "timeoutSeconds": "1", "watch": "1"}
        async for _ in api.stream(path, query, silence=5, longest=10):
            pass
    lone = ObjectKey(ROOM, "lone")
    status = WorkloadEndpointStatus(state=State.BASE)
    await api.patch(report._path(lone), report.operations(uid, status))
    waiting = Waiting(Notice(lone, uid, "Test", "", warning=False), uuid.uuid4().hex, NOW, NOW)
    await api.create(f"/api/v1/namespaces/{ROOM}/events", notices.body(waiting, "node-a"))


def rights(release: dict[str, Manifest], *roles: str) -> set[Right]:
    """Return what roles give, whatever the names that bound them."""
    return {
        (group, resource, verb)
        for role in roles
        for rule in release[role]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
