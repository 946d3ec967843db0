"""The nodes and their cluster: a control plane, Node objects, an operator; no kubelet anywhere.

What Handover needs of a node is its network namespace, its Node and an agent. Without containerd
and kubelets four nodes start in the time of one, and leave two processors to the VM.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from handover_lab import paths
from handover_lab.cluster import nodenetwork
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.node import Node
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.cluster.release import Release
from handover_lab.cluster.replica import Replica
from handover_lab.cluster.rest import Api
from handover_lab.network.topology import Topology
from handover_lab.processes.waiting import until

SIDES: Final = ("node-a", "node-b")
"""Between which the VM moves; it boots on the first."""
BYSTANDERS: Final = ("node-c", "node-d")
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CONFIGURATIONS: Final = "/apis/handover.dev/v1alpha1/handoverconfigurations"

WITHOUT_KUBEVIRT: Final = {"HANDOVER_KUBEVIRT": "false"}


@contextlib.asynccontextmanager
async def started(
    directory: Path,
    shape: Topology,
    settings: Mapping[str, object],
    *,
    names: Sequence[str] = (*SIDES, *BYSTANDERS),
    pod_routes: bool = True,
) -> AsyncIterator[tuple[Cluster, Replica]]:
    """Start it in *directory*, with *settings* in HandoverConfiguration ``default``.

    Raises:
        RuntimeError: of one of the modules used here; its text is for a person.
    """
    async with contextlib.AsyncExitStack() as undo:
        network = NodeNetwork.start(directory / "nodes", names, shape, pod_routes=pod_routes)
        # pyroute2 brings a loop of its own, and there is one already in this thread.
        undo.push_async_callback(asyncio.to_thread, network.stop)
        (network.directory / "scratch").mkdir()
        plane = ControlPlane.start(
            network.directory / "control-plane", address=nodenetwork.SERVICE, port=443
        )
        undo.callback(plane.stop)
        release, _ = await asyncio.gather(
            Release.install(plane), populate(plane.kubeconfig, network, settings)
        )
        operator = release.replica(network.directory / "operator.log", WITHOUT_KUBEVIRT)
        operator.launch()
        undo.callback(operator.stop)
        yield Cluster(network, plane, contextlib.ExitStack()), operator


async def populate(kubeconfig: Path, network: NodeNetwork, settings: Mapping[str, object]) -> None:
    """Make our kinds, the Nodes, and the configuration that a person would have made first."""
    async with Api.connect(kubeconfig) as api:
        for path in sorted(paths.CRDS.glob("*.yaml")):
            await api.call("POST", CRDS, yaml.safe_load(path.read_text()))
        for node in network.nodes.values():
            await register(api, node)
        await until(lambda: api.exists(CONFIGURATIONS), bool, "our kinds")
        wanted = {
            "apiVersion": "handover.dev/v1alpha1",
            "kind": "HandoverConfiguration",
            "metadata": {"name": "default"},
            "spec": settings,
        }
        await api.call("POST", CONFIGURATIONS, wanted)


async def register(api: Api, node: Node) -> None:
    """Make the Node, as its kubelet and the controller that numbers pods would."""
    nodes = "/api/v1/nodes"
    spec = {"podCIDR": node.pods, "podCIDRs": [node.pods, node.pods6]}
    metadata = {
        "name": node.name,
        "labels": {"kubernetes.io/hostname": node.name},
        # As a kubelet's: flannel takes it for granted that a Node has some.
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
    }
    made = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}
    await api.call("POST", nodes, made)
    await api.call("PATCH", f"{nodes}/{node.name}/status", {"status": status_of(node)})


def status_of(node: Node) -> dict[str, Any]:
    """Say of *node* what its kubelet would: its addresses, and that it is ready."""
    return {
        "addresses": [
            {"type": "InternalIP", "address": node.address},
            {"type": "InternalIP", "address": node.address6},
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }
