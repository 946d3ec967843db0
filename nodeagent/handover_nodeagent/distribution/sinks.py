"""What the watches of Nodes and of advertised endpoints tell, taken in."""

from typing import Final

from handover_api.assignment import Assignment
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import Role, WorkloadEndpoint
from handover_nodeagent import metrics
from handover_nodeagent.api import parse
from handover_nodeagent.api.errors import RawObject
from handover_nodeagent.distribution import advertised, nodes
from handover_nodeagent.distribution.distribution import Collection, Distribution

SELECTOR: Final = "status.advertised=true"
"""Only endpoints that need routes on other nodes travel to all of them."""


class NodeSink:
    """Takes in the Nodes of the cluster."""

    def __init__(self, distribution: Distribution) -> None:
        self._distribution = distribution

    def put(self, raw: RawObject) -> None:
        """Take a Node that is new or has changed."""
        node = nodes.read(raw)
        if node:
            self._distribution.put_node(node)

    def drop(self, key: ObjectKey, uid: str) -> None:  # noqa: ARG002  a watch's word
        """Take the end of a Node."""
        self._distribution.drop_node(key.name)

    def synced(self) -> None:
        """Know all Nodes."""
        self._distribution.synced(Collection.NODES)

    def outage(self, reason: str, *, is_absent: bool) -> None:  # noqa: ARG002  a watch's word
        """Know that Nodes may be otherwise."""
        self._distribution.outage(Collection.NODES)


class AdvertisedSink:
    """Takes in the endpoints of other nodes that are advertised.

    What this node's own are, its agent knows before the API does.
    """

    def __init__(self, distribution: Distribution) -> None:
        self._distribution = distribution

    def put(self, raw: RawObject) -> None:
        """Take an endpoint that is new or has changed; one that nobody can read stays as it was."""
        place, found = self._distribution.place, parse.endpoint(raw)
        if isinstance(found, parse.Unreadable):
            metrics.UNREADABLE.inc()
        elif found.spec.node != place.node:
            read = advertised.read(found, place.settings, place.api_servers)
            self._distribution.put(read, _speaker(found))

    def drop(self, key: ObjectKey, uid: str) -> None:  # noqa: ARG002  a watch's word
        """Take the end of an endpoint, or of its being advertised."""
        endpoint = self._distribution.resolver.endpoints.get(key)
        if endpoint and endpoint.node != self._distribution.place.node:
            self._distribution.drop(key)

    def synced(self) -> None:
        """Know all advertised endpoints."""
        self._distribution.synced(Collection.ENDPOINTS)

    def outage(self, reason: str, *, is_absent: bool) -> None:  # noqa: ARG002  a watch's word
        """Know that endpoints may be otherwise."""
        self._distribution.outage(Collection.ENDPOINTS)


def _speaker(found: WorkloadEndpoint) -> Peer | None:
    """Return who may say HAVE for an endpoint: its node's agent, for its migration alone."""
    agent = found.status.agent
    assignment = Assignment.from_annotations(found.metadata.annotations)
    if agent is None or assignment.migration_uid is None:
        return None
    return Peer(
        public_key=agent.public_key,
        addresses=agent.addresses,
        port=agent.port,
        uid=assignment.migration_uid,
        endpoint=found.metadata.name,
        node=found.spec.node,
        role=assignment.role or assignment.ended_role or Role.TARGET,
    )
