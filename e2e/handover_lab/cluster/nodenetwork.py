"""Nodes and the network between them, on which no part of Kubernetes runs yet.

The sandbox's own network namespace is router and client. It has the address of the API's service,
where the API server itself will listen, so neither kube-proxy nor DNS is needed.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyroute2 import IPRoute

from handover_lab.cluster.node import Node
from handover_lab.network import bird, topology
from handover_lab.network.namespaces import Here
from handover_lab.network.topology import Topology
from handover_lab.toolchain import requirements

NAMES: Final = ("node-a", "node-b")
SERVICE: Final = "10.96.0.1"
"""The API's own service: the first address of the service network."""

POD_ROUTE: Final = "ip route add {pods} via {via} proto static\n"


class NodeNetworkError(RuntimeError):
    """There is no place for nodes here; the text says what to do."""


@dataclass
class NodeNetwork:
    """Nodes with a router between them; all of it stands below *directory* or in the sandbox."""

    directory: Path
    nodes: Mapping[str, Node]
    router: Here
    mesh: Sequence[bird.Speaker]
    """Router and nodes, in this order, as members of a BGP mesh."""
    undo: contextlib.ExitStack
    """How to remove it, step by step."""

    @classmethod
    def start(
        cls,
        directory: Path,
        names: Sequence[str] = NAMES,
        shape: Topology = "segment",
        *,
        pod_routes: bool = True,
    ) -> Self:
        """Make the nodes *names* and connect them.

        The router knows where pods are, and so do the nodes with *pod_routes*; else a CNI is to
        tell them.

        The *directory*, empty or not there yet, belongs to the nodes and goes with them. When
        something fails, what was made is removed again.

        Raises:
            RuntimeError: of one of the modules used here; its text is for a person.
        """
        sandbox = requirements.check()
        router = Here("router")
        with contextlib.ExitStack() as undo:
            directory = prepare(directory, undo)
            # Before any node: two sets of nodes in one sandbox would share control groups, and the
            # second one to fail would end the first one's processes.
            claim(router, undo)
            nodes = {}
            for name in names:
                nodes[name] = Node.make(name, directory / name, sandbox)
                undo.callback(nodes[name].end)
            mesh = join(router, list(nodes.values()), undo, shape)
            # Behind links of their own the nodes leave it to the router.
            knowing = nodes.values() if pod_routes and shape == "segment" else ()
            lead_to_pods([router, *knowing], list(nodes.values()))
            return cls(directory, nodes, router, mesh, undo.pop_all())

    def stop(self) -> None:
        """Remove all of it; a second time changes nothing."""
        self.undo.close()


def prepare(directory: Path, undo: contextlib.ExitStack) -> Path:
    """Make *directory* where it is missing, and return how every program can call it."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        message = f"A cluster takes an empty directory; {directory} is not."
        raise NodeNetworkError(message)
    undo.callback(shutil.rmtree, directory)
    return directory.resolve()


def claim(router: Here, undo: contextlib.ExitStack) -> None:
    """Give *router* the address of the API's service, which only one in a sandbox can have."""
    try:
        router.run(f"ip address add {SERVICE}/32 dev lo")
    except subprocess.CalledProcessError as error:
        message = (
            f"This sandbox has no room for a cluster ({error.stderr.strip()}): one that runs here"
            " already has to stop first, or a second sandbox is wanted."
        )
        raise NodeNetworkError(message) from error
    undo.callback(router.run, f"ip address delete {SERVICE}/32 dev lo")


def join(
    router: Here, nodes: Sequence[Node], undo: contextlib.ExitStack, shape: Topology
) -> list[bird.Speaker]:
    """Lay the network between *router* and *nodes*."""
    undo.callback(disconnect)
    mesh = topology.connect(router, [node.namespace for node in nodes], shape)
    for node, speaker in zip(nodes, mesh[1:], strict=True):
        node.address, node.address6 = speaker.address4, speaker.address6
    return mesh


def lead_to_pods(places: Sequence[Here | Node], nodes: Sequence[Node]) -> None:
    """Add routes to the pods of all *nodes* at *places*, as a CNI that routes would."""
    for place in places:
        others = (node for node in nodes if node is not place)
        ways = (way for node in others for way in node.pod_ways)
        place.run("".join(POD_ROUTE.format(pods=pods, via=via) for pods, via in ways))


def disconnect() -> None:
    """Take bridge and ports away from the router that we are in, and the routes over them.

    Without waiting for the kernel, which takes a vanished namespace apart at its leisure.
    """
    with IPRoute() as kernel:
        for bridge in kernel.link_lookup(ifname="bridge"):
            for port in kernel.link_lookup(master=bridge):
                kernel.link("del", index=port)
            kernel.link("del", index=bridge)
        # Where there is no bridge, each node has a port of its own.
        for link in kernel.get_links():
            if link.get_attr("IFLA_IFNAME").startswith("port"):
                kernel.link("del", index=link["index"])
