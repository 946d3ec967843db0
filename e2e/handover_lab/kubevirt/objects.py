"""KubeVirt's objects without KubeVirt: written as its controllers, a scheduler and kubelets would.

Nothing runs in these pods.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from handover_lab.cluster.rest import Api, ApiError, Object
from handover_lab.images import archive

CRDS: Final = Path(__file__).parent
VERSION: Final = "kubevirt.io/v1"
VMI: Final = f"/apis/{VERSION}/namespaces/{{}}/virtualmachineinstances"
VMIM: Final = f"/apis/{VERSION}/namespaces/{{}}/virtualmachineinstancemigrations"
ALL_VMIMS: Final = f"/apis/{VERSION}/virtualmachineinstancemigrations"
POD: Final = "/api/v1/namespaces/{}/pods"
CRD: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FINAL: Final = frozenset({"Succeeded", "Failed"})
PIECE: Final = 500
"""Bytes of one piece of a pod's ballast."""

PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM as a person would define it."""

    name: str
    mac: str = "02:7a:31:00:00:01"
    binding: str = "bridge"
    labels: Mapping[str, str] = field(default_factory=dict)

    def spec(self) -> Object:
        """Compose the spec of its VMI."""
        interface = {"name": "default", self.binding: {}, "macAddress": self.mac}
        return {
            "domain": {"devices": {"interfaces": [interface]}},
            "networks": [{"name": "default", "pod": {}}],
        }


class KubeVirtObjects:
    """KubeVirt's objects in one namespace, and those who write them.

    ``ballast``: bytes that each launcher pod has in it beside what anybody reads.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.ballast = 0
        self._count = 0

    async def install(self) -> None:
        """Make the kinds, and wait until they are served."""
        for path in sorted(CRDS.glob("*.yaml")):
            with contextlib.suppress(ApiError):
                await self.api.call("POST", CRD, yaml.safe_load(path.read_text()))
        async with asyncio.timeout(PATIENCE):
            await self._until_served(served=True)

    async def uninstall(self) -> None:
        """Remove the kinds and all of their objects, whatever still holds those."""
        for vmim in (await self.api.call("GET", ALL_VMIMS))["items"]:
            path = f"{VMIM.format(vmim['metadata']['namespace'])}/{vmim['metadata']['name']}"
            await self.api.call("PATCH", path, {"metadata": {"finalizers": None}})
        for file in sorted(CRDS.glob("*.yaml")):
            name = yaml.safe_load(file.read_text())["metadata"]["name"]
            await self.api.call("DELETE", f"{CRD}/{name}")
        async with asyncio.timeout(PATIENCE):
            await self._until_served(served=False)

    async def _until_served(self, *, served: bool) -> None:
        for kind in (VMI, VMIM):
            path = kind.format(self.namespace)
            while await self.api.exists(path) is not served:  # noqa: ASYNC110  nothing tells us
                await asyncio.sleep(0.05)

    async def start(self, guest: Guest, node: str, ips: Sequence[str]) -> str:
        """Start a VM on a node; return the name of its launcher pod."""
        vmi = await self.make(VMI, guest.name, spec=guest.spec(), labels=dict(guest.labels))
        await self.patch_vmi(guest.name, {"status": {"phase": "Scheduling"}})
        pod = await self.make_pod(vmi, {"kubevirt.io/nodeName": node})
        await self.bind(pod, node)
        await self.wire(pod, ips)
        state = {"phase": "Running", "nodeName": node, "interfaces": reported(guest.mac, ips)}
        labels = {"kubevirt.io/nodeName": node}
        await self.patch_vmi(guest.name, {"metadata": {"labels": labels}, "status": state})
        return pod

    async def make(self, path: str, name: str, spec: Object, **metadata: Any) -> Object:  # noqa: ANN401
        """Create an object of KubeVirt's."""
        kind = "VirtualMachineInstance" + ("Migration" if path == VMIM else "")
        body = {
            "apiVersion": VERSION,
            "kind": kind,
            "metadata": {"name": name, **metadata},
            "spec": spec,
        }
        return await self.api.call("POST", path.format(self.namespace), body)

    async def make_pod(
        self, vmi: Object, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
    ) -> str:
        """Create a launcher pod of a VMI as virt-controller does; return its name."""
        self._count += 1
        name = vmi["metadata"]["name"]
        pod = f"virt-launcher-{name}"[:58] + f"-{self._count}"
        owner = {
            "apiVersion": VERSION,
            "kind": "VirtualMachineInstance",
            "name": name,
            "uid": vmi["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        own = {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": owner["uid"]}
        metadata = {
            "name": pod,
            "labels": {**vmi["metadata"].get("labels", {}), **own, **labels},
            "annotations": {"kubevirt.io/domain": name, **(annotations or {})},
            "ownerReferences": [owner],
        }
        spec = {
            # Nobody's name: no real scheduler binds the pod before its node is chosen here.
            "schedulerName": "scripted-kubevirt",
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [{"name": "compute", "image": archive.PAUSE, "env": self._env()}],
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        await self.api.call("POST", POD.format(self.namespace), body)
        return pod

    def _env(self) -> list[Object]:
        """Compose the ballast as a real launcher has it: many values, none of them long."""
        return [
            {"name": f"SHARED_{number}", "value": "x" * PIECE}
            for number in range(self.ballast // PIECE)
        ]

    async def bind(self, pod: str, node: str) -> None:
        """Bind a pod to a node as the scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod},
            "target": target,
        }
        await self.api.call("POST", f"{POD.format(self.namespace)}/{pod}/binding", body)

    async def wire(self, pod: str, ips: Sequence[str]) -> None:
        """Report a pod's addresses as the kubelet does."""
        status = {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        await self.patch_pod(pod, {"status": status}, "/status")

    async def end_pod(self, pod: str, phase: str) -> None:
        """Let a pod end: Succeeded or Failed."""
        await self.patch_pod(pod, {"status": {"phase": phase}}, "/status")

    async def patch_pod(self, pod: str, patch: Object, part: str = "") -> None:
        """Merge into a pod."""
        await self.api.call("PATCH", f"{POD.format(self.namespace)}/{pod}{part}", patch)

    async def patch_vmi(self, name: str, patch: Object) -> None:
        """Merge into a VMI, which has no status of its own."""
        await self.api.call("PATCH", f"{VMI.format(self.namespace)}/{name}", patch)

    async def patch_vmim(self, name: str, patch: Object, part: str = "") -> None:
        """Merge into a VMIM."""
        await self.api.call("PATCH", f"{VMIM.format(self.namespace)}/{name}{part}", patch)

    async def get(self, path: str, name: str) -> Object:
        """Read an object."""
        return await self.api.call("GET", f"{path.format(self.namespace)}/{name}")

    async def pods(self, vmi: Object) -> list[Object]:
        """Return the pods of a VMI that have not ended."""
        query = {"labelSelector": f"kubevirt.io/created-by={vmi['metadata']['uid']}"}
        found = await self.api.call("GET", POD.format(self.namespace), query=query)
        return [each for each in found["items"] if each["status"]["phase"] not in FINAL]


def reported(mac: str, ips: Sequence[str]) -> list[Object]:
    """Compose what a VMI's status tells of its interface."""
    return [{"name": "default", "mac": mac, "ipAddress": ips[0], "ipAddresses": list(ips)}]


def now() -> str:
    """Write the time as KubeVirt does, in whole seconds."""
    moment = dt.datetime.now(dt.UTC)  # noqa: TID251  an actor's clock, not the product's
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
