"""The chart against a real API server: it installs, and its rights suffice and are no wider."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chart.conftest import AGENT, GROUPS, INSTALL, NAMESPACE, OPERATOR, TAKE

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.docs.chart import CHART

pytestmark = pytest.mark.api

OBJECTS = """
apiVersion: handover.dev/v1alpha1
kind: WorkloadEndpoint
metadata: {name: chart-a, namespace: default}
spec: {node: node-a, workload: chart-vm, ips: [10.65.0.9]}
---
apiVersion: handover.dev/v1alpha1
kind: LiveMigration
metadata: {name: chart-vm, namespace: default}
spec: {source: {endpoint: {name: chart-a}}, target: {endpoint: {name: chart-b}}}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]
Kubectl = Callable[..., str]


def test_the_server_takes_every_object(helm: Run, api_server: ControlPlane) -> None:
    done = helm(*INSTALL, *TAKE, "--dry-run=server", kubeconfig=api_server.kubeconfig)

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()


def test_the_notes_say_what_to_do_next(helm: Run, api_server: ControlPlane) -> None:
    done = helm(*INSTALL, *TAKE, "--dry-run=server", kubeconfig=api_server.kubeconfig)
    _, _, notes = done.stdout.partition("NOTES:")

    assert "kubectl get livemigrations" in notes
    assert "kubectl get workloadendpoints" in notes
    assert f"kubectl -n {NAMESPACE} rollout status daemonset/handover-nodeagent" in notes
    assert f"helm test handover --namespace {NAMESPACE}\n" in notes
    assert "VMs of KubeVirt need nothing more" in notes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"sourceRedirect": "off", "advertise": "bgp"},
            "",
        ),
        (
            {"sourceRedirect": "off", "advertise": "agents"},
            "let UDP 7473 through between all nodes. Where",
        ),
        (
            {"sourceRedirect": "auto", "advertise": "bgp", "redirectPort": 9000, "peerPort": 9001},
            "let UDP 9001 through between all nodes, and 9000 for what",
        ),
    ],
    ids=["nobody speaks", "agents distribute", "the source sends on"],
)
def test_the_notes_say_which_ports_must_be_open(
    helm: Run, api_server: ControlPlane, given: dict[str, object], said: str
) -> None:
    values = (f"--set-json=configuration={json.dumps(given)}", "--dry-run=server")
    done = helm(*INSTALL, *TAKE, *values, kubeconfig=api_server.kubeconfig)
    _, _, notes = done.stdout.partition("NOTES:")

    assert done.returncode == 0, done.stderr
    assert (said or "Handover") in " ".join(notes.split())
    assert ("UDP" in notes) is bool(said)


def test_an_uninstall_leaves_the_kinds_and_their_objects(
    helm: Run, api_server: ControlPlane, kubectl: Kubectl
) -> None:
    place = ("--namespace", "default")
    helm("install", "handover-two", CHART, *place, *TAKE, kubeconfig=api_server.kubeconfig)
    kubectl("apply", "--filename", "-", given=OBJECTS)

    helm("uninstall", "handover-two", *place, kubeconfig=api_server.kubeconfig)

    left = kubectl("get", "livemigrations,workloadendpoints", "--output=name")
    assert "livemigration.handover.dev/chart-vm" in left
    assert "workloadendpoint.handover.dev/chart-a" in left
    assert "NotFound" in kubectl("get", "clusterrole", "handover-two-operator")
    kubectl("delete", "--filename", "-", given=OBJECTS)


def test_a_lease_that_an_operator_has_made_is_left_to_it(
    helm: Run, api_server: ControlPlane, kubectl: Kubectl
) -> None:
    room = ("--namespace", "leased")
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    made = {**lease, "metadata": {"name": "handover-operator", "namespace": "leased"}}
    kubectl("create", "namespace", "leased")
    kubectl("create", "--filename=-", given=json.dumps(made))

    # Without --take-ownership, as a person would.
    settings = ("--set", "crds.install=false", "--set", "fullnameOverride=leased")
    done = helm("install", "leased", CHART, *room, *settings, kubeconfig=api_server.kubeconfig)
    gone = helm("uninstall", "leased", *room, kubeconfig=api_server.kubeconfig)

    assert (done.returncode, gone.returncode) == (0, 0), done.stderr + gone.stderr
    assert "handover-operator" in kubectl("get", "leases", *room)
    kubectl("delete", "lease", "handover-operator", *room)


