"""What the API server lets the agent do: asked of the API server itself."""

import os
from typing import Final, NamedTuple

from handover_api import names
from handover_nodeagent.api import access, credentials
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import ApiError
from handover_nodeagent.commands.check import traps
from handover_nodeagent.commands.check.findings import Finding, fail

# A review of one's own rights is allowed to everybody (system:basic-user).
_PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
# A person waits: an API server that takes longer is a finding in itself.
_TIMEOUT: Final = 5.0


class Right(NamedTuple):
    """One thing to be allowed, in all namespaces."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        part = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.resource}{part}"


# What the chart's ClusterRole gives to the agent.
NEEDED: Final = (
    Right("list", names.GROUP, names.WORKLOAD_ENDPOINTS),
    Right("watch", names.GROUP, names.WORKLOAD_ENDPOINTS),
    Right("patch", names.GROUP, names.WORKLOAD_ENDPOINTS, "status"),
    Right("list", names.GROUP, names.CONFIGURATIONS),
    Right("watch", names.GROUP, names.CONFIGURATIONS),
    Right("create", "", "events"),
)


async def look() -> list[Finding]:
    """Ask for each right that the agent uses."""
    try:
        found = credentials.find(os.environ)
    except access.Unconfigured as error:
        return [fail("API server", str(error), "run it in the agent's pod, or set KUBECONFIG")]
    async with ApiServer(found, timeout=_TIMEOUT) as api:
        try:
            allowed = {str(right): await _is_allowed(api, right) for right in NEEDED}
        except ApiError as error:
            remedy = "check the network, the address and the credentials; routes are kept meanwhile"
            return [fail("API server", f"{found.url} does not answer: {error}", remedy)]
    return list(traps.rights(allowed))


async def _is_allowed(api: ApiServer, right: Right) -> bool:
    """Ask for one right in all namespaces."""
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.create(_PATH, review)
    status = answer.get("status") or {}
    return bool(status.get("allowed"))
