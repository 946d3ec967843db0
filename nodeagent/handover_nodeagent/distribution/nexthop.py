"""PURE: by which next hop another node is reached, from what the kernel says of the way there.

A packet for a guest must come to the guest's node with the guest's address in it. A router between
would send it where the network of pods leads, which is home again: so only next hops count that are
the node itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress


@dataclass(frozen=True, slots=True)
class Tunneled:
    """Through a tunnel of ours to *remote*, a node's address of any family."""

    remote: IPAddress


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel says of the way to one address: the route that wins.

    ``is_default`` is one for everything; such a device reaches a node only if the link says so.
    """

    oif: int
    gateway: IPAddress | None = None
    onlink: bool = False
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Ways:
    """The kernel's answers for one node and one family; None where there is no route."""

    to_node: Answer | None = None
    to_pods: Answer | None = None


def questions(node: Node, version: int) -> tuple[IPAddress | None, IPAddress | None]:
    """Return the addresses for which the kernel is to be asked: the node's, and its pods'.

    The first address of a network of pods is no pod's: no host route covers it.
    """
    cidr = node.pod_cidr(version)
    return node.address(version), cidr.network_address if cidr else None


def choose(
    node: Node, version: int, ways: Ways, own_devices: Iterable[int] = ()
) -> NextHop | Tunneled | None:
    """Return how *node* is reached in one family; None: nobody knows, and all stays as it is.

    *own_devices* are our tunnels: what the kernel sends there it has from us.
    """
    own = frozenset(own_devices)
    address = node.address(version)
    direct = ways.to_node
    if address and direct and direct.gateway is None and not direct.is_default:
        return NextHop(version, direct.oif, address)
    pods = ways.to_pods
    if pods and pods.oif not in own and pods.gateway and _is_at(node, pods.gateway):
        return NextHop(version, pods.oif, pods.gateway, pods.onlink)
    remote = address or next(iter(node.addresses), None)
    return Tunneled(remote) if remote else None


def _is_at(node: Node, gateway: IPAddress) -> bool:
    """Tell whether a gateway is the node itself: its address, or its end of an overlay."""
    return gateway in node.addresses or any(gateway in cidr for cidr in node.pod_cidrs)
