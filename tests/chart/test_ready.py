"""`helm test`: the check says whether a cluster is ready, and what to do where it is not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.chart.conftest import GROUPS, NAMESPACE, Kubectl, Manifest, Run

from handover_lab.chart import CHART
from handover_lab.controlplane import ControlPlane
from handover_operator import readiness
from handover_operator.readiness import Finding

TESTER = f"system:serviceaccount:{NAMESPACE}:handover-test"
Check = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def hooks(helm: Run) -> list[Manifest]:
    """Return the objects of the test."""
    only = ("--show-only", "templates/tests/ready.yaml", "--namespace", NAMESPACE)
    return list(yaml.safe_load_all(helm("template", "handover", CHART, *only).stdout))


@pytest.fixture
def check(hooks: list[Manifest], api_server: ControlPlane, kubectl: Kubectl) -> Iterator[Check]:
    """Run the command of the test's pod with the account and the rights of the test."""
    rights = json.dumps({"apiVersion": "v1", "kind": "List", "items": hooks[1:-1]})
    kubectl("apply", "--filename=-", given=rights)
    (container,) = hooks[-1]["spec"]["containers"]
    kubeconfig = str(api_server.credentials(TESTER, *GROUPS))

    def run(*others: str) -> tuple[int, str]:
        program = Path(sys.executable).with_name("handover-operator")
        done = subprocess.run(
            [program, *container["args"], *others],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": kubeconfig},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    kubectl("delete", "--filename=-", given=rights)


def report(kubectl: Kubectl, what: str, **status: int) -> None:
    """Write a status, as the controllers would."""
    patch = json.dumps({"status": status})
    kubectl(
        *("patch", what, "-n", NAMESPACE, "--subresource=status", "--type=merge", f"-p={patch}")
    )


@pytest.mark.api
@pytest.mark.usefixtures("installed")
def test_a_ready_cluster_passes(check: Check, kubectl: Kubectl) -> None:
    report(kubectl, "deployment/handover-operator", replicas=2, readyReplicas=2)
    counts = {"currentNumberScheduled": 2, "numberMisscheduled": 0, "desiredNumberScheduled": 2}
    report(kubectl, "daemonset/handover-nodeagent", numberReady=2, **counts)

    status, said = check()

    assert status == 0, said
    assert said.splitlines() == [
        "ok  kinds of handover.dev/v1alpha1",
        "ok  operator: 2 of 2 pods are ready",
        "ok  node agents: 2 of 2 nodes have one that is ready",
        "ok  rights of handover-operator",
        "ok  rights of handover-nodeagent",
        "ok  KubeVirt: not here so far; LiveMigrations are somebody else's to make",
    ]


@pytest.mark.api
@pytest.mark.usefixtures("installed")
def test_lost_rights_and_missing_agents_are_named(check: Check, kubectl: Kubectl) -> None:
    counts = {"currentNumberScheduled": 2, "numberMisscheduled": 0, "desiredNumberScheduled": 2}
    report(kubectl, "daemonset/handover-nodeagent", numberReady=1, **counts)
    binding = kubectl("get", "clusterrolebinding", "handover-nodeagent", "--output=json")
    kubectl("delete", "clusterrolebinding", "handover-nodeagent")
    try:
        status, said = check()
    finally:
        kubectl("create", "--filename=-", given=binding)

    assert status == 1
    assert "NOT READY  node agents: 1 of 2 nodes have one that is ready" in said
    assert "it may not list workloadendpoints, watch workloadendpoints, patch" in said


@pytest.mark.api
@pytest.mark.usefixtures("installed")
def test_what_cannot_be_asked_is_told_and_the_rest_is_asked(check: Check) -> None:
    status, said = check("--nodeagent=other")

    assert status == 1
    assert 'NOT READY  agents: the API server does not tell: 403: daemonsets.apps "other"' in said
    assert "ok  rights of handover-operator" in said


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            {},
            Finding(
                "node agents: 0 of 0 nodes have one that is ready",
                "no node is chosen: see nodeagent.nodeSelector and .tolerations",
            ),
        ),
        (
            {"desiredNumberScheduled": 3, "numberReady": 3},
            Finding("node agents: 3 of 3 nodes have one that is ready"),
        ),
    ],
    ids=["no node", "all nodes"],
)
def test_agents_are_judged(found: dict[str, int], expected: Finding) -> None:
    assert readiness.agents({"metadata": {"name": "x"}, "status": found}) == expected


def test_nothing_of_the_test_stays(hooks: list[Manifest]) -> None:
    for each in hooks:
        annotations = each["metadata"]["annotations"]

        assert annotations["helm.sh/hook"] == "test"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    # Its findings are shown before it goes: `helm test --logs` of Helm 3 would come too late.
    shown = hooks[-1]["metadata"]["annotations"]["helm.sh/hook-output-log-policy"]
    assert shown == "hook-succeeded,hook-failed"
