"""Which of an endpoint's addresses this node may program at all, and whose routes are ours."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from handover_api.assignment import Assignment
from handover_api.configuration import RouteOwnership, Settings
from handover_nodeagent.network import IPAddress


@dataclass(frozen=True, slots=True)
class Admission:
    """The addresses that may be programmed, and why each other one may not."""

    allowed: tuple[IPAddress, ...]
    refused: dict[IPAddress, str] = field(default_factory=dict)


def admit(
    addresses: Iterable[IPAddress], settings: Settings, node_addresses: AbstractSet[IPAddress]
) -> Admission:
    """Judge *addresses*; some are refused whatever ``allowedCIDRs`` says."""
    raise NotImplementedError


def is_owned(assignment: Assignment, ownership: RouteOwnership) -> bool:
    """Tell whether the endpoint's routes are ours to program and its foreign ones to park."""
    if ownership is RouteOwnership.ALL:
        return True
    return assignment.role is not None or assignment.migration_uid is not None
