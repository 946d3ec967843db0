"""Whether this cluster is ready for Handover: what `helm test` asks, in sentences for a person.

Each check reads what it needs and returns findings; one that fails says what to do.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from handover_api import names
from handover_operator.cluster import Absent, Cluster
from handover_operator.kinds import KUBEVIRT
from handover_operator.workqueue import Temporary

KINDS: Final = frozenset({names.LIVE_MIGRATIONS, names.WORKLOAD_ENDPOINTS, names.CONFIGURATIONS})
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_APPS: Final = "/apis/apps/v1/namespaces"

OPERATOR_RIGHTS: Final = (
    *((names.GROUP, kind, "", verb) for kind in sorted(KINDS) for verb in ("list", "watch")),
    (names.GROUP, names.WORKLOAD_ENDPOINTS, "", "patch"),
    (names.GROUP, names.LIVE_MIGRATIONS, "status", "patch"),
    ("", "events", "", "create"),
)
AGENT_RIGHTS: Final = (
    (names.GROUP, names.WORKLOAD_ENDPOINTS, "", "list"),
    (names.GROUP, names.WORKLOAD_ENDPOINTS, "", "watch"),
    (names.GROUP, names.WORKLOAD_ENDPOINTS, "status", "patch"),
    ("", "events", "", "create"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; an empty ``trouble`` means that all is well."""

    subject: str
    trouble: str = ""

    def __str__(self) -> str:
        return (
            f"NOT READY  {self.subject}: {self.trouble}" if self.trouble else f"ok  {self.subject}"
        )


@dataclass(frozen=True, slots=True)
class Release:
    """How a release of the chart has called its parts."""

    namespace: str
    operator: str
    nodeagent: str


async def findings(cluster: Cluster, release: Release) -> AsyncIterator[Finding]:
    """Look at everything; what cannot be asked is a finding, too."""
    checks = (_kinds, _operator, _agents, _operator_rights, _agent_rights, _kubevirt)
    for check in checks:
        try:
            yield await check(cluster, release)
        except (Temporary, Absent) as error:
            subject = check.__name__.strip("_").replace("_", " ")
            yield Finding(subject, f"the API server does not tell: {error}")


async def _kinds(cluster: Cluster, _: Release) -> Finding:
    missing = KINDS - await cluster.resources(names.API_VERSION)
    return Finding(
        f"kinds of {names.API_VERSION}",
        f"{', '.join(sorted(missing))} are not served: set crds.install, or apply them yourself"
        if missing
        else "",
    )


async def _operator(cluster: Cluster, release: Release) -> Finding:
    found = await cluster.read(f"{_APPS}/{release.namespace}/deployments/{release.operator}")
    return operator(found)


async def _agents(cluster: Cluster, release: Release) -> Finding:
    found = await cluster.read(f"{_APPS}/{release.namespace}/daemonsets/{release.nodeagent}")
    return agents(found)


async def _operator_rights(cluster: Cluster, release: Release) -> Finding:
    return await _rights(cluster, release.namespace, release.operator, OPERATOR_RIGHTS)


async def _agent_rights(cluster: Cluster, release: Release) -> Finding:
    return await _rights(cluster, release.namespace, release.nodeagent, AGENT_RIGHTS)


async def _kubevirt(cluster: Cluster, _: Release) -> Finding:
    """KubeVirt may come later, and others may drive migrations: its absence is no trouble."""
    is_there = "virtualmachineinstancemigrations" in await cluster.resources(KUBEVIRT)
    return Finding(
        "KubeVirt: found, its migrations are followed"
        if is_there
        else "KubeVirt: not here so far; LiveMigrations are somebody else's to make"
    )


def operator(deployment: Mapping[str, Any]) -> Finding:
    """Judge the operator's Deployment."""
    wanted, ready = deployment["spec"]["replicas"], deployment["status"].get("readyReplicas", 0)
    name = deployment["metadata"]["name"]
    return Finding(
        f"operator: {ready} of {wanted} pods are ready",
        "" if ready else f"none decides roles; see kubectl describe deployment {name}",
    )


def agents(daemonset: Mapping[str, Any]) -> Finding:
    """Judge the agents' DaemonSet: one that is missing leaves its node's guests behind."""
    status = daemonset["status"]
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    name = daemonset["metadata"]["name"]
    subject = f"node agents: {ready} of {wanted} nodes have one that is ready"
    if not wanted:
        return Finding(subject, "no node is chosen: see nodeagent.nodeSelector and .tolerations")
    if ready < wanted:
        return Finding(subject, f"guests cannot be followed there; see kubectl describe ds {name}")
    return Finding(subject)


async def _rights(
    cluster: Cluster, namespace: str, account: str, rights: tuple[tuple[str, str, str, str], ...]
) -> Finding:
    user = f"system:serviceaccount:{namespace}:{account}"
    missing = []
    for group, resource, subresource, verb in rights:
        asked = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
        body = {"spec": {"user": user, "resourceAttributes": asked}}
        if not (await cluster.review(_REVIEWS, body))["status"]["allowed"]:
            missing.append(f"{verb} {resource}{f'/{subresource}' if subresource else ''}")
    return Finding(
        f"rights of {account}",
        f"it may not {', '.join(missing)}; install the chart's roles again" if missing else "",
    )
