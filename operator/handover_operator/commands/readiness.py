"""What is found of a cluster, and what that means for Handover, in sentences for a person. Pure.

``check.py`` asks, and here it is judged: a finding that is trouble says what to do.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from handover_api import names, wording
from handover_api.conditions import ConfigurationCondition, EndpointCondition
from handover_api.configuration import is_braked
from handover_operator.kinds import Foreign
from handover_operator.roles.parse import RawObject

KINDS: Final = frozenset({names.LIVE_MIGRATIONS, names.WORKLOAD_ENDPOINTS, names.CONFIGURATIONS})


class Right(NamedTuple):
    """What an account may do, as a SubjectAccessReview asks for it."""

    group: str
    resource: str
    subresource: str
    verb: str

    def __str__(self) -> str:
        of = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.resource}{of}"


OPERATOR_RIGHTS: Final = (
    *(Right(names.GROUP, kind, "", verb) for kind in sorted(KINDS) for verb in ("list", "watch")),
    Right(names.GROUP, names.WORKLOAD_ENDPOINTS, "", "patch"),
    Right(names.GROUP, names.LIVE_MIGRATIONS, "status", "patch"),
    Right("", "events", "", "create"),
    Right("", "namespaces", "", "list"),
    Right("", "namespaces", "", "watch"),
)
AGENT_RIGHTS: Final = (
    Right(names.GROUP, names.WORKLOAD_ENDPOINTS, "", "list"),
    Right(names.GROUP, names.WORKLOAD_ENDPOINTS, "", "watch"),
    Right(names.GROUP, names.WORKLOAD_ENDPOINTS, "status", "patch"),
    Right("", "events", "", "create"),
    Right("", "nodes", "", "list"),
    Right("", "nodes", "", "watch"),
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


def kinds(served: Collection[str]) -> Finding:
    """Judge what is served in our API version."""
    missing = KINDS - set(served)
    return Finding(
        f"kinds of {names.API_VERSION}",
        f"{', '.join(sorted(missing))} are not served: set crds.install, or apply them yourself"
        if missing
        else "",
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


def configuration(found: Mapping[str, Any] | None) -> Finding:
    """Judge HandoverConfiguration ``default`` by what the operator says of it; None: no object."""
    if found is None:
        trouble = "there is none: the operators' logs say why it is not applied"
        return Finding("HandoverConfiguration default", trouble)
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


def nodes_behind(endpoints: Iterable[RawObject]) -> set[str]:
    """Return the nodes whose agents keep to an older configuration, as their endpoints say."""
    # By node: an agent has one configuration, however many endpoints it serves.
    return {each["spec"]["node"] for each in endpoints if _is_behind(each)}


def _is_behind(endpoint: Mapping[str, Any]) -> bool:
    """Return whether an endpoint's agent keeps to an older configuration."""
    found = _conditions(endpoint).get(EndpointCondition.CONFIGURED, {})
    return found.get("status") == "False"


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


def kubevirt(served: Collection[str]) -> Finding:
    """Judge what is served in KubeVirt's API version.

    KubeVirt may come later, and others may drive migrations: its absence is no trouble.
    """
    return Finding(
        "KubeVirt: found, its migrations are followed"
        if Foreign.VMIM.plural in served
        else "KubeVirt: not here so far; LiveMigrations are somebody else's to make"
    )


def review(namespace: str, account: str, right: Right) -> RawObject:
    """Compose the question whether a service account has a right."""
    # The API server's name for a service account; a SubjectAccessReview asks for somebody else,
    # which this command's own account may do.
    user = f"system:serviceaccount:{namespace}:{account}"
    return {"spec": {"user": user, "resourceAttributes": right._asdict()}}


def rights(account: str, missing: Collection[Right]) -> Finding:
    """Judge which of its rights an account lacks."""
    named = ", ".join(map(str, missing))
    return Finding(
        f"rights of {account}",
        f"it may not {named}; install the chart's roles again" if missing else "",
    )


def unanswered(subject: str, error: Exception) -> Finding:
    """Tell that something could not be asked: nobody knows then, which is trouble too."""
    return Finding(subject, f"the API server does not tell: {error}")
