"""PURE: which interface an endpoint has (design, Which interface), or why nobody can tell."""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from handover_api.conditions import EndpointReason
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_nodeagent.network import IPAddress, Link

_CALICO_PREFIX: Final = "cali"
_CALICO_DIGITS: Final = 11


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No interface: reason and sentence for the condition.

    All of them may pass: look again at each notification of a link or a direct host route.
    """

    reason: EndpointReason
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the node knows; ``links`` by index and ``names`` are the same links.

    ``devices``: by address the indexes of the links with a direct host route to it that is not
    ours, parked ones included. ``claimed``: the indexes of the links of all other endpoints.
    """

    links: Mapping[int, Link]
    names: Mapping[str, Link]
    devices: Mapping[IPAddress, AbstractSet[int]]
    claimed: AbstractSet[int]


def place(endpoint: WorkloadEndpoint, surroundings: Surroundings) -> Link | Unplaced:
    """Return the endpoint's link; a device of the node's own is never it."""
    named = endpoint.spec.interface
    if named is not None:
        link = surroundings.names.get(named)
        if link is None:
            return Unplaced(EndpointReason.INTERFACE_NOT_FOUND, f"there is no interface {named}")
        return _unless_refused(link)
    calico = calico_name(endpoint)
    if calico in surroundings.names:
        return _unless_refused(surroundings.names[calico])
    return _by_route(endpoint, surroundings, calico)


def keep(link: Link) -> Link | Unplaced:
    """Return the link that an endpoint had, where nothing tells its interface any more.

    A link that was down has lost the route that told it; it is still the guest's.
    """
    return _unless_refused(link)


def calico_name(endpoint: WorkloadEndpoint) -> str:
    """Return the name that Calico gives to the interface of the endpoint's pod."""
    pod = f"{endpoint.metadata.namespace}.{endpoint.spec.workload}"
    digest = hashlib.sha1(pod.encode(), usedforsecurity=False).hexdigest()
    return _CALICO_PREFIX + digest[:_CALICO_DIGITS]


def _by_route(
    endpoint: WorkloadEndpoint, surroundings: Surroundings, calico: str
) -> Link | Unplaced:
    indexes = {
        index for address in endpoint.spec.ips for index in surroundings.devices.get(address, ())
    }
    routed = [surroundings.links[index] for index in indexes if index in surroundings.links]
    if not routed:
        text = f"no spec.interface, no interface {calico}, no direct route to any of its addresses"
        return Unplaced(EndpointReason.INTERFACE_NOT_FOUND, text)
    claimed = surroundings.claimed
    free = [link for link in routed if link.index not in claimed and not _objection(link)]
    if len(free) == 1:
        return free[0]
    names = ", ".join(sorted(link.name for link in free or routed))
    leave = f"direct routes to its addresses leave by {names}"
    if free:
        return Unplaced(EndpointReason.INTERFACE_AMBIGUOUS, f"{leave}: name one in spec.interface")
    return Unplaced(
        EndpointReason.INTERFACE_REFUSED, f"{leave}: another endpoint's, or the node's own"
    )


def _unless_refused(link: Link) -> Link | Unplaced:
    objection = _objection(link)
    return Unplaced(EndpointReason.INTERFACE_REFUSED, objection) if objection else link


def _objection(link: Link) -> str:
    """Say why *link* is the node's own; link-local addresses make none, every link has one."""
    if link.default_route:
        return f"interface {link.name} has the node's default route"
    own = sorted(str(address) for address in link.addresses if not address.is_link_local)
    return f"interface {link.name} has the node's address {', '.join(own)}" if own else ""
