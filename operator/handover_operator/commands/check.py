"""Whether this cluster is ready for Handover: what `helm test` asks, in sentences for a person.

Each check reads what it needs and returns findings; one that fails says what to do.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from handover_api import names, wording
from handover_api.conditions import ConfigurationCondition, EndpointCondition
from handover_api.configuration import is_braked
from handover_api.names import ObjectKey
from handover_operator.kinds import KUBEVIRT, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Temporary

KINDS: Final = frozenset({names.LIVE_MIGRATIONS, names.WORKLOAD_ENDPOINTS, names.CONFIGURATIONS})
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_APPS: Final = "/apis/apps/v1/namespaces"

OPERATOR_RIGHTS: Final = (
    *((names.GROUP, kind, "", verb) for kind in sorted(KINDS) for verb in ("list", "watch")),
    (names.GROUP, names.WORKLOAD_ENDPOINTS, "", "patch"),
    (names.GROUP, names.LIVE_MIGRATIONS, "status", "patch"),
    ("", "events", "", "create"),
    ("", "namespaces", "", "list"),
    ("", "namespaces", "", "watch"),
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
    # In the order in which one depends on the other: the first that fails is the one to mend.
    checks = (
        *(_kinds, _operator, _agents, _configuration, _configured),
        *(_operator_rights, _agent_rights, _kubevirt),
    )
    for check in checks:
        try:
            yield await check(cluster, release)
        # The others may still be told, and a person sees all that is wrong at once.
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


async def _configuration(cluster: Cluster, _: Release) -> Finding:
    try:
        found = await cluster.get(Kind.CONFIGURATION, ObjectKey("", names.DEFAULT_CONFIGURATION))
    except Absent:
        trouble = "there is none: the operators' logs say why it is not applied"
        return Finding("HandoverConfiguration default", trouble)
    return configuration(found)


async def _configured(cluster: Cluster, _: Release) -> Finding:
    """Ask the endpoints, which say by what configuration their agents go."""
    behind: set[str] = set()
    count = 0
    async for page, _version in cluster.objects(Kind.ENDPOINT):
        count += len(page)
        # By node: an agent has one configuration, however many endpoints it serves.
        behind |= {each["spec"]["node"] for each in page if _is_behind(each)}
    return configured(count, behind)


def _is_behind(endpoint: Mapping[str, Any]) -> bool:
    """Return whether an endpoint's agent keeps to an older configuration."""
    found = _conditions(endpoint).get(EndpointCondition.CONFIGURED, {})
    return found.get("status") == "False"


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
    status = deployment["status"]
    wanted, ready = deployment["spec"]["replicas"], status.get("readyReplicas", 0)
    name = deployment["metadata"]["name"]
    subject = f"operator: {ready} of {wanted} pods are ready"
    if not ready:
        return Finding(subject, f"none decides roles; see kubectl describe deployment {name}")
    # During an upgrade that stands still the old pods are ready, and the new ones are not.
    if _is_stale(deployment) or status.get("updatedReplicas", 0) < wanted:
        trouble = "some are of an older release; see that the new ones get ready: kubectl"
        return Finding(subject, f"{trouble} rollout status deployment {name}")
    return Finding(subject)


def _is_stale(found: Mapping[str, Any]) -> bool:
    """Return whether its controller has not seen the newest version so far."""
    # A status that speaks of an earlier spec says nothing of the pods of this one.
    observed: int = found["status"].get("observedGeneration", 0)
    generation: int = found["metadata"].get("generation", 0)
    return observed < generation


def configuration(found: Mapping[str, Any]) -> Finding:
    """Judge HandoverConfiguration ``default`` by what the operator says of it."""
    said = _conditions(found)
    generation = found["metadata"].get("generation", 0)
    for kind in (ConfigurationCondition.ACCEPTED, ConfigurationCondition.APPLIED):
        condition = said.get(kind, {})
        if condition.get("status") != "True":
            why = condition.get("message") or "no operator has said so far"
            return Finding("HandoverConfiguration default", f"not {kind.value}: {why}")
    # True, but of the version before: the operators may not run.
    if said[ConfigurationCondition.ACCEPTED].get("observedGeneration", 0) < generation:
        return Finding("HandoverConfiguration default", "no operator has seen its newest version")
    subject = f"HandoverConfiguration default: mode {found['status'].get('mode', '?')}"
    if is_braked(found["metadata"].get("annotations") or {}):
        subject += f", by its annotation {names.PAUSED}"
    overridden = said.get(ConfigurationCondition.OVERRIDDEN, {})
    if overridden.get("status") == "True":
        subject += f"; {overridden.get('message', '')}"
    return Finding(subject)


def configured(count: int, behind: Collection[str]) -> Finding:
    """Judge what the agents of *count* endpoints say; *behind* are the nodes of those that fail."""
    if not behind:
        return Finding(f"agents: those of {count} endpoints go by the newest configuration")
    return Finding(
        f"agents: those of {len(behind)} nodes keep to an older configuration",
        f"{wording.name_few(behind)}: "
        "condition Configured of the endpoints there says which value is wrong",
    )


def _conditions(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {each["type"]: each for each in (found.get("status") or {}).get("conditions") or ()}


def agents(daemonset: Mapping[str, Any]) -> Finding:
    """Judge the agents' DaemonSet: one that is missing leaves its node's guests behind."""
    status = daemonset["status"]
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    name = daemonset["metadata"]["name"]
    subject = f"node agents: {ready} of {wanted} nodes have one that is ready"
    # No pod is missing then, and yet no guest is followed anywhere.
    if not wanted:
        return Finding(subject, "no node is chosen: see nodeagent.nodeSelector and .tolerations")
    if _is_stale(daemonset) or status.get("updatedNumberScheduled", 0) < wanted:
        trouble = f"some are of an older release; see kubectl rollout status ds {name}"
        return Finding(subject, trouble)
    if ready < wanted:
        return Finding(subject, f"guests cannot be followed there; see kubectl describe ds {name}")
    return Finding(subject)


async def _rights(
    cluster: Cluster, namespace: str, account: str, rights: tuple[tuple[str, str, str, str], ...]
) -> Finding:
    # The API server's name for a service account; a SubjectAccessReview asks for somebody else,
    # which this command's own account may do.
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
