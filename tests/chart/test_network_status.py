"""Who may say which addresses a launcher's further networks have; a real API server."""

import json
import time
from collections.abc import Iterator

import pytest
from tests.chart.conftest import Kubectl, Render

pytestmark = [pytest.mark.api]

PATIENCE = 30.0
NAME = "k8s.v1.cni.cncf.io/network-status"
LAUNCHER = {"kubevirt.io": "virt-launcher"}
RIGHTS = {
    "tenant": ["pods"],
    # Its releases differ in whether they write the pod or its status; all may write the status.
    "multus": ["pods", "pods/status"],
}


def pod(name: str, labels: dict[str, str], **annotations: str) -> str:
    """Compose a pod; its annotation of that name is called status here."""
    noted = {NAME: annotations["status"]} if annotations else {}
    metadata = {"name": name, "namespace": "default", "labels": labels, "annotations": noted}
    spec = {"containers": [{"name": "compute", "image": "launcher"}]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


@pytest.fixture(scope="module")
def tenant(installed: None, kubectl: Kubectl) -> Iterator[str]:  # noqa: ARG001
    """Have a launcher in a namespace, who may change pods there, and a CNI; the policy is on."""
    for user, resources in RIGHTS.items():
        what = (f"--resource={','.join(resources)}", "--verb=create,get,patch,update,delete")
        kubectl("create", "role", user, *what)
        kubectl("create", "rolebinding", user, f"--role={user}", f"--user={user}")
    kubectl("create", "--filename=-", given=pod("launcher", LAUNCHER))
    deadline = time.monotonic() + PATIENCE
    attempt = ("annotate", "pod", "launcher", f"{NAME}=[]", "--dry-run=server")
    while "only who may write" not in kubectl(*attempt, user="tenant"):
        assert time.monotonic() < deadline, "the policy never came into force"
        time.sleep(0.1)
    yield "tenant"
    kubectl(
        "delete", "pod", "launcher", "other", "--ignore-not-found", "--grace-period=0", "--force"
    )
    for user in RIGHTS:
        kubectl("delete", f"role/{user}", f"rolebinding/{user}")


def test_who_may_change_pods_names_no_address(tenant: str, kubectl: Kubectl) -> None:
    said = kubectl("annotate", "pod", "launcher", f"{NAME}=[]", user=tenant)

    assert "only who may write the status of pods, as the CNI may" in said
    assert "set policies.networkStatus.enabled of the chart to false" in said


def test_other_changes_are_his(tenant: str, kubectl: Kubectl) -> None:
    said = kubectl("annotate", "pod", "launcher", "note=hello", "--overwrite", user=tenant)

    assert "annotated" in said


@pytest.mark.usefixtures("tenant")
def test_the_cni_writes_by_either_way_and_nobody_else_takes_it_out(kubectl: Kubectl) -> None:
    by_pod = kubectl("annotate", "pod", "launcher", f"{NAME}=[]", user="multus")
    patch = json.dumps({"metadata": {"annotations": {NAME: "[1]"}}})
    by_status = kubectl(
        *("patch", "pod", "launcher", "--subresource=status", f"--patch={patch}"), user="multus"
    )
    removed = kubectl("annotate", "pod", "launcher", f"{NAME}-", user="tenant")

    assert "annotated" in by_pod
    assert "patched" in by_status
    assert "only who may write" in removed


def test_nobody_makes_a_launcher_that_has_addresses(tenant: str, kubectl: Kubectl) -> None:
    said = kubectl(
        "create", "--filename=-", given=pod("forged", LAUNCHER, status="[]"), user=tenant
    )

    assert "only who may write" in said
    assert "NotFound" in kubectl("get", "pod", "forged")


def test_a_pod_that_becomes_a_launcher_brings_no_addresses(tenant: str, kubectl: Kubectl) -> None:
    made = kubectl("create", "--filename=-", given=pod("other", {}, status="[]"), user=tenant)
    labeled = kubectl("label", "pod", "other", "kubevirt.io=virt-launcher", user=tenant)

    assert "created" in made
    assert "only who may write" in labeled


@pytest.mark.parametrize(
    "setting", ["policies.networkStatus.enabled=false", "kubevirt.enabled=false"]
)
def test_it_is_there_only_where_it_is_wanted(render: Render, setting: str) -> None:
    names = {each["metadata"]["name"] for each in render(setting)}

    assert "handover-network-status" not in names
    assert "handover-network-status" in {each["metadata"]["name"] for each in render()}
