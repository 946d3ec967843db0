"""Which of an endpoint's addresses this node may program at all, and whose routes are ours."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from handover_api.assignment import Assignment
from handover_api.configuration import RouteOwnership, Settings
from handover_nodeagent.network.model import IPAddress

# ipaddress counts it among the reserved ones, of which others may well be some guest's.
_BROADCAST: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Admission:
    """The addresses that may be programmed, and why others may not, or could not be taken now."""

    allowed: tuple[IPAddress, ...]
    refused: Mapping[IPAddress, str]


def admit(
    addresses: Iterable[IPAddress],
    settings: Settings,
    node_addresses: AbstractSet[IPAddress],
    served: AbstractSet[IPAddress] = frozenset(),
    api_servers: AbstractSet[IPAddress] = frozenset(),
) -> Admission:
    """Judge *addresses*; some are refused whatever ``allowedCIDRs`` says.

    Those that are *served* stay, with a word: a guest has our route, and no other one.
    """
    allowed: list[IPAddress] = []
    refused: dict[IPAddress, str] = {}
    # Each one once, in the order of the spec: the status names them as their owner does.
    for address in dict.fromkeys(addresses):
        objection = _objection(address, settings, node_addresses, api_servers)
        if objection:
            stays = "; its route stays, as there is no other" if address in served else ""
            refused[address] = f"{address} is {objection}{stays}"
        if not objection or address in served:
            allowed.append(address)
    return Admission(tuple(allowed), refused)


def _objection(
    address: IPAddress,
    settings: Settings,
    node_addresses: AbstractSet[IPAddress],
    api_servers: AbstractSet[IPAddress],
) -> str:
    # What would harm the node comes first, what its owner has ruled out last.
    objections = (
        (address in node_addresses, "an address of this node"),
        # A route to a guest would cut the agent, and all else here, off from the cluster.
        (address in api_servers, "an address of the API server"),
        (address.is_loopback, "a loopback address"),
        (address.is_link_local, "a link-local address"),
        (address.is_multicast, "a multicast address"),
        (address.is_unspecified, "the unspecified address"),
        (address == _BROADCAST, "the broadcast address"),
        (
            not any(address in network for network in settings.allowed_cidrs),
            "outside of allowedCIDRs",
        ),
    )
    return next((reason for applies, reason in objections if applies), "")


def is_owned(assignment: Assignment, ownership: RouteOwnership) -> bool:
    """Tell whether the endpoint's routes are ours to program and its foreign ones to park."""
    if ownership is RouteOwnership.ALL:
        return True
    # The uid outlives the role: who has migrated once stays ours.
    return assignment.role is not None or assignment.migration_uid is not None
