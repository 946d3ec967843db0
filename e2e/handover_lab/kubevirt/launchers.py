"""Launcher pods that really run: KubeVirt is simulated, its pods and the VM in them are not.

A kubelet starts each pod, and the CNI gives it the VM's addresses
(:mod:`handover_lab.cluster.sticky`). QEMU stands in the pod's network namespace, behind the
bridge that KubeVirt's bridge binding makes there. The pod's own program is no virt-launcher but
the least that can end well.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from handover_lab.cluster import sticky
from handover_lab.cluster.node import Node
from handover_lab.cluster.rest import Api, Object
from handover_lab.facts import Action
from handover_lab.guest.qemu import Nic
from handover_lab.guest.vm import Vm
from handover_lab.kubevirt.objects import FINAL, POD
from handover_lab.kubevirt.simulated import KubeVirt
from handover_lab.network import tap
from handover_lab.processes.place import Place

NAMESPACE: Final = "default"
PATIENCE: Final = 60.0

# KubeVirt switches learning off at the pod's interface, too. The devices get no addresses of their
# own: else the pod would speak where only the guest should.
BINDING: Final = """
set -e
ip address flush dev eth0
ip link add k6t-eth0 type bridge
ip tuntap add dev "$1" mode tap
for device in eth0 "$1" k6t-eth0; do ip link set "$device" addrgenmode none; done
for port in eth0 "$1"; do ip link set "$port" master k6t-eth0 up; done
ip link set eth0 type bridge_slave learning off
ip link set k6t-eth0 up
"""
"""KubeVirt's bridge binding: the guest behind the tap $1 takes over the pod's interface."""


@dataclass(frozen=True, slots=True)
class LauncherPod:
    """The network namespace of a launcher pod: where its QEMU stands."""

    node: Node
    pod: str
    pid: int
    """A process of the pod's."""

    @property
    def interface(self) -> str:
        """The node's end of the pod's network."""
        return sticky.interface(NAMESPACE, self.pod)

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* there."""
        return self.node.command("nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv)

    async def bind(self, device: str) -> None:
        """Bind the pod's interface to the guest's tap *device*, as KubeVirt's virt-handler does."""
        binding = self.command("sh", "-c", BINDING, "binding", device)
        process = await asyncio.create_subprocess_exec(*binding)
        if await process.wait():
            message = f"the interface of {self.pod} cannot be bound to its guest"
            raise RuntimeError(message)


class LauncherVm(Vm):
    """A VM whose QEMUs stand in launcher pods, of which each node has one at most that runs."""

    pods_by_node: dict[str, LauncherPod]

    _queue: int = tap.USUAL

    @property
    def ports(self) -> str:
        """The nodes' ends of its pods' networks."""
        return f"{sticky.PREFIX}*"

    def add_taps(self) -> None:
        """Lay nothing: the CNI does it, pod by pod."""
        self.pods_by_node = {}

    def queue(self, packets: int) -> None:
        """Let so many packets wait in the taps of pods that come from now on."""
        self._queue = packets

    def qemu_place(self, node: str) -> Place:
        """Tell where on *node* a QEMU finds its tap."""
        return self.pods_by_node[node]

    def node_nic(self, node: str) -> Nic:
        """Tell by which interface *node* itself reaches the VM."""
        return replace(self.nic, tap=self.pods_by_node[node].interface)

    async def use_pod(self, launcher_pod: LauncherPod) -> None:
        """Use this pod for what starts on its node from now on."""
        await launcher_pod.bind(self.nic.tap)
        tap.queue(launcher_pod, self.nic.tap, self._queue)
        self.pods_by_node[launcher_pod.node.name] = launcher_pod


class Launchers(KubeVirt):
    """KubeVirt as it is simulated, with pods that kubelets run."""

    def __init__(self, api: Api, nodes: Mapping[str, Node], tell: Callable[[Action], None]) -> None:
        super().__init__(api, NAMESPACE)
        self._nodes = nodes
        self._tell = tell

    async def bind(self, pod: str, node: str) -> None:
        """Bind a pod to a node as the scheduler does, which lets its kubelet start it."""
        await super().bind(pod, node)
        self._tell(Action(time.time_ns(), node, "pod", f"{pod} is bound"))

    async def wire(self, pod: str, ips: Sequence[str]) -> None:
        """Wait until the kubelet reports the pod's addresses, which must be *ips*."""
        raw = await self._until(pod, lambda status: status.get("podIPs"))
        found = [each["ip"] for each in raw["status"]["podIPs"]]
        if set(found) != set(ips):
            message = f"the CNI gave {pod} {found}, not the VM's addresses {[*ips]}"
            raise RuntimeError(message)
        self._tell(
            Action(time.time_ns(), raw["spec"]["nodeName"], "pod", f"{pod} runs, {found[0]}")
        )

    async def end_pod(self, pod: str, phase: str) -> None:
        """End the pod's program well or badly, and wait until the kubelet has seen it."""
        node = (await self.get(POD, pod))["spec"].get("nodeName")
        if node is None:
            await super().end_pod(pod, phase)
            return
        number = signal.SIGTERM if phase == "Succeeded" else signal.SIGKILL
        for pid in await asyncio.to_thread(self._nodes[node].pids, pod, NAMESPACE):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        await self._until(pod, lambda status: status["phase"] in FINAL)
        self._tell(Action(time.time_ns(), node, "pod", f"{pod} has ended"))

    async def launcher_pod(self, pod: str) -> LauncherPod:
        """Return where the QEMU of a pod that runs has its place."""
        node = self._nodes[(await self.get(POD, pod))["spec"]["nodeName"]]
        (pid,) = await asyncio.to_thread(node.pids, pod, NAMESPACE)
        return LauncherPod(node, pod, pid)

    async def _until(self, pod: str, is_so: Callable[[Object], object]) -> Object:
        """Wait until the status of *pod* is as wanted; return the pod."""
        changes = self.api.watch(POD.format(self.namespace))
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(changes):
            async for _, raw in changes:
                if raw["metadata"]["name"] == pod and is_so(raw["status"]):
                    return raw
        message = f"the API server tells no more of {pod}"
        raise RuntimeError(message)
