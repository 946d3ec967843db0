"""CNIs that four nodes can have: who makes the routes between pods, and what a pod is given."""

import asyncio
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.node import Node
from handover_lab.guest.qemu import Nic
from handover_lab.network import pod
from handover_lab.processes.waiting import until
from handover_lab.toolchain import tools

ROUTED_S: Final = 60.0

Backend = Literal["host-gw", "vxlan"]


class Cni(Protocol):
    """Makes the network of pods."""

    @property
    def makes_routes(self) -> bool:
        """Whether it leads nodes to each other's pods; else the lab does, once and for all."""
        ...

    async def start(self, cluster: Cluster) -> None:
        """Start it on all nodes, and return when each node knows its way to all pods."""
        ...

    def configuration(self, node: Node) -> Mapping[str, object]:
        """Say by which plug-in, and how, a pod on *node* gets its interface."""
        ...

    def attach(self, node: Node, nic: Nic) -> None:
        """Give the VM's interface on *node* what a pod's would get there."""
        ...


@dataclass(frozen=True, slots=True)
class Kindnet:
    """As kindnet does: a link for each pod, the gateway's address on its end, static routes."""

    makes_routes: bool = False

    async def start(self, cluster: Cluster) -> None:
        """Start nothing: its daemon does once what the lab has done."""

    def configuration(self, node: Node) -> Mapping[str, object]:
        """Say how a pod on *node* gets its interface."""
        return pod.ptp([node.pods, node.pods6])

    def attach(self, node: Node, nic: Nic) -> None:
        """Set the gateway's addresses, and the host routes that ptp makes, on the node's end."""
        gateways = [network.partition("/")[0] for network in (node.pods, node.pods6)]
        four, six = f"{gateways[0].rpartition('.')[0]}.1/32", f"{gateways[1]}1/128"
        node.run(
            "".join(
                [
                    f"ip address replace {four} dev {nic.tap}\n",
                    f"ip address replace {six} dev {nic.tap} nodad\n",
                    *(f"ip route replace {each} dev {nic.tap}\n" for each in nic.addresses),
                ]
            )
        )


@dataclass(frozen=True, slots=True)
class Flannel:
    """Flannel's own daemon, with routes by the nodes' addresses or by its overlay."""

    backend: Backend
    makes_routes: bool = True

    async def start(self, cluster: Cluster) -> None:
        """Start flanneld on all nodes, and return when each has routes to the others' pods."""
        for node in cluster.nodes.values():
            start_flannel(node, self.backend, cluster.kubeconfig)
        for node in cluster.nodes.values():
            others = [other for other in cluster.nodes.values() if other is not node]
            look = functools.partial(asyncio.to_thread, unreached, node, others)
            what = f"flannel's routes on {node.name}"
            await until(look, lambda missing: not missing, what, ROUTED_S)

    def attach(self, node: Node, nic: Nic) -> None:
        """Change nothing: the VM's interface is on no bridge, and has a route of ours alone."""

    def configuration(self, node: Node) -> Mapping[str, object]:
        """Say how a pod on *node* gets its interface, as flannel's plug-in would."""
        # flanneld says it there for its plug-in, which delegates to this one.
        told = dict(line.split("=") for line in node.run("cat /run/flannel/subnet.env").split())
        return pod.bridge([node.pods, node.pods6], int(told["FLANNEL_MTU"]))


def start_flannel(node: Node, backend: Backend, kubeconfig: Path) -> None:
    """Start flanneld on *node*."""
    network = {
        "Network": "10.244.0.0/16",
        "IPv6Network": "fd00:244::/32",
        "EnableIPv4": True,
        "EnableIPv6": True,
        "Backend": {"Type": backend},
    }
    file = node.directory / "net-conf.json"
    file.write_text(json.dumps(network))
    node.start(
        str(tools.locate("flanneld")),
        "--kube-subnet-mgr",
        f"--kubeconfig-file={kubeconfig}",
        f"--net-config-path={file}",
        "--iface=eth0",
        # Nobody here filters what is forwarded, and no pod talks to the world behind an address.
        "--iptables-forward-rules=false",
        "--ip-masq=false",
        NODE_NAME=node.name,
    )


def unreached(node: Node, others: Sequence[Node]) -> list[str]:
    """Name the networks of the *others*' pods to which *node* has no route of its own."""
    known = {line.split()[0] for line in node.run("ip -4 route; ip -6 route").splitlines()}
    return [
        network for other in others for network in (other.pods, other.pods6) if network not in known
    ]
