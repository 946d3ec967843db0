"""The lab on four nodes: real agents and a real operator, a VM, clients outside and in a pod.

The VM's addresses are of the first node's pods, so every route of the CNI leads there: who moves
it must bring everybody else to follow, by BIRD, FRR or the agents themselves, or by hand.
"""

import asyncio
import contextlib
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from handover_lab import paths
from handover_lab.cluster import manifests
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.observer import Object
from handover_lab.cluster.replica import Replica
from handover_lab.cluster.rest import Api
from handover_lab.facts import Fact, Route, Traffic
from handover_lab.four_nodes import cluster as four_nodes
from handover_lab.four_nodes.cluster import BYSTANDERS, SIDES
from handover_lab.four_nodes.cni import Cni, Kindnet
from handover_lab.guest import cpu_share
from handover_lab.guest.qemu import Nic, VmSpec
from handover_lab.guest.vm import FlowSpec, Vm
from handover_lab.guest.vm import Topology as Places
from handover_lab.lab import Lab, prefer_lab
from handover_lab.network import carriers
from handover_lab.network.carriers import Carrier
from handover_lab.network.namespaces import Network
from handover_lab.network.pod import Pod
from handover_lab.network.topology import Topology
from handover_lab.processes.waiting import until
from handover_lab.testing.agent_processes import AgentProcess, credentials

FLOWS: Final = (
    FlowSpec("outside", "ping", 4, 1),
    FlowSpec("outside v6", "ping", 6, 4),
    FlowSpec("pod", "ping", 4, 1, "pod"),
    FlowSpec("pod v6", "ping", 6, 4, "pod"),
    FlowSpec("TCP session", "tcp", 4, 20),
    FlowSpec("TCP session v6", "tcp", 6, 20),
)
NUMBERS: Final = itertools.count(1)
SETTINGS: Final[Mapping[str, object]] = {"liveMigrationRouteConvergenceTime": "2s"}
# To everybody else a node that has lost its uplink is like one without power.
CUT: Final = """
table inet cut {
    chain in { type filter hook prerouting priority -310; iifname "eth0" drop; }
    chain out { type filter hook postrouting priority 310; oifname "eth0" drop; }
}
"""
# What kube-proxy and Calico have: no packet passes that fits no connection that was seen.
STRICT: Final = """
table inet strict {
    chain forward {
        type filter hook forward priority 0
        ct state invalid counter drop
    }
}
"""


