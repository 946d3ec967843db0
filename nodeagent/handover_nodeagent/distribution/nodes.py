"""PURE: Nodes as far as the distribution needs them; one that says too little is still a node.

The kubelet and the cloud's controllers write Nodes, and leave parts out while they start: what
cannot be read of one is absent, and never an error.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from handover_nodeagent.network.model import IPAddress

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Node:
    """One node: where it is reached, and which addresses the cluster's own routes lead to it.

    ``addresses`` are its InternalIPs in the order of its status; Kubernetes names at most one per
    family, and of several the first counts.
    """

    name: str
    addresses: tuple[IPAddress, ...] = ()
    pod_cidrs: tuple[IPNetwork, ...] = ()

    def address(self, version: int) -> IPAddress | None:
        """Return where it is reached in one family of addresses, 4 or 6."""
        return next((one for one in self.addresses if one.version == version), None)

    @property
    def published(self) -> tuple[IPAddress, ...]:
        """The first of each family, as the kubelet tells its pods (``status.hostIPs``)."""
        return tuple(one for one in self.addresses if one == self.address(one.version))

    def pod_cidr(self, version: int) -> IPNetwork | None:
        """Return its first network of pods in one family of addresses, 4 or 6."""
        return next((one for one in self.pod_cidrs if one.version == version), None)

    def is_home(self, addresses: Iterable[IPAddress]) -> bool:
        """Tell whether the cluster's own routes lead to it for all of *addresses*."""
        return all(any(one in cidr for cidr in self.pod_cidrs) for one in addresses)


def read(raw: object) -> Node | None:
    """Read a Node; None for what has no name, which no API server sends."""
    name = _get(_get(raw, "metadata"), "name")
    if not isinstance(name, str) or not name:
        return None
    spec = _get(raw, "spec")
    # The single field is older, and holds the first of the list where both are there.
    written = [*_items(_get(spec, "podCIDRs")), _get(spec, "podCIDR")]
    cidrs = (_network(text) for text in written)
    addresses = (
        _address(_get(entry, "address"))
        for entry in _items(_get(_get(raw, "status"), "addresses"))
        if _get(entry, "type") == "InternalIP"
    )
    return Node(name, _distinct(addresses), _distinct(cidrs))


def succeed(before: Node | None, now: Node) -> Node:
    """Return what is known of a node by now: what its newer version leaves out stays as it was.

    A kubelet that starts anew may write a status without addresses; routes to its guests stay.
    """
    if before is None:
        return now
    missing = (one for one in before.addresses if now.address(one.version) is None)
    cidrs = now.pod_cidrs or before.pod_cidrs
    return Node(now.name, (*now.addresses, *missing), cidrs)


_T = TypeVar("_T")


def _distinct(found: Iterable[_T | None]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _get(raw: object, name: str) -> object:
    return raw.get(name) if isinstance(raw, dict) else None


def _items(raw: object) -> Iterator[object]:
    yield from raw if isinstance(raw, list) else ()


def _address(text: object) -> IPAddress | None:
    try:
        # An integer would be read as an address, too.
        return ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _network(text: object) -> IPNetwork | None:
    try:
        # As with an address; bits beyond the prefix are a person's slip, and harmless.
        return ipaddress.ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None
