"""PURE: the rights in the API that the agent uses, and how a server is asked for each."""

from typing import Final, NamedTuple

from handover_api import names
from handover_nodeagent.api.errors import RawObject

# A review of one's own rights is allowed to everybody (system:basic-user).
REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


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
    Right("list", "", "nodes"),
    Right("watch", "", "nodes"),
)


def review(right: Right) -> RawObject:
    """Return the question for one right in all namespaces."""
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


def is_allowed(answer: RawObject) -> bool:
    """Tell what the *answer* to a review says."""
    status = answer.get("status") or {}
    return bool(status.get("allowed"))
