"""What `helm test` asks of a cluster; what the answers mean for a person, readiness.py says."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.commands import readiness
from handover_operator.commands.readiness import Finding, Right
from handover_operator.kinds import KUBEVIRT, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Temporary

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_APPS: Final = "/apis/apps/v1/namespaces"


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
            yield readiness.unanswered(check.__name__.strip("_").replace("_", " "), error)


async def _kinds(cluster: Cluster, _: Release) -> Finding:
    return readiness.kinds(await cluster.resources(names.API_VERSION))


async def _operator(cluster: Cluster, release: Release) -> Finding:
    found = await cluster.read(f"{_APPS}/{release.namespace}/deployments/{release.operator}")
    return readiness.operator(found)


async def _agents(cluster: Cluster, release: Release) -> Finding:
    found = await cluster.read(f"{_APPS}/{release.namespace}/daemonsets/{release.nodeagent}")
    return readiness.agents(found)


async def _configuration(cluster: Cluster, _: Release) -> Finding:
    try:
        found = await cluster.get(Kind.CONFIGURATION, ObjectKey("", names.DEFAULT_CONFIGURATION))
    except Absent:
        return readiness.configuration(None)
    return readiness.configuration(found)


async def _configured(cluster: Cluster, _: Release) -> Finding:
    """Ask the endpoints, which say by what configuration their agents go."""
    behind: set[str] = set()
    count = 0
    async for page, _version in cluster.objects(Kind.ENDPOINT):
        count += len(page)
        behind |= readiness.nodes_behind(page)
    return readiness.configured(count, behind)


async def _operator_rights(cluster: Cluster, release: Release) -> Finding:
    return await _rights(cluster, release, release.operator, readiness.OPERATOR_RIGHTS)


async def _agent_rights(cluster: Cluster, release: Release) -> Finding:
    return await _rights(cluster, release, release.nodeagent, readiness.AGENT_RIGHTS)


async def _kubevirt(cluster: Cluster, _: Release) -> Finding:
    return readiness.kubevirt(await cluster.resources(KUBEVIRT))


async def _rights(
    cluster: Cluster, release: Release, account: str, rights: Iterable[Right]
) -> Finding:
    missing = []
    # A SubjectAccessReview takes one right at a time.
    for right in rights:
        question = readiness.review(release.namespace, account, right)
        answer = await cluster.review(_REVIEWS, question)
        if not answer["status"]["allowed"]:
            missing.append(right)
    return readiness.rights(account, missing)
