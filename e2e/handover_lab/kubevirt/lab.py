"""The lab with a simulated KubeVirt on it: whoever applies a VMIM moves the VM, and that is all.

Handover and KubeVirt do not know each other: KubeVirt waits for no LiveMigration, and nobody but
Handover's operator makes endpoints and LiveMigrations.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from handover_lab.cluster import manifests, observer, sticky
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.observer import Observer
from handover_lab.cluster.rest import Api
from handover_lab.facts import Fact
from handover_lab.guest.qemu import GuestError
from handover_lab.guest.vm import Move, Vm
from handover_lab.kubevirt import objects
from handover_lab.kubevirt.launchers import Launchers, LauncherVm
from handover_lab.kubevirt.objects import FINAL
from handover_lab.kubevirt.simulated import Migration
from handover_lab.lab import Lab, Migrated
from handover_lab.network import manual_cutover

VMIMS: Final = "virtualmachineinstancemigrations"
PATIENCE: Final = 60.0
RESPITE: Final = 1.0


async def nothing() -> None:
    """Look at nothing."""


class KubeVirtLab(Lab):
    """The stage (:class:`scripted.Stage`) on which KubeVirt moves a real VM."""

    vm_type: ClassVar[type[Vm]] = LauncherVm
    vm: LauncherVm
    kubevirt: Launchers
    _serving: asyncio.Task[None]

    def __init__(self, cluster: Cluster, vm: Vm, tell: Callable[[Fact], None]) -> None:
        super().__init__(cluster, vm, tell)
        self.look: Callable[[], Awaitable[None]] = nothing
        """What is to be done while the target waits for the VM."""
        self.late_ms: int | None = None
        """How late the VM's routes are moved by hand; None: nobody touches any."""
        self._moves: dict[str, Move] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def on(
        cls, cluster: Cluster, vm: Vm, tell: Callable[[Fact], None]
    ) -> AsyncIterator[Self]:
        """Join *cluster* and the VM on its nodes, and let KubeVirt serve."""
        async with (
            Api.connect(cluster.kubeconfig) as api,
            super().on(cluster, vm, tell) as lab,
            lab.simulated(Launchers(api, cluster.nodes, tell)),
        ):
            yield lab

    @contextlib.asynccontextmanager
    async def simulated(self, kubevirt: Launchers) -> AsyncIterator[None]:
        """Have KubeVirt in the cluster, which carries out whatever VMIM is applied."""
        for node in self.cluster.nodes.values():
            sticky.install(node, self.vm.nic.addresses)
        self.kubevirt = kubevirt
        await kubevirt.install()
        self._observers[VMIMS] = await Observer.watch(self.client, VMIMS, self._tell)
        self._serving = asyncio.create_task(kubevirt.serve(self))
        try:
            yield
        finally:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def boot(self, node: str) -> None:
        """Make the VM as a user of KubeVirt does; its launcher pod starts on *node*."""
        guest = objects.Guest(self.vm.spec.name, mac=self.vm.nic.mac)
        pod = await self.kubevirt.start(guest, node, self.vm.nic.addresses)
        await self._use_pod(node, pod)
        await self.vm.boot(node)

    async def served(self) -> None:
        """Wait until Handover serves the VM where it runs."""
        await self.in_state(self.vm.pods_by_node[self.vm.home].pod, "Base")

    async def carry_out(self, manifest: Path) -> Move:
        """Apply the VMIM of *manifest*, and return when KubeVirt has carried it out.

        Raises:
            GuestError: KubeVirt says that it failed.
        """
        (vmim,) = manifests.read(manifest)
        name, vmims = vmim["metadata"]["name"], self._observers[VMIMS]
        await vmims.until(lambda seen: name not in seen, f"the end of another {name}")
        await self.kubectl("apply", "--filename", str(manifest))
        ended = vmims.until(
            lambda seen: observer.phase_of(seen.get(name, {})) in FINAL, f"{name}'s end", PATIENCE
        )
        await self._meanwhile(ended)
        if observer.phase_of(vmims.objects[name]) == "Failed":
            message = f"VirtualMachineInstanceMigration {name} has failed"
            raise GuestError(message)
        return self._moves[name]

    async def follow(self, manifest: Path) -> Migrated:
        """Apply the VMIM of *manifest*, and return when Handover has finished as well."""
        began = time.time_ns()
        move = await self.carry_out(manifest)
        (vmim,) = manifests.read(manifest)
        way = move.source, move.target
        return await self.conclude(vmim["metadata"]["name"], way, began, move.switchover)

    async def drive(self, complain: Callable[[str], None]) -> None:
        """Serve for ever, whatever people do to the objects; what goes wrong is told."""
        while True:
            try:
                await self._serving
            except (GuestError, RuntimeError, TimeoutError) as error:
                complain(str(error) or type(error).__name__)
            except Exception:  # noqa: BLE001  the task's root: a person works with the cluster
                complain("the lab has a defect, but goes on")
            await asyncio.sleep(RESPITE)
            self._serving = asyncio.create_task(self.kubevirt.serve(self))

    async def place(self, migration: Migration) -> tuple[str, Sequence[str]]:
        """Choose the other node; the CNI keeps the addresses."""
        (there,) = self.cluster.nodes.keys() - {migration.vmi["status"]["nodeName"]}
        return there, self.vm.nic.addresses

    async def receive(self, migration: Migration) -> None:
        """Let a QEMU in the target pod wait for the VM."""
        await self._use_pod(migration.node, migration.target_pod)
        if self.late_ms is None:
            await self.vm.start_target(migration.node)

    async def move(self, migration: Migration) -> bool:
        """Move the VM; False when QEMU could not."""
        source, target = migration.vmi["status"]["nodeName"], migration.node
        await self.look()
        try:
            self._moves[migration.name] = await self._move(source, target)
        except GuestError:
            await self.vm.end(target)
            return False
        return True

    async def _use_pod(self, node: str, pod: str) -> None:
        await self.vm.use_pod(await self.kubevirt.launcher_pod(pod))
        if self.late_ms is not None:
            manual_cutover.delete_cni_routes(self.cluster.nodes[node], self.vm.node_nic(node))

    async def _move(self, source: str, target: str) -> Move:
        if self.late_ms is not None:
            return await self.vm.move_by_hand(source, target, self.late_ms)
        began = time.time_ns()
        switchover = await self.vm.move(source, target)
        await self.vm.end(source)
        return Move(source, target, began, switchover, time.time_ns())

    async def _meanwhile(self, waiting: Awaitable[None]) -> None:
        """Await something while KubeVirt serves; trouble of its own comes up here."""
        awaited = asyncio.ensure_future(waiting)
        await asyncio.wait({awaited, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            awaited.cancel()
            self._serving.result()
        await awaited
