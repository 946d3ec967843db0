"""What an uninstall asks of the agents, with the account and the rights of the chart's hook."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.conftest import GROUPS, NAMESPACE, Kubectl, Manifest, Run

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.docs.chart import CHART

LEAVER = f"system:serviceaccount:{NAMESPACE}:handover-uninstall"
TEMPLATE = ("--show-only", "templates/handback.yaml", "--namespace", NAMESPACE)
HAND_BACK = ("--set", "configuration.onUninstall=handBack")
ROUTE = {"address": "10.65.0.9", "metric": 1024, "table": 254, "protocol": 88}
Leave = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def hooks(helm: Run) -> list[Manifest]:
    """Return the objects of the hook."""
    return list(
        yaml.safe_load_all(helm("template", "handover", CHART, *TEMPLATE, *HAND_BACK).stdout)
    )


@pytest.fixture
def leave(hooks: list[Manifest], api_server: ControlPlane, kubectl: Kubectl) -> Iterator[Leave]:
    """Run the command of the hook; an endpoint has a route, and all is to be handed back."""
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*hooks[:-1], *endpoints()]})
    kubectl("apply", "--filename=-", given=objects)
    report(kubectl, [ROUTE])
    (container,) = hooks[-1]["spec"]["template"]["spec"]["containers"]
    program = Path(sys.executable).with_name("handover-operator")
    kubeconfig = str(api_server.credentials(LEAVER, *GROUPS))

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [program, *container["args"], "--timeout=1"],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": kubeconfig},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    kubectl("delete", "--filename=-", given=objects)


def endpoints() -> list[Manifest]:
    """Compose an endpoint, and the configuration in force."""
    ours = {"apiVersion": "handover.dev/v1alpha1"}
    return [
        {
            **ours,
            "kind": "WorkloadEndpoint",
            "metadata": {"name": "leaving", "namespace": "default"},
            "spec": {"node": "node-a", "workload": "vm", "ips": ["10.65.0.9"]},
        },
        {
            **ours,
            "kind": "HandoverConfiguration",
            "metadata": {"name": "default"},
            "spec": {"onUninstall": "handBack"},
        },
    ]


def report(kubectl: Kubectl, routes: list[dict[str, Any]]) -> None:
    """Report routes, as the agent would."""
    patch = json.dumps({"status": {"routes": routes}})
    kubectl("patch", "wep", "leaving", "--subresource=status", "--type=merge", f"-p={patch}")


def mark(kubectl: Kubectl) -> str:
    """Return what the agents are told."""
    path = r"jsonpath={.metadata.annotations.handover\.dev/uninstall}"
    return kubectl("get", "hc", "default", f"--output={path}")


@pytest.mark.api
@pytest.mark.usefixtures("installed")
def test_the_agents_are_asked_and_waited_for(leave: Leave, kubectl: Kubectl) -> None:
    late = leave()
    first = mark(kubectl)
    report(kubectl, [])
    done = leave()

    assert late[0] == 1
    assert "still has routes of ours: default/leaving on node-a" in late[1]
    assert "helm uninstall --no-hooks" in late[1]
    assert done == (0, "all that was to be handed back is\n")
    # Another value each time: an old one asks nobody.
    assert "" != first != mark(kubectl) != ""


@pytest.mark.api
@pytest.mark.usefixtures("installed")
def test_where_all_is_kept_nobody_is_asked(leave: Leave, kubectl: Kubectl) -> None:
    kubectl("patch", "hc", "default", "--type=merge", '-p={"spec":{"onUninstall":"keep"}}')

    assert leave()[0] == 0
    assert mark(kubectl) == ""


def test_the_hook_is_there_only_where_it_is_wanted(helm: Run, hooks: list[Manifest]) -> None:
    kept = helm("template", "handover", CHART)

    assert "pre-delete" not in kept.stdout
    for each in hooks:
        annotations = each["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-delete"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
