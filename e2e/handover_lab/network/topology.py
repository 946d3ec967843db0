"""How the nodes hang together: all on one segment, or each behind a link of its own.

The router is in the middle in both: a bridge that all nodes are on, or one port for each of them.
It is where clients outside of the cluster are, and knows no more of the nodes than their links.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from handover_lab.network import namespaces
from handover_lab.network.bird import Speaker
from handover_lab.network.namespaces import Namespace, Network

Topology = Literal["segment", "routed"]

FIRST: Final = 11
"""The number of the first node: below it is room for routers."""

LOOPBACK4: Final = "172.31.0.1"
LOOPBACK6: Final = "fd00:172:31::1"
"""The router as a member of a mesh whose members share no link with each other."""

# Each node reaches all others through the router, and knows that by a route of its own: FRR takes
# no default route for a way to a next hop.
ROUTER: Final = f"""{namespaces.FORWARDING}
ip address replace {LOOPBACK4}/32 dev lo
ip address replace {LOOPBACK6}/128 dev lo nodad
"""
PORT: Final = """
ip link add {port} up type veth peer name eth0 netns {pid}
ip address add {gateway4}/24 dev {port}
ip address add {gateway6}/64 dev {port} nodad
"""
NODE: Final = """
ip link set eth0 up
ip address add {address4}/24 dev eth0
ip address add {address6}/64 dev eth0 nodad
ip route add default via {gateway4}
ip route add default via {gateway6}
ip route add 172.31.0.0/16 via {gateway4}
ip route add fd00:172:31::/48 via {gateway6}
"""


@dataclass(frozen=True, slots=True)
class Link:
    """The link of one node: its own addresses, and the router's."""

    address4: str
    address6: str
    gateway4: str
    gateway6: str


def link(topology: Topology, number: int) -> Link:
    """Number the link of node *number*."""
    if topology == "segment":
        return Link(f"172.30.0.{number}", f"fd00:172:30::{number}", "172.30.0.1", "fd00:172:30::1")
    return Link(
        f"172.31.{number}.{number}",
        f"fd00:172:31:{number}::{number}",
        f"172.31.{number}.1",
        f"fd00:172:31:{number}::1",
    )


def connect(router: Network, nodes: Sequence[Namespace], topology: Topology) -> list[Speaker]:
    """Join *nodes* to *router*, and name all members of the BGP mesh, the router first."""
    if topology == "segment":
        return namespaces.connect(router, list(nodes))
    router.run(ROUTER)
    mesh = [Speaker(router.name, LOOPBACK4, LOOPBACK6, "port*")]
    for number, node in enumerate(nodes, start=FIRST):
        ends = link(topology, number)
        node.run(namespaces.FORWARDING)
        router.run(
            PORT.format(
                port=f"port{number}",
                pid=node.holder.pid,
                gateway4=ends.gateway4,
                gateway6=ends.gateway6,
            )
        )
        node.run(
            NODE.format(
                address4=ends.address4,
                address6=ends.address6,
                gateway4=ends.gateway4,
                gateway6=ends.gateway6,
            )
        )
        mesh.append(Speaker(node.name, ends.address4, ends.address6, "eth0"))
    return mesh


def underlay(topology: Topology, speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Write what BIRD needs beside its file to find next hops that are on no link of its own."""
    if topology == "segment" or speaker == mesh[0]:
        return ""
    number = FIRST + mesh.index(speaker) - 1
    ends = link(topology, number)
    lines = []
    for family, gateway in ((4, ends.gateway4), (6, ends.gateway6)):
        routes = (
            f"route {peer.address4}/32 via {gateway};"
            if family == 4
            else f"route {peer.address6}/128 via {gateway};"
            for peer in mesh
            if peer != speaker
        )
        lines.append(f"protocol static underlay{family} {{ ipv{family}; {' '.join(routes)} }}")
    return "\n".join(lines) + "\n"
