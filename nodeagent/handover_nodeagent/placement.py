"""PURE: which interface an endpoint has (design, Which interface), or why nobody can tell."""

import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from handover_api.workloadendpoint import WorkloadEndpoint
from handover_nodeagent.network import IPAddress, Link


class Obstacle(enum.StrEnum):
    """Why an endpoint has no interface: the reason of condition Programmed=False."""

    INTERFACE_NOT_FOUND = "InterfaceNotFound"
    INTERFACE_REFUSED = "InterfaceRefused"
    INTERFACE_AMBIGUOUS = "InterfaceAmbiguous"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No interface: reason and sentence for the condition."""

    reason: Obstacle
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the node knows: links by name, and which links have a foreign direct host route.

    ``devices``: the indexes by address, parked routes included. ``claimed``: the indexes of links
    that other endpoints have.
    """

    links: Mapping[str, Link]
    devices: Mapping[IPAddress, AbstractSet[int]]
    claimed: AbstractSet[int]


def place(endpoint: WorkloadEndpoint, surroundings: Surroundings) -> Link | Unplaced:
    """Return the endpoint's link; a device with a node address or a default route is never it."""
    raise NotImplementedError
