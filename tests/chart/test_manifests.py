"""What the chart installs: read back as objects, not as text."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_api import __version__
from handover_lab.docs.chart import CHART, CRDS
from handover_operator.kube import leadership

OPERATOR = "Deployment/handover-operator"
NODEAGENT = "DaemonSet/handover-nodeagent"
LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
}
Manifest = dict[str, Any]
Release = dict[str, Manifest]
Render = Callable[..., list[Manifest]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def pod(release: Release, name: str) -> Manifest:
    """Return the pod's spec of a Deployment or DaemonSet."""
    spec: Manifest = release[name]["spec"]["template"]["spec"]
    return spec


def container(release: Release, name: str) -> Manifest:
    """Return the only container of a Deployment or DaemonSet."""
    (only,) = pod(release, name)["containers"]
    assert isinstance(only, dict)
    return only


def variables(release: Release, name: str) -> dict[str, Any]:
    """Return the environment of a container; what the downward API gives as its path."""
    return {
        each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container(release, name)["env"]
    }


def test_helm_finds_no_fault(helm: Run) -> None:
    done = helm("lint", "--strict", CHART)

    assert done.returncode == 0, done.stdout + done.stderr


def test_this_is_all_that_is_installed(release: Release) -> None:
    assert set(release) == {
        OPERATOR,
        NODEAGENT,
        "ConfigMap/handover-configuration",
        "CustomResourceDefinition/handoverconfigurations.handover.dev",
        "CustomResourceDefinition/livemigrations.handover.dev",
        "CustomResourceDefinition/workloadendpoints.handover.dev",
        "ServiceAccount/handover-operator",
        "ServiceAccount/handover-nodeagent",
        "ClusterRole/handover-operator",
        "ClusterRole/handover-operator-kubevirt",
        "ClusterRoleBinding/handover-operator-kubevirt",
        "ClusterRole/handover-nodeagent",
        "ClusterRole/handover-view",
        "ClusterRole/handover-edit",
        "ClusterRoleBinding/handover-operator",
        "ClusterRoleBinding/handover-nodeagent",
        "Role/handover-operator",
        "RoleBinding/handover-operator",
        "PodDisruptionBudget/handover-operator",
        "ValidatingAdmissionPolicy/handover-node-status",
        "ValidatingAdmissionPolicy/handover-node-events",
        "ValidatingAdmissionPolicy/handover-network-status",
        "ValidatingAdmissionPolicy/handover-annotations",
        "ValidatingAdmissionPolicy/handover-migrations",
        "ValidatingAdmissionPolicyBinding/handover-node-status",
        "ValidatingAdmissionPolicyBinding/handover-node-events",
        "ValidatingAdmissionPolicyBinding/handover-network-status",
        "ValidatingAdmissionPolicyBinding/handover-annotations",
        "ValidatingAdmissionPolicyBinding/handover-migrations",
        "Lease/handover-operator",
        *(
            f"ValidatingAdmissionPolicy{binding}/handover-{name}"
            for binding in ("", "Binding")
            for name in ("kinds", "allowed-addresses", "no-api-server")
        ),
    }


def test_every_object_is_labeled_as_people_expect(release: Release) -> None:
    unlabeled = {name for name, each in release.items() if LABELS - set(each["metadata"]["labels"])}

    assert unlabeled == set()


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_kind_is_installed_as_it_is_and_outlives_an_uninstall(
    release: Release, path: Any
) -> None:
    source = yaml.safe_load(path.read_text())
    installed = release[f"CustomResourceDefinition/{source['metadata']['name']}"]

    assert source["spec"] == installed["spec"]
    major, minor, patch = (int(number) for number in re.findall(r"\d+", __version__)[:3])
    assert installed["metadata"]["annotations"] == {
        "helm.sh/resource-policy": "keep",
        "handover.dev/schema": str(major * 1_000_000 + minor * 1_000 + patch),
    }


POLICIES = (
    *("nodeStatus", "nodeEvents", "networkStatus"),
    *("annotations", "migrations", "addresses"),
)


@pytest.mark.parametrize("policy", POLICIES)
def test_how_strict_a_policy_is_can_be_set(render: Render, policy: str) -> None:
    settings = (
        f"policies.{policy}.validationActions={{Warn,Audit}}",
        f"policies.{policy}.failurePolicy=Ignore",
        *(f"policies.{other}.enabled=false" for other in POLICIES if other != policy),
    )
    found = [
        each
        for each in render(*settings)
        if each["kind"].startswith("ValidatingAdmission")
        and not each["metadata"]["name"].endswith("-kinds")
    ]

    assert found != []
    for each in found:
        if each["kind"].endswith("Binding"):
            assert each["spec"]["validationActions"] == ["Warn", "Audit"]
        else:
            assert each["spec"]["failurePolicy"] == "Ignore"


