"""Who may do what in the cluster: just what is used, and never a wildcard."""

from collections.abc import Callable
from typing import Any

import pytest

from handover_operator.kube import leadership

Manifest = dict[str, Any]
Release = dict[str, Manifest]
Render = Callable[..., list[Manifest]]


def rights(release: Release, name: str) -> set[tuple[str, str, str]]:
    """Return group, resource (with its one name) and verb of everything that a role allows."""
    return {
        (group, "/".join((resource, *rule.get("resourceNames", ()))), verb)
        for rule in release[name]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operator_has_the_rights_that_it_uses(release: Release) -> None:
    own = "handover.dev"
    kinds = ("livemigrations", "workloadendpoints", "handoverconfigurations")

    assert rights(release, "ClusterRole/handover-operator") == {
        *((own, kind, verb) for kind in kinds for verb in ("get", "list", "watch")),
        (own, "workloadendpoints", "patch"),
        (own, "livemigrations/status", "patch"),
        (own, "handoverconfigurations/status", "patch"),
        (own, "livemigrations", "delete"),
        (own, "handoverconfigurations/default", "create"),
        (own, "handoverconfigurations/default", "patch"),
        ("", "namespaces", "list"),
        ("", "namespaces", "watch"),
        ("", "nodes", "get"),
        ("", "events", "create"),
    }


def test_for_kubevirt_the_operator_reads_its_kinds_and_makes_ours(release: Release) -> None:
    own, kubevirt = "handover.dev", "kubevirt.io"
    kinds = ("virtualmachineinstances", "virtualmachineinstancemigrations")

    assert rights(release, "ClusterRole/handover-operator-kubevirt") == {
        ("", "pods", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        *((kubevirt, kind, verb) for kind in kinds for verb in ("get", "list", "watch")),
        (own, "workloadendpoints", "create"),
        (own, "workloadendpoints", "delete"),
        (own, "livemigrations", "create"),
        (own, "livemigrations", "patch"),
    }


def test_without_kubevirt_nothing_of_it_may_be_touched(render: Render) -> None:
    off = render("kubevirt.enabled=false")
    (operator,) = (each for each in off if each["kind"] == "Deployment")

    assert not any("kubevirt" in each["metadata"]["name"] for each in off)
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "HANDOVER_KUBEVIRT", "value": "false"} in variables


def test_the_operators_replicas_share_one_lease(release: Release) -> None:
    group = "coordination.k8s.io"

    assert rights(release, "Role/handover-operator") == {
        (group, "leases", "create"),
        (group, f"leases/{leadership.NAME}", "get"),
        (group, f"leases/{leadership.NAME}", "patch"),
    }
    (subject,) = release["RoleBinding/handover-operator"]["subjects"]
    assert subject["name"] == "handover-operator"


def test_the_agent_has_the_rights_that_it_uses(release: Release) -> None:
    own = "handover.dev"

    assert rights(release, "ClusterRole/handover-nodeagent") == {
        (own, "workloadendpoints", "list"),
        (own, "workloadendpoints", "watch"),
        (own, "handoverconfigurations", "list"),
        (own, "handoverconfigurations", "watch"),
        (own, "workloadendpoints/status", "patch"),
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
        ("", "events", "create"),
    }


def test_nobody_has_a_wildcard(release: Release) -> None:
    roles = [name for name in release if name.startswith("ClusterRole/")]

    assert not any(
        "*" in part for name in roles for right in rights(release, name) for part in right
    )


@pytest.mark.parametrize("component", ["operator", "nodeagent"])
def test_a_role_is_bound_to_its_own_account_alone(release: Release, component: str) -> None:
    binding = release[f"ClusterRoleBinding/handover-{component}"]
    account = {"kind": "ServiceAccount", "namespace": "handover-system"}

    assert binding["roleRef"]["name"] == f"handover-{component}"
    assert binding["subjects"] == [{**account, "name": f"handover-{component}"}]


def test_people_may_look_at_all_and_write_migrations_alone(release: Release) -> None:
    view, edit = (rights(release, f"ClusterRole/handover-{name}") for name in ("view", "edit"))

    assert {verb for _, _, verb in view} == {"get", "list", "watch"}
    assert len({resource for _, resource, _ in view}) == 3
    assert {resource for _, resource, _ in edit} == {"livemigrations"}
    assert not {verb for _, _, verb in edit} & {"get", "list", "watch"}


def test_the_aggregation_can_be_turned_off(render: Render) -> None:
    names = {each["metadata"]["name"] for each in render("rbac.aggregate=false")}

    assert not {"handover-view", "handover-edit"} & names
