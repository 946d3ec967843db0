"""Which interface an endpoint has, or why nobody can tell."""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from handover_api import wording
from handover_api.conditions import EndpointReason
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_nodeagent.network.model import IPAddress, Link

# As Calico's VethNameForWorkload does: its default prefix, and as many digits of a SHA-1 as make
# the 15 characters that Linux allows (IFNAMSIZ counts the final NUL).
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
class NodeLinks:
    """The node's links, and what tells whose they are; ``by_index`` and ``by_name`` are the same.

    ``routed``: by address the indexes of the links with a direct host route to it that is not
    ours, parked ones included. ``taken``: the indexes of the links of all other endpoints.
    ``current``: the index of the link that the endpoint has already.
    """

    by_index: Mapping[int, Link]
    by_name: Mapping[str, Link]
    routed: Mapping[IPAddress, AbstractSet[int]]
    taken: AbstractSet[int]
    current: int | None = None


def place(endpoint: WorkloadEndpoint, node: NodeLinks) -> Link | Unplaced:
    """Return the endpoint's link; a device of the node's own is never taken.

    One that the endpoint has already stays its own while no other one is found: that nothing tells
    it any more (a link that was down has lost its routes), that it has another name now, or that
    something is wrong with it, takes no route from a guest that has one (``objection_to_current``).
    """
    found = _find(endpoint, node)
    if isinstance(found, Unplaced):
        # No link has the index 0.
        return node.by_index.get(node.current or 0, found)
    return found


def objection_to_current(endpoint: WorkloadEndpoint, link: Link) -> str:
    """Say why *link*, which *endpoint* has, would not be given to it now; "" when it would."""
    named = endpoint.spec.interface
    if named not in {None, link.name}:
        return f"interface {named} is not there, or not the guest's; it stays on {link.name}"
    return objection(link, frozenset(), is_led=True)


def _find(endpoint: WorkloadEndpoint, node: NodeLinks) -> Link | Unplaced:
    named = endpoint.spec.interface
    # What a person named counts alone, also where it is refused: to guess on would surprise them.
    if named is not None:
        link = node.by_name.get(named)
        if link is None:
            return Unplaced(EndpointReason.INTERFACE_NOT_FOUND, f"there is no interface {named}")
        return _unless_refused(endpoint, link, node)
    calico = calico_name(endpoint)
    # Calico's name goes before a route: it is there while the link is down and has no routes.
    if is_primary(endpoint) and calico in node.by_name:
        return _unless_refused(endpoint, node.by_name[calico], node)
    return _by_route(endpoint, node, calico)


def is_primary(endpoint: WorkloadEndpoint) -> bool:
    """Tell whether the endpoint is that of its pod's first network.

    Those of further networks are called after the pod and the device in it (``kubevirt/machine``).
    Calico knows the first alone, whoever made the others.
    """
    return not endpoint.metadata.name.startswith(f"{endpoint.spec.workload}.")


def calico_name(endpoint: WorkloadEndpoint) -> str:
    """Return the name that Calico gives to the interface of the endpoint's pod."""
    pod = f"{endpoint.metadata.namespace}.{endpoint.spec.workload}"
    digest = hashlib.sha1(pod.encode(), usedforsecurity=False).hexdigest()
    return _CALICO_PREFIX + digest[:_CALICO_DIGITS]


def _by_route(endpoint: WorkloadEndpoint, node: NodeLinks, calico: str) -> Link | Unplaced:
    indexes = {index for address in endpoint.spec.ips for index in node.routed.get(address, ())}
    routed = [node.by_index[index] for index in indexes if index in node.by_index]
    if not routed:
        named = f"no interface {calico}, " if is_primary(endpoint) else ""
        text = f"no spec.interface, {named}no direct route to any of its addresses"
        return Unplaced(EndpointReason.INTERFACE_NOT_FOUND, text)
    # Its own stays in the choice, whatever is wrong with it by now.
    free = [
        link
        for link in routed
        if link.index not in node.taken
        and (link.index == node.current or not _objection_here(endpoint, link, node))
    ]
    if len(free) == 1:
        return free[0]
    names = wording.name_few([link.name for link in free or routed])
    leave = f"direct routes to its addresses leave by {names}"
    if free:
        return Unplaced(EndpointReason.INTERFACE_AMBIGUOUS, f"{leave}: name one in spec.interface")
    return Unplaced(
        EndpointReason.INTERFACE_REFUSED, f"{leave}: another endpoint's, or the node's own"
    )


def _unless_refused(endpoint: WorkloadEndpoint, link: Link, node: NodeLinks) -> Link | Unplaced:
    why = _objection_here(endpoint, link, node)
    return Unplaced(EndpointReason.INTERFACE_REFUSED, why) if why else link


def _objection_here(endpoint: WorkloadEndpoint, link: Link, node: NodeLinks) -> str:
    routed = node.routed
    is_led = any(link.index in routed.get(address, ()) for address in endpoint.spec.ips)
    return objection(link, frozenset(endpoint.spec.gateways), is_led=is_led)


def objection(link: Link, gateways: AbstractSet[IPAddress], *, is_led: bool) -> str:
    """Say why *link* is no guest's: it has no MAC, or is the node's own.

    Link-local addresses make none of the node's: every link has one. Nor does an address without a
    network on the guest's device: plug-ins put the gateway's there (ptp, kindnet). The guest's it
    is where it *is_led* there by a direct route, or where it is one of its *gateways*; a /32 of the
    node's own on an uplink is neither.
    """
    if not link.is_ethernet:
        return f"interface {link.name} has no MAC address: no guest can be heard or asked there"
    if link.default_route:
        return f"interface {link.name} has the node's default route"
    harmless = link.hosts if is_led else link.hosts & gateways
    own = [str(one) for one in link.addresses - harmless if not one.is_link_local]
    return f"interface {link.name} has the node's address {wording.name_few(own)}" if own else ""