def test_only_what_stands_in_the_way_of_every_vm_lets_pass_what_it_cannot_judge(
    release: Release,
) -> None:
    found = {
        name.partition("/")[2]: each["spec"]["failurePolicy"]
        for name, each in release.items()
        if name.startswith("ValidatingAdmissionPolicy/")
    }

    assert [name for name, policy in found.items() if policy != "Fail"] == [
        "handover-network-status"
    ]


def test_the_lease_is_taken_away_with_the_release_and_held_by_nobody_at_first(
    release: Release,
) -> None:
    role = release["Role/handover-operator"]

    assert release["Lease/handover-operator"]["spec"] == {}
    assert leadership.NAME in role["rules"][1]["resourceNames"]


def test_the_kinds_can_be_left_to_somebody_else(render: Render) -> None:
    assert "CustomResourceDefinition" not in {each["kind"] for each in render("crds.install=false")}


def test_the_agent_has_the_nodes_network_and_two_capabilities(release: Release) -> None:
    spec = pod(release, NODEAGENT)

    assert spec["hostNetwork"] is True
    assert not {"hostPID", "hostIPC"} & set(spec)
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container(release, NODEAGENT)["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "SYS_NICE"]},
    }


def test_an_agent_that_is_not_to_go_before_others_cannot(render: Render) -> None:
    (agent,) = (
        each["spec"]["template"]["spec"]["containers"][0]
        for each in render("nodeagent.processorPriority=normal")
        if each["kind"] == "DaemonSet"
    )

    assert "HANDOVER_PROCESSOR_PRIORITY" not in {each["name"] for each in agent["env"]}
    assert agent["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]


def test_the_agent_may_go_before_others(render: Render) -> None:
    (agent,) = (
        each["spec"]["template"]["spec"]["containers"][0]
        for each in render(
            "nodeagent.securityContext.capabilities.add={NET_ADMIN,NET_RAW,SYS_NICE,BPF}",
        )
        if each["kind"] == "DaemonSet"
    )

    assert {"name": "HANDOVER_PROCESSOR_PRIORITY", "value": "high"} in agent["env"]
    assert agent["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_ADMIN", "NET_RAW", "SYS_NICE", "BPF"],
    }
    assert agent["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_security_context_without_capabilities_gets_the_one_that_is_needed(
    render: Render,
) -> None:
    (agent,) = (
        each["spec"]["template"]["spec"]["containers"][0]
        for each in render("nodeagent.securityContext.capabilities=null")
        if each["kind"] == "DaemonSet"
    )

    assert agent["securityContext"]["capabilities"] == {"add": ["SYS_NICE"]}


def test_the_operator_has_no_privilege(release: Release) -> None:
    spec = pod(release, OPERATOR)

    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(release, OPERATOR)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_security_context_can_be_added_to_and_taken_from(render: Render) -> None:
    found = {
        f"{each['kind']}/{each['metadata']['name']}": each
        for each in render(
            "nodeagent.securityContext.seLinuxOptions.type=spc_t",
            "operator.podSecurityContext.runAsUser=null",
        )
    }

    agent = container(found, NODEAGENT)["securityContext"]
    assert agent["seLinuxOptions"] == {"type": "spc_t"}
    assert agent["capabilities"]["drop"] == ["ALL"]
    # A platform that gives users out itself wants none to be asked for.
    operator = pod(found, OPERATOR)["securityContext"]
    assert "runAsUser" not in operator
    assert operator["runAsNonRoot"] is True


def test_the_agent_runs_on_every_node_before_others_and_ends_in_peace(release: Release) -> None:
    spec = pod(release, NODEAGENT)

    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["terminationGracePeriodSeconds"] == 600
    assert release[NODEAGENT]["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "10%"},
    }


def test_the_operator_is_there_twice_and_never_less_than_once(release: Release) -> None:
    spec = release[OPERATOR]["spec"]
    budget = release["PodDisruptionBudget/handover-operator"]["spec"]

    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert budget == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": spec["selector"],
    }