@pytest.mark.usefixtures("installed")
def test_the_operator_may_apply_the_default_configuration_and_no_other(kubectl: Kubectl) -> None:
    manifest = {"apiVersion": "handover.dev/v1alpha1", "kind": "HandoverConfiguration"}
    apply = ("apply", "--server-side", "--field-manager=handover-operator", "--filename", "-")
    default, other = (
        json.dumps({**manifest, "metadata": {"name": name}, "spec": {"probeInterval": "50ms"}})
        for name in ("default", "node.a")
    )

    assert "default serverside-applied" in kubectl(*apply, given=default, user=OPERATOR)
    assert "forbidden" in kubectl(*apply, given=other, user=OPERATOR)
    kubectl("delete", "handoverconfiguration", "default")


NOBODYS = [
    ("get", "secrets"),
    ("get", "configmaps"),
    ("create", "pods"),
    ("update", "workloadendpoints.handover.dev"),
    ("update", "livemigrations.handover.dev"),
    ("delete", "handoverconfigurations.handover.dev"),
    ("patch", "virtualmachineinstances.kubevirt.io"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ("list", "events"),
    ("patch", "nodes"),
    ("patch", "namespaces"),
]
NO_AGENTS = [
    ("get", "pods"),
    ("list", "pods"),
    ("list", "livemigrations.handover.dev"),
    ("create", "livemigrations.handover.dev"),
    ("patch", "livemigrations.handover.dev"),
    ("create", "workloadendpoints.handover.dev"),
    ("delete", "workloadendpoints.handover.dev"),
    ("get", "leases.coordination.k8s.io"),
    ("list", "namespaces"),
]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("user", "verb", "resource"),
    [
        *((OPERATOR, *right) for right in NOBODYS),
        *((AGENT, *right) for right in NOBODYS + NO_AGENTS),
    ],
)
def test_what_nobody_uses_nobody_may(kubectl: Kubectl, user: str, verb: str, resource: str) -> None:
    answer = kubectl("auth", "can-i", verb, resource, "--all-namespaces", user=user)

    assert "no" in answer.split()


@pytest.mark.usefixtures("installed")
def test_the_agent_may_not_give_roles(kubectl: Kubectl) -> None:
    may = ("auth", "can-i", "patch", "workloadendpoints.handover.dev", "--all-namespaces")

    assert "no" in kubectl(*may, user=AGENT).split()
    assert "yes" in kubectl(*may, "--subresource=status", user=AGENT).split()


@pytest.mark.usefixtures("installed")
def test_the_operator_lives_on_the_rights_that_it_gets(
    api_server: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    path = "jsonpath={.data.configuration\\.yaml}"
    configuration = tmp_path / "configuration.yaml"
    configuration.write_text(
        kubectl("-n", NAMESPACE, "get", "configmap", "handover-configuration", f"--output={path}")
    )
    log = tmp_path / "log"
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(api_server.credentials(OPERATOR, *GROUPS)),
        "HANDOVER_CONFIGURATION_FILE": str(configuration),
        "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
        "HANDOVER_PORT": "0",
    }
    program = Path(sys.executable).with_name("handover-operator")
    with log.open("wb") as output:
        operator = subprocess.Popen([program, "run"], env=environment, stdout=output, stderr=output)
    try:
        kubectl("apply", "--filename", "-", given=OBJECTS)
        role = "jsonpath={.metadata.annotations.handover\\.dev/role}"
        outcome = json.dumps({"spec": {"outcome": "Aborted", "ttlSecondsAfterFinished": 0}})

        said = [
            kubectl("wait", "--for=create", "hc/default", "--timeout=30s"),
            kubectl("wait", "--for=condition=Accepted", "hc/default", "--timeout=30s"),
            kubectl("wait", f"--for={role}=source", "wep/chart-a", "--timeout=30s"),
            kubectl("wait", "--for=jsonpath={.status.phase}=Pending", "lm/chart-vm"),
            kubectl("patch", "lm", "chart-vm", "--type=merge", f"--patch={outcome}"),
            kubectl("wait", "--for=delete", "lm/chart-vm", "--timeout=30s"),
        ]

        assert [line for line in said if "error" in line.lower()] == []
        events = kubectl("get", "events", "--field-selector=involvedObject.name=chart-vm")
        assert "Aborted" in events
        assert '"probeInterval":"50ms"' in kubectl("get", "hc", "default", "--output=json").replace(
            " ", ""
        )
    finally:
        operator.terminate()
        operator.wait(30)
        kubectl("delete", "--ignore-not-found", "--filename", "-", given=OBJECTS)
        kubectl("delete", "--ignore-not-found", "handoverconfiguration", "default")
    assert "orbidden" not in log.read_text()
    assert '"level": "error"' not in log.read_text()