class FourNodeLab(Lab):
    """Lab whose agents and operator are processes, on nodes without a kubelet."""

    agent_variables: ClassVar[Mapping[str, str]] = {}
    """Settings of the agents beside those that they must have."""

    operator: Replica
    agents: dict[str, AgentProcess]
    pods: dict[str, Pod]
    """By the node that each is on."""
    cni: Cni
    routes: list[Route]
    """Each change of the routes to the VM's IPv4 address, on all nodes and the router."""

    @classmethod
    @contextlib.asynccontextmanager
    async def started(
        cls,
        directory: Path,
        shape: Topology = "segment",
        settings: Mapping[str, object] | None = None,
        cni: Cni | None = None,
        tell: Callable[[Fact | Traffic], None] = lambda _: None,
    ) -> AsyncIterator[Self]:
        """Start all of it in *directory*; the VM runs on the first node and is served.

        The *settings* are of HandoverConfiguration ``default``. Nobody carries routes so far.
        """
        cni = cni or Kindnet()
        all_settings = {**SETTINGS, **(settings or {})}
        cluster = four_nodes.started(
            directory, shape, all_settings, pod_routes=not cni.makes_routes
        )
        async with (
            cluster as (found, replica),
            cls.with_vm(found, directory, (shape, cni), tell) as lab,
        ):
            lab.operator = replica
            yield lab

    @classmethod
    @contextlib.asynccontextmanager
    async def with_vm(
        cls,
        cluster: Cluster,
        directory: Path,
        network: tuple[Topology, Cni],
        tell: Callable[[Fact | Traffic], None],
    ) -> AsyncIterator[Self]:
        """Bring agents, the VM and pods onto the nodes of *cluster*."""
        shape, cni = network
        await cni.start(cluster)
        places, routes = topology_of(cluster, shape), list[Route]()

        def hear(fact: Fact | Traffic) -> None:
            if isinstance(fact, Route):
                routes.append(fact)
            tell(fact)

        vm = Vm(directory, places, vm_spec(cluster), hear)
        vm.flow_specs = FLOWS
        prefer_lab(cluster.network)
        async with vm.open(), cls.on(cluster, vm, tell) as lab, contextlib.AsyncExitStack() as ends:
            await lab.start_watches()
            lab.agents = {
                name: await ends.enter_async_context(lab.agent(name)) for name in cluster.nodes
            }
            lab.cni, lab.pods, lab.routes = cni, {}, routes
            cni.attach(cluster.nodes[SIDES[0]], vm.nic)
            for name in cluster.nodes.keys() - set(SIDES):
                lab.add_pod(name, ends)
            vm.clients["pod"] = lab.pods[BYSTANDERS[0]]
            # Agents that start would take it from the guest, which then loses packets itself.
            ends.enter_context(cpu_share.reserved(vm))
            await vm.boot(SIDES[0])
            await lab.serve()
            yield lab

    @contextlib.asynccontextmanager
    async def agent(self, node: str) -> AsyncIterator[AgentProcess]:
        """Keep an agent running on *node*."""
        kubeconfig = await self.give_credentials(node)
        place, directory = self.cluster.nodes[node], self.cluster.directory
        async with AgentProcess.open(place, directory, kubeconfig, self.agent_variables) as process:
            yield process

    def add_pod(self, node: str, ends: contextlib.AsyncExitStack) -> None:
        """Make a pod on *node*, as the CNI would."""
        place = self.cluster.nodes[node]
        self.pods[node] = Pod.add(place, f"pod-on-{node}", self.cni.configuration(place))
        ends.callback(self.pods[node].end)

    async def serve(self) -> None:
        """Make the VM's endpoints, and wait for its routes where it is."""
        await self.apply(*(self.endpoint(node) for node in SIDES))
        await self.in_state(name_of(self.vm.home), "Base")

    async def prepare(self, migration: Object) -> None:
        """Announce *migration*, start the empty target, and wait until Handover is ready for it."""
        self.cni.attach(self.cluster.nodes[self.node_of(migration, "target")], self.vm.nic)
        await super().prepare(migration)

    def endpoint(self, node: str) -> dict[str, Any]:
        """Compose the VM's endpoint on *node* after the examples."""
        examples = {thing["spec"]["node"]: thing for thing in manifests.read(manifests.ENDPOINTS)}
        endpoint = copy.deepcopy(examples[node])
        endpoint["spec"] |= {
            "ips": list(self.vm.nic.addresses),
            "awaitRole": node != self.vm.home,
        }
        return endpoint

    def migration(self) -> dict[str, Any]:
        """Compose a LiveMigration of the VM to the other side."""
        (example,) = manifests.read(paths.EXAMPLES / "livemigration.yaml")
        migration = copy.deepcopy(example)
        migration["metadata"]["name"] = f"move-{next(NUMBERS)}"
        migration["spec"] |= {
            side: {"endpoint": {"name": name_of(node)}}
            for side, node in (("source", self.vm.home), ("target", self.away))
        }
        return migration

    @property
    def first(self) -> str:
        """The side whose pods' addresses the VM has."""
        return SIDES[0]

    @property
    def away(self) -> str:
        """The side on which the VM is not."""
        (there,) = set(SIDES) - {self.vm.home}
        return there

    @contextlib.asynccontextmanager
    async def carried(self, carrier: Carrier) -> AsyncIterator[None]:
        """Let *carrier* tell all where the VM is, and agents know of it."""
        elevated = carriers.elevated(carrier)
        await self.configure(
            advertise=carriers.ADVERTISE[carrier],
            ipv4ElevatedRoutePriority=elevated,
            ipv6ElevatedRoutePriority=elevated,
        )
        async with self.vm.carried(carrier):
            yield

    async def configure(self, **fields: object) -> None:
        """Set *fields* of the cluster's configuration."""
        patch = json.dumps({"spec": fields})
        words = ("handoverconfiguration", "default", "--type=merge", "--patch", patch)
        await self.kubectl("patch", *words)

    @contextlib.contextmanager
    def strict(self, rp_filter: int) -> Iterator[None]:
        """Let the sides drop what fits no connection, and check senders as *rp_filter* says."""
        sides = [self.cluster.nodes[name] for name in SIDES]
        knob = "/proc/sys/net/ipv4/conf/all/rp_filter"
        for node in sides:
            node.run(f"nft '{STRICT}'; echo {rp_filter} > {knob}")
        try:
            yield
        finally:
            for node in sides:
                node.run(f"nft delete table inet strict; echo 0 > {knob}")

    @contextlib.asynccontextmanager
    async def gone(self, name: str) -> AsyncIterator[None]:
        """Have a node die, and its Node with it; it joins the cluster anew afterwards."""
        node = self.cluster.nodes[name]
        node.run(f"nft '{CUT}'")
        async with self.agents[name].held():
            await self.kubectl("delete", "node", name)
            try:
                yield
            finally:
                node.run("nft delete table inet cut")
                async with Api.connect(self.cluster.kubeconfig) as api:
                    await four_nodes.register(api, node)
                # A token is of one Node, and ends with it.
                await self.give_credentials(name)

    async def give_credentials(self, node: str) -> Path:
        """Write what an agent on *node* speaks to the API server with."""
        kubeconfig = self.cluster.directory / f"{node}.kubeconfig"
        # It will hold a token, so nobody else may read it from the first moment.
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps(await credentials(self, node)))
        return kubeconfig

    async def follow_by_hand(self, delay_s: float) -> None:
        """Lead everybody to the VM *delay_s* after it has moved, where nobody carries routes.

        A person would do that on each machine.
        """
        left = self.vm.home
        await until(lambda: asyncio.sleep(0, self.vm.home), lambda home: home != left, seconds=60)
        await asyncio.sleep(delay_s)
        self.lead_by_hand()

    def lead_by_hand(self) -> None:
        """Lead everybody to where the VM is."""
        node = self.cluster.nodes[self.vm.home]
        ways = {4: node.address, 6: node.address6}
        self._everywhere("replace {address} via {way} proto static", ways)

    def forget(self) -> None:
        """Take back what was led by hand."""
        self._everywhere("flush {address} proto static", {4: "", 6: ""})

    def _everywhere(self, words: str, ways: Mapping[int, str]) -> None:
        script = "".join(
            f"ip -{family} route {words.format(address=address, way=ways[family])}\n"
            for family, address in self.vm.addresses.items()
        )
        topology = self.vm.topology
        # Behind links of their own the nodes leave it to the router.
        names = topology.bystanders if topology.shape == "segment" else ()
        places: list[Network] = [self.cluster.router, *(self.cluster.nodes[n] for n in names)]
        for place in places:
            place.run(script)


def topology_of(cluster: Cluster, shape: Topology) -> Places:
    """Say who is where, for the VM."""
    nodes = cluster.nodes
    return Places(
        cluster.router,
        {name: nodes[name] for name in SIDES},
        cluster.mesh,
        {name: nodes[name] for name in nodes if name not in SIDES},
        shape,
        "none",
    )


def vm_spec(cluster: Cluster) -> VmSpec:
    """Describe the VM: that of the examples, with addresses of the first node's pods."""
    spec = manifests.read(manifests.ENDPOINTS)[0]["spec"]
    home = cluster.nodes[SIDES[0]]
    addresses = tuple(network.partition("/")[0] for network in (home.pods, home.pods6))
    four, six = addresses
    # The first addresses are the gateway's and those of pods; host-local gives out from below.
    own = (f"{four.rpartition('.')[0]}.200", f"{six}200")
    return VmSpec(spec["workload"], (Nic(spec["interface"], spec["mac"], own),))


def name_of(node: str) -> str:
    """Name the VM's endpoint on *node*."""
    return f"vm-on-{node}"
