"""A KubeVirt that is only simulated: its migrations, step by step, with one-second time stamps.

A test takes a migration as far as it likes, or breaks it off anywhere; the lab lets it serve the
VMIMs that a person applies, and moves a real guest in between.
"""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, Protocol

from handover_lab.cluster.rest import Object
from handover_lab.kubevirt.objects import FINAL, VMI, VMIM, KubeVirtObjects, now

FINALIZER: Final = "kubevirt.io/migrationJobFinalize"

STEPS: Final = (
    *("pending", "schedule", "bind", "wire", "scheduled", "hand_off", "prepare", "target_ready"),
    *("run", "detect", "resume", "switch", "complete", "succeed", "end_source"),
)
"""The happy path: names of Migration's methods, in their order."""


class Migration:
    """One VMIM on its way; every step is what one writer does at one instant, or a few."""

    def __init__(self, kubevirt: KubeVirtObjects, vmim: Object, vmi: Object) -> None:
        self.name: str = vmim["metadata"]["name"]
        self.uid: str = vmim["metadata"]["uid"]
        self.vmi = vmi
        self.source_pod = ""
        self.target_pod = ""
        self.node = ""
        self.ips: Sequence[str] = ()
        self.reached = 0
        self._kubevirt = kubevirt

    async def until(self, step: str) -> None:
        """Take all steps up to and including this one."""
        while self.reached <= STEPS.index(step):
            await getattr(self, STEPS[self.reached])()
            self.reached += 1

    async def pending(self) -> None:
        """virt-controller queues it, and names the pod that the guest leaves."""
        here = self.vmi["status"]["nodeName"]
        pods = await self._kubevirt.pods(self.vmi)
        (self.source_pod,) = [
            pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName") == here
        ]
        metadata = {"finalizers": [FINALIZER], "labels": {"kubevirt.io/vmi-name": self._vmi}}
        await self._kubevirt.patch_vmim(self.name, {"metadata": metadata})
        await self._status(phase="Pending", migrationState={"sourcePod": self.source_pod})

    async def schedule(self) -> None:
        """virt-controller makes the target pod, with the label of the source's node."""
        labels = {
            "kubevirt.io/migrationJobUID": self.uid,
            "kubevirt.io/nodeName": self.vmi["status"]["nodeName"],
        }
        said = {"kubevirt.io/migrationJobName": self.name}
        self.target_pod = await self._kubevirt.make_pod(self.vmi, labels, said)
        await self._status(phase="Scheduling")

    async def bind(self) -> None:
        """The scheduler binds the target pod."""
        await self._kubevirt.bind(self.target_pod, self.node)

    async def wire(self) -> None:
        """The kubelet reports the target pod's network, long after it exists."""
        await self._kubevirt.wire(self.target_pod, self.ips)

    async def scheduled(self) -> None:
        """virt-controller sees the target pod ready."""
        await self._status(phase="Scheduled")

    async def hand_off(self) -> None:
        """virt-controller hands the migration to the nodes; the last one's state goes."""
        state = {
            "migrationUid": self.uid,
            "sourceNode": self.vmi["status"]["nodeName"],
            "sourcePod": self.source_pod,
            "targetNode": self.node,
            "targetPod": self.target_pod,
        }
        before = (await self._kubevirt.get(VMI, self._vmi))["status"].get("migrationState", {})
        labels = {"kubevirt.io/migrationTargetNodeName": self.node}
        # In a merge patch null removes: nothing of the migration before stays (RFC 7396).
        patch = {"status": {"migrationState": dict.fromkeys(before) | state}}
        await self._kubevirt.patch_vmi(self._vmi, {"metadata": {"labels": labels}, **patch})

    async def prepare(self) -> None:
        """The target's node prepares."""
        await self._status(phase="PreparingTarget")

    async def target_ready(self) -> None:
        """The target's QEMU listens."""
        await self._state(targetNodeAddress="192.0.2.1")
        await self._status(phase="TargetReady")

    async def run(self) -> None:
        """The memory is copied."""
        await self._state(startTimestamp=now(), mode="PreCopy")
        await self._status(phase="Running")

    async def detect(self) -> None:
        """The target's node has seen the domain."""
        await self._state(targetNodeDomainDetected=True)

    async def resume(self) -> None:
        """The guest runs on the target; that becomes known late, in whole seconds."""
        await self._state(targetNodeDomainReadyTimestamp=now())
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")  # noqa: TID251
        annotations = {"kubevirt.io/migration-target-ready-timestamp": stamp}
        patch = {"metadata": {"annotations": annotations}}
        await self._kubevirt.patch_pod(self.target_pod, patch)

    async def switch(self) -> None:
        """The target's virt-handler takes over: all in one update."""
        status = {"nodeName": self.node, "migrationState": {"endTimestamp": now()}}
        patch = {"metadata": {"labels": {"kubevirt.io/nodeName": self.node}}, "status": status}
        await self._kubevirt.patch_vmi(self._vmi, patch)

    async def complete(self) -> None:
        """The migration is completed, which does not say how."""
        await self._state(completed=True)
        gone = {"kubevirt.io/migrationTargetNodeName": None}
        await self._kubevirt.patch_vmi(self._vmi, {"metadata": {"labels": gone}})
        labels = {"kubevirt.io/nodeName": self.node}
        await self._kubevirt.patch_pod(self.target_pod, {"metadata": {"labels": labels}})

    async def succeed(self) -> None:
        """The final phase; the finalizer goes."""
        await self._status(phase="Succeeded")
        await self._kubevirt.patch_vmim(self.name, {"metadata": {"finalizers": None}})

    async def end_source(self) -> None:
        """The launcher that the guest has left ends."""
        await self._kubevirt.end_pod(self.source_pod, "Succeeded")

    async def fail(self) -> None:
        """Fail now: after the hand-off the VMI tells it, before that only the VMIM does."""
        if self.reached > STEPS.index("hand_off"):
            await self._state(failed=True, completed=True, endTimestamp=now())
        await self._status(phase="Failed")
        await self._kubevirt.patch_vmim(self.name, {"metadata": {"finalizers": None}})
        if self.target_pod:
            await self._kubevirt.end_pod(self.target_pod, "Failed")

    async def cancel(self) -> None:
        """Somebody deletes the VMIM; it ends as any failure, and then it is gone."""
        path = f"{VMIM.format(self._kubevirt.namespace)}/{self.name}"
        await self._kubevirt.api.call("DELETE", path)
        if self.reached > STEPS.index("run"):
            await self._state(abortRequested=True)
        await self.fail()

    @property
    def _vmi(self) -> str:
        name: str = self.vmi["metadata"]["name"]
        return name

    async def _status(self, **fields: Any) -> None:  # noqa: ANN401
        await self._kubevirt.patch_vmim(self.name, {"status": fields}, "/status")

    async def _state(self, **fields: Any) -> None:  # noqa: ANN401
        await self._kubevirt.patch_vmi(self._vmi, {"status": {"migrationState": fields}})