def test_the_operators_pods_are_spread_over_nodes_also_where_no_node_has_a_zone(
    release: Release,
) -> None:
    """The scheduler leaves a node that lacks one constraint's key out of all constraints."""
    (spread,) = pod(release, OPERATOR)["topologySpreadConstraints"]

    assert spread["topologyKey"] == "kubernetes.io/hostname"
    # A cluster of one node has room for both.
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    assert spread["labelSelector"] == release[OPERATOR]["spec"]["selector"]
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_the_operators_pods_prefer_zones_of_their_own(release: Release, render: Render) -> None:
    kind = "preferredDuringSchedulingIgnoredDuringExecution"
    (preferred,) = pod(release, OPERATOR)["affinity"]["podAntiAffinity"][kind]
    assert preferred["podAffinityTerm"] == {
        "topologyKey": "topology.kubernetes.io/zone",
        "labelSelector": release[OPERATOR]["spec"]["selector"],
        "matchLabelKeys": ["pod-template-hash"],
    }

    own = render("operator.affinity.nodeAffinity.own=true")
    (deployment,) = (each for each in own if each["kind"] == "Deployment")
    assert pod({OPERATOR: deployment}, OPERATOR)["affinity"] == {"nodeAffinity": {"own": True}}


def test_labels_and_annotations_for_all_reach_every_object(render: Render) -> None:
    optional = ("podMonitor", "prometheusRule", "grafanaDashboard", "networkPolicy")
    found = render(
        *(f"{name}.enabled=true" for name in optional),
        "commonLabels.team=net",
        "commonLabels.app\\.kubernetes\\.io/name=other",
        "commonAnnotations.note=hello",
    )

    for each in found:
        metadata = each["metadata"]
        assert metadata["labels"]["team"] == "net", each["kind"]
        assert metadata["labels"]["app.kubernetes.io/name"] == "handover"
        assert metadata["annotations"]["note"] == "hello", each["kind"]


def test_the_agent_remembers_on_the_node(release: Release) -> None:
    assert pod(release, NODEAGENT)["volumes"] == [
        {"name": "state", "hostPath": {"path": "/run/handover", "type": "DirectoryOrCreate"}}
    ]
    assert container(release, NODEAGENT)["volumeMounts"] == [
        {"name": "state", "mountPath": "/run/handover"}
    ]


def test_the_agent_is_told_its_node_and_to_end_before_it_is_killed(release: Release) -> None:
    assert variables(release, NODEAGENT) == {
        "HANDOVER_NODE_NAME": "spec.nodeName",
        "HANDOVER_NODE_ADDRESSES": "status.hostIPs",
        "HANDOVER_STATE_DIRECTORY": "/run/handover",
        "HANDOVER_AWAIT_CONFIGURATION": "true",
        "HANDOVER_PROCESSOR_PRIORITY": "high",
        "HANDOVER_DRAIN_SECONDS": "570",
        "HANDOVER_METRICS_ADDRESS": "status.podIP",
        "HANDOVER_PORT": "8081",
        "HANDOVER_LOG_LEVEL": "info",
        "HANDOVER_LOG_FORMAT": "json",
    }


def test_the_operator_is_told_where_the_configuration_is(release: Release) -> None:
    assert variables(release, OPERATOR) == {
        "HANDOVER_CONFIGURATION_FILE": "/etc/handover/configuration.yaml",
        "HANDOVER_KUBEVIRT": "true",
        "HANDOVER_LEADER_ELECTION": "true",
        "HANDOVER_MIGRATION_TTL": "3600",
        "HANDOVER_NAMESPACE": "metadata.namespace",
        "HANDOVER_POD_NAME": "metadata.name",
        "HANDOVER_POD_UID": "metadata.uid",
        "HANDOVER_PORT": "8080",
        "HANDOVER_LOG_LEVEL": "info",
        "HANDOVER_LOG_FORMAT": "json",
    }
    (volume,) = pod(release, OPERATOR)["volumes"]
    (mount,) = container(release, OPERATOR)["volumeMounts"]
    assert volume == {"name": "configuration", "configMap": {"name": "handover-configuration"}}
    assert mount == {"name": "configuration", "mountPath": "/etc/handover", "readOnly": True}


@pytest.mark.parametrize("name", [OPERATOR, NODEAGENT])
def test_pods_are_probed_and_bounded(release: Release, name: str) -> None:
    it = container(release, name)

    own = {"host": "127.0.0.1"} if name == NODEAGENT else {}
    assert it["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", **own}
    assert it["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http", **own}
    assert it["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http", **own}
    assert set(it["resources"]["requests"]) == {"cpu", "memory"}
    assert set(it["resources"]["limits"]) == {"memory"}


