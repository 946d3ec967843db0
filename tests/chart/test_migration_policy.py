"""Who may write a LiveMigration that was made for KubeVirt: the operator; a real API server."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.chart.conftest import OPERATOR, Kubectl

pytestmark = pytest.mark.api

PATIENCE = 30.0


def migration(name: str, adapter: str = "", owner: str = "") -> str:
    """Compose a LiveMigration; with *owner* as the operator makes it for that VMIM."""
    metadata = {"name": name, "namespace": "default"}
    annotations = {"handover.dev/adapter": adapter} if adapter else {}
    owners = [reference(owner)] if owner else []
    spec = {
        "id": owner or name,
        "source": {"workload": {"name": "vm"}},
        "target": {"selector": {"matchLabels": {"kubevirt.io/migrationJobUID": owner or name}}},
        "armed": True,
        "ttlSecondsAfterFinished": 3600,
    }
    made = {**metadata, "annotations": annotations, "ownerReferences": owners}
    what = {"apiVersion": "handover.dev/v1alpha1", "kind": "LiveMigration"}
    return json.dumps({**what, "metadata": made, "spec": spec})


def reference(uid: str) -> dict[str, Any]:
    """Name a VMIM as the owner."""
    what = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration"}
    return {**what, "name": f"vmim-{uid}", "uid": uid, "controller": True}


EDITOR = "jane"
"""Somebody of the namespace, with the role `edit`."""


@pytest.fixture
def adapted(kubectl: Kubectl, installed: None) -> Iterator[Kubectl]:  # noqa: ARG001
    """Have one made for KubeVirt, and the policy in force; return an editor's kubectl."""
    granted = ("create", "rolebinding", "policy-editor", "--clusterrole=handover-edit")
    kubectl(*granted, f"--user={EDITOR}")
    kubectl(
        "create", "rolebinding", "policy-viewer", "--clusterrole=handover-view", f"--user={EDITOR}"
    )
    made = kubectl("create", "-f=-", given=migration("policy-m", "kubevirt", "a1"), user=OPERATOR)
    assert "created" in made
    patch = ("--type=merge", '-p={"spec": {"armed": false}}', "--dry-run=server")
    deadline = time.monotonic() + PATIENCE
    while "only the operator" not in kubectl("patch", "lm", "policy-m", *patch):
        assert time.monotonic() < deadline, "the policy never came into force"
        time.sleep(0.1)

    def as_editor(*arguments: str, given: str = "") -> str:
        return kubectl(*arguments, given=given, user=EDITOR)

    yield as_editor
    kubectl("delete", "lm", "policy-m", "policy-n", "--ignore-not-found")
    kubectl("delete", "rolebinding", "policy-editor", "policy-viewer")


def patched(kubectl: Kubectl, name: str, body: dict[str, Any], *options: str) -> str:
    """Patch a LiveMigration."""
    return kubectl("patch", "lm", name, "--type=merge", f"-p={json.dumps(body)}", *options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", {"selector": None, "endpoint": {"name": "mine"}}),
        ("source", {"workload": {"name": "other"}}),
        ("source", None),
        ("armed", False),
        ("ttlSecondsAfterFinished", 0),
    ],
    ids=["target", "source", "no source", "armed", "ttl"],
)
def test_an_editor_redirects_no_migration_of_kubevirts(
    adapted: Kubectl, field: str, value: object
) -> None:
    said = patched(adapted, "policy-m", {"spec": {field: value}})

    assert f"spec.{field} of this LiveMigration follows a VirtualMachineInstanceMigration" in said
    assert "to say how this one ended set spec.outcome" in said


def test_an_editor_makes_no_migration_count_as_kubevirts_and_no_longer_so(
    adapted: Kubectl,
) -> None:
    forged = adapted("create", "-f=-", given=migration("policy-n", "kubevirt", "a2"))
    own = adapted("create", "-f=-", given=migration("policy-n"))
    marked = adapted("annotate", "lm", "policy-n", "handover.dev/adapter=kubevirt")
    unmarked = adapted("annotate", "lm", "policy-m", "handover.dev/adapter-")
    noted = adapted("annotate", "lm", "policy-m", "handover.dev/not-followed=x")

    for said in (forged, marked, unmarked):
        assert "only the operator writes handover.dev/adapter of a LiveMigration" in said
    assert "only the operator writes handover.dev/not-followed of a LiveMigration" in noted
    assert "created" in own


def test_an_editor_gives_kubevirts_migration_to_no_other_vmim(adapted: Kubectl) -> None:
    other = patched(adapted, "policy-m", {"metadata": {"ownerReferences": [reference("a2")]}})
    orphan = patched(adapted, "policy-m", {"metadata": {"ownerReferences": None}})

    assert "made for another VirtualMachineInstanceMigration than vmim-a2" in other
    assert "patched" in orphan


def test_an_editor_does_the_rest_with_kubevirts_and_all_with_his_own(
    adapted: Kubectl,
) -> None:
    assert "labeled" in adapted("label", "lm", "policy-m", "team=net")
    assert "patched" in patched(adapted, "policy-m", {"spec": {"outcome": "Aborted"}})
    assert "created" in adapted("create", "-f=-", given=migration("policy-n"))
    target = {"selector": None, "endpoint": {"name": "mine"}}
    assert "patched" in patched(adapted, "policy-n", {"spec": {"target": target}})
    assert "deleted" in adapted("delete", "lm", "policy-m")


@pytest.mark.usefixtures("adapted")
def test_the_operator_mends_what_it_made(kubectl: Kubectl) -> None:
    spec = {"spec": {"armed": False, "source": {"workload": {"name": "db"}}}}

    def as_operator(*arguments: str) -> str:
        return kubectl(*arguments, user=OPERATOR)

    assert "patched" in patched(as_operator, "policy-m", spec)