class KubeVirt(KubeVirtObjects):
    """KubeVirt in one namespace."""

    async def request(self, vmi: str, name: str) -> Migration:
        """Ask for a migration, as a person does."""
        await self.make(VMIM, name, spec={"vmiName": vmi})
        return await self.migration(name)

    async def migration(self, name: str) -> Migration:
        """Take up a migration that somebody has asked for."""
        vmim = await self.get(VMIM, name)
        vmi = await self.get(VMI, vmim["spec"]["vmiName"])
        return Migration(self, vmim, vmi)

    async def serve(self, mover: "GuestMover") -> None:
        """Carry out every VMIM that anybody applies, one after the other, until cancelled."""
        done: set[str] = set()
        while True:
            found = await self.api.call("GET", VMIM.format(self.namespace))
            for vmim in found["items"]:
                uid = vmim["metadata"]["uid"]
                if uid not in done and vmim.get("status", {}).get("phase") not in FINAL:
                    done.add(uid)
                    await perform(await self.migration(vmim["metadata"]["name"]), mover)
            await asyncio.sleep(0.1)


class GuestMover(Protocol):
    """Where a real guest moves while KubeVirt is only simulated."""

    async def place(self, migration: Migration) -> tuple[str, Sequence[str]]:
        """Choose the target's node, and the addresses that the CNI gives there."""

    async def receive(self, migration: Migration) -> None:
        """Let the target wait for the guest."""

    async def move(self, migration: Migration) -> bool:
        """Move the guest; return when it runs on the target, or False when it does not."""


async def perform(migration: Migration, mover: GuestMover) -> None:
    """Carry out one migration."""
    migration.node, migration.ips = await mover.place(migration)
    await migration.until("prepare")
    await mover.receive(migration)
    await migration.until("detect")
    if await mover.move(migration):
        await migration.until("end_source")
    else:
        await migration.fail()