@pytest.mark.parametrize("name", [OPERATOR, NODEAGENT])
def test_no_service_of_the_namespace_sets_our_variables(release: Release, name: str) -> None:
    assert pod(release, name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", [OPERATOR, NODEAGENT])
def test_only_the_pods_get_a_token(release: Release, name: str) -> None:
    account = pod(release, name)["serviceAccountName"]

    assert release[f"ServiceAccount/{account}"]["automountServiceAccountToken"] is False
    assert pod(release, name)["automountServiceAccountToken"] is True


@pytest.mark.parametrize("name", [OPERATOR, NODEAGENT])
def test_a_selector_finds_its_own_pods_and_has_nothing_that_changes(
    release: Release, name: str
) -> None:
    selector = release[name]["spec"]["selector"]["matchLabels"]
    labels = release[name]["spec"]["template"]["metadata"]["labels"]

    assert selector.items() <= labels.items()
    assert selector == {
        "app.kubernetes.io/name": "handover",
        "app.kubernetes.io/instance": "handover",
        "app.kubernetes.io/component": name.rpartition("-")[2],
    }


def test_values_reach_the_pods(render: Render) -> None:
    found = {
        f"{each['kind']}/{each['metadata']['name']}": each
        for each in render(
            "imagePullSecrets[0].name=pull",
            "operator.image.repository=registry.example/operator",
            "operator.image.tag=v1",
            f"nodeagent.image.digest=sha256:{'0' * 64}",
            "nodeagent.image.pullPolicy=Never",
            "nodeagent.env.HANDOVER_PROBE_INTERVAL=50ms",
            "nodeagent.listenAddress=192.0.2.7",
            "nodeagent.port=9000",
            "nodeagent.terminationGracePeriodSeconds=40",
            "nodeagent.podLabels.team=net",
            "operator.podAnnotations.note=hello",
            "operator.nodeSelector.zone=one",
            "operator.revisionHistoryLimit=3",
            "nodeagent.revisionHistoryLimit=0",
        )
    }
    agent = container(found, NODEAGENT)

    assert pod(found, OPERATOR)["imagePullSecrets"] == [{"name": "pull"}]
    assert container(found, OPERATOR)["image"] == "registry.example/operator:v1"
    assert agent["image"] == f"handover-nodeagent@sha256:{'0' * 64}"
    assert agent["imagePullPolicy"] == "Never"
    assert agent["ports"] == [{"name": "http", "containerPort": 9000}]
    assert agent["readinessProbe"]["httpGet"]["host"] == "127.0.0.1"
    assert variables(found, NODEAGENT) | {
        "HANDOVER_PROBE_INTERVAL": "50ms",
        "HANDOVER_METRICS_ADDRESS": "192.0.2.7",
        "HANDOVER_AWAIT_CONFIGURATION": "true",
        "HANDOVER_DRAIN_SECONDS": "10",
        "HANDOVER_PORT": "9000",
    } == variables(found, NODEAGENT)
    assert found[NODEAGENT]["spec"]["template"]["metadata"]["labels"]["team"] == "net"
    assert found[OPERATOR]["spec"]["template"]["metadata"]["annotations"]["note"] == "hello"
    assert pod(found, OPERATOR)["nodeSelector"] == {"kubernetes.io/os": "linux", "zone": "one"}
    kept = [found[name]["spec"]["revisionHistoryLimit"] for name in (OPERATOR, NODEAGENT)]
    assert kept == [3, 0]


def test_the_configuration_is_written_for_the_operator_as_it_was_given(
    helm: Run, tmp_path: Path
) -> None:
    given = {
        "probeInterval": "50ms",
        # Helm holds it as a floating-point number.
        "routeTable": 4294967295,
        "allowedCIDRs": ["10.0.0.0/8", "fd00::/8"],
    }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"configuration": given}))
    only = ("--show-only", "templates/configuration.yaml")

    done = helm("template", "handover", CHART, "--values", values, *only)

    written = yaml.safe_load(done.stdout)["data"]["configuration.yaml"]
    assert yaml.safe_load(written) == given
    assert "routeTable: 4294967295\n" in written


def test_a_change_of_the_configuration_restarts_the_operator(
    render: Render, release: Release
) -> None:
    (changed,) = (
        each for each in render("configuration.mode=observe") if each["kind"] == "Deployment"
    )
    before = release[OPERATOR]["spec"]["template"]["metadata"]["annotations"]

    assert changed["spec"]["template"]["metadata"]["annotations"] != before


def test_an_object_is_named_after_the_release(render: Render, helm: Run) -> None:
    done = helm("template", "prod", CHART, "--show-only", "templates/operator.yaml")
    (named,) = (each for each in render("fullnameOverride=x") if each["kind"] == "Deployment")

    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "prod-handover-operator"
    assert named["metadata"]["name"] == "x-operator"
