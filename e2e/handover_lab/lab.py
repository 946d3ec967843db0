"""The lab: a cluster with Handover on it, and a VM that is migrated as KubeVirt would do it.

Whoever moves VMs (KubeVirt, here the lab) and Handover know each other through the API alone: a
LiveMigration says what will move, its phase says that the target listens, its outcome how it ended.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

from handover_api.workloadendpoint import Hold
from handover_lab.cluster import manifests, observer
from handover_lab.cluster.client import Client, ClientError
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.cluster.observer import Object, Objects, Observer
from handover_lab.facts import Fact, Note, Traffic
from handover_lab.guest.migration import SHORT_PAUSE, Limits
from handover_lab.guest.qemu import GuestError, Nic, VmSpec
from handover_lab.guest.vm import Move, Topology, Vm
from handover_lab.network.carriers import Carrier
from handover_lab.network.measure import Switchover

INSTALL: Final = "2m"
CUTOVER_S: Final = 10
RESPITE_S: Final = 1.0
"""After a migration that failed: it may be there still, and fail again."""

ENDED: Final = ("Succeeded", "NotFollowed", "Aborted")
SIDES: Final = ("source", "target")


@dataclass(frozen=True, slots=True)
class Cutover:
    """What the target's agent measured, as the LiveMigration tells it."""

    signal: str
    route_us: float
    at_ns: int
    """When the route was in."""
    redirect_us: float | None = None
    """From the announcement until the source sent on; None: it does not, or has not told."""
    hold: Hold | None = None
    """What became of the packets that the source held; None: it has not told."""

    @classmethod
    def of(cls, migration: Object) -> Self | None:
        """Read it from a LiveMigration; None: no target has reported one."""
        for side in observer.status(migration).get("target", ()):
            if told := side.get("cutover"):
                route_us, at_ns = (
                    told["announcementToRouteMicroseconds"],
                    observer.when_ns(told["time"]),
                )
                redirect_us = told.get("announcementToRedirectMicroseconds")
                hold = Hold.model_validate(told["hold"]) if "hold" in told else None
                return cls(told["signal"], route_us, at_ns, redirect_us, hold)
        return None


@dataclass(frozen=True, slots=True)
class Migrated:
    """A migration that took place: how the VM moved, and what Handover reported of it."""

    move: Move
    cutover: Cutover | None


class Lab:
    """A cluster and one VM on its nodes, with its endpoints and migrations as the API has them."""

    vm_type: ClassVar[type[Vm]] = Vm
    """Where the VM stands on a node."""

    def __init__(self, cluster: Cluster, vm: Vm, tell: Callable[[Fact], None]) -> None:
        self.cluster = cluster
        self.vm = vm
        self.client = Client(cluster.kubeconfig, vm.directory)
        self._tell = tell
        self._observers: dict[str, Observer] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, cluster: Cluster, directory: Path, tell: Callable[[Fact | Traffic], None]
    ) -> AsyncIterator[Self]:
        """Prepare the nodes of *cluster* for the VM of the examples; *directory* is for files."""
        async with (
            cls.open_vm(cluster.network, directory, tell) as vm,
            cls.on(cluster, vm, tell) as lab,
        ):
            yield lab

    @classmethod
    @contextlib.asynccontextmanager
    async def open_vm(
        cls,
        network: NodeNetwork,
        directory: Path,
        tell: Callable[[Fact | Traffic], None],
        carrier: Carrier = "bird",
    ) -> AsyncIterator[Vm]:
        """Prepare nodes for the VM of the examples, on which no cluster has to run yet."""
        topology = Topology(network.router, network.nodes, network.mesh, carrier=carrier)
        vm = cls.vm_type(directory, topology, vm_of(manifests.read(manifests.ENDPOINTS)), tell)
        prefer_lab(network)
        async with vm.open():
            yield vm

    @classmethod
    @contextlib.asynccontextmanager
    async def on(
        cls, cluster: Cluster, vm: Vm, tell: Callable[[Fact], None]
    ) -> AsyncIterator[Self]:
        """Join *cluster* and the VM on its nodes."""
        lab = cls(cluster, vm, tell)
        try:
            yield lab
        finally:
            await lab.stop_watches()

    @property
    def endpoints(self) -> Observer:
        """The WorkloadEndpoints, once `start_watches` was called."""
        return self._observers["workloadendpoints"]

    @property
    def migrations(self) -> Observer:
        """The LiveMigrations, once `start_watches` was called."""
        return self._observers["livemigrations"]

    async def install(self, *values: str) -> None:
        """Install Handover with Helm, with *values* as "name=value", and begin to watch the API."""
        options = [part for value in values for part in ("--set", value)]
        wait = ("--wait", "--timeout", INSTALL)
        try:
            await self.client.run("helm", "install", *manifests.RELEASE, *options, *wait)
        except ClientError as error:
            pods = await self.kubectl("get", "pods", "--all-namespaces", "--output", "wide")
            message = f"{error}\n{pods}"
            raise ClientError(message) from None
        await self.start_watches()

    async def start_watches(self) -> None:
        """Watch endpoints and migrations from now on."""
        for kind in ("workloadendpoints", "livemigrations"):
            self._observers[kind] = await Observer.watch(self.client, kind, self._tell)

    async def stop_watches(self) -> None:
        """End the watches."""
        for watch in self._observers.values():
            await watch.stop()

    async def boot(self, node: str) -> None:
        """Boot the VM on *node*."""
        await self.vm.boot(node)

    async def kubectl(self, *arguments: str, text: str = "") -> str:
        """Run kubectl as the cluster's administrator and return what it says."""
        return await self.client.run("kubectl", *arguments, text=text)

    async def apply(self, *objects: Object) -> None:
        """Apply *objects*, as `kubectl apply` does."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        await self.kubectl("apply", "--filename", "-", text=json.dumps(listed))

    async def delete(self, kind: str, name: str) -> None:
        """Delete one object and return when it is gone."""
        await self.kubectl("delete", kind, name, "--wait")

    async def in_state(self, name: str, *states: str, seconds: float = 30) -> None:
        """Wait until the agent reports that endpoint *name* is in one of *states*."""
        await self.endpoints.until(
            lambda seen: observer.state_of(seen.get(name, {})) in states,
            f"{name} in state {' or '.join(states)}",
            seconds,
        )

    async def in_phase(self, name: str, *phases: str, seconds: float = 30) -> None:
        """Wait until LiveMigration *name* is in one of *phases*."""
        await self.migrations.until(
            lambda seen: observer.phase_of(seen.get(name, {})) in phases,
            f"LiveMigration {name} in phase {' or '.join(phases)}",
            seconds,
        )

    async def say_outcome(self, name: str, outcome: str) -> None:
        """Say how the migration *name* ended, as its driver."""
        patch = json.dumps({"spec": {"outcome": outcome}})
        await self.kubectl("patch", "livemigration", name, "--type=merge", "--patch", patch)

    async def prepare(self, migration: Object) -> None:
        """Announce *migration*, start the empty target, and wait until Handover is ready for it."""
        await self.apply(migration)
        await self.vm.start_target(self.node_of(migration, "target"))
        await self.in_phase(migration["metadata"]["name"], "Ready")

    async def migrate(self, migration: Object, limits: Limits = SHORT_PAUSE) -> Migrated:
        """Announce *migration*, and move the VM as it says when Handover is ready."""
        await self.prepare(migration)
        return await self.complete(migration, limits)

    async def complete(self, migration: Object, limits: Limits = SHORT_PAUSE) -> Migrated:
        """Move the VM as *migration* says, and tell the API how it went, as its driver.

        Raises:
            GuestError: QEMU could not; the outcome is Aborted, the VM runs on at the source.
            ObserverError: Handover did not finish.
        """
        name, began = migration["metadata"]["name"], time.time_ns()
        seen = self.migrations.objects.get(name, migration)
        source, target = (side_of(seen, side) for side in SIDES)
        try:
            switchover = await self.vm.move(source, target, limits)
        except BaseException:
            await self.say_outcome(name, "Aborted")
            await self.vm.end(target)
            raise
        await self.say_outcome(name, "Succeeded")
        await self.vm.end(source)
        return await self.conclude(name, (source, target), began, switchover)

    async def conclude(
        self, name: str, way: tuple[str, str], began_ns: int, switchover: Switchover
    ) -> Migrated:
        """Wait until Handover has finished migration *name*, which moved the VM along *way*.

        Raises:
            ObserverError: it did not finish.
        """
        with contextlib.suppress(observer.ObserverError):
            # Where nobody reports one, that is a finding for the caller and no reason to fail here.
            await self.migrations.until(
                lambda seen: Cutover.of(seen.get(name, {})), "a cutover", CUTOVER_S
            )
        await self.in_phase(name, *ENDED, seconds=60)
        await self.vm.answered()
        move = Move(*way, began_ns, switchover, time.time_ns())
        return Migrated(move, Cutover.of(self.migrations.objects.get(name, {})))

    async def drive(self, complain: Callable[[str], None]) -> None:
        """Do what every LiveMigration asks for that somebody applies, for ever.

        One that goes wrong, or whose object is deleted in the middle, is told to *complain*, and
        the next one is followed as if it had not been.
        """
        while True:
            await self.migrations.until(self._wanted, "a migration", seconds=None)
            for migration in self._wanted(self.migrations.objects):
                name = migration["metadata"]["name"]
                try:
                    await self._obey(migration)
                    continue
                except (GuestError, ClientError, observer.ObserverError) as error:
                    complain(f"LiveMigration {name}: {error}")
                except Exception:  # noqa: BLE001  the task's root: a person works with the cluster
                    complain(f"LiveMigration {name}: the lab has a defect, but goes on")
                await self._tidy()
                await asyncio.sleep(RESPITE_S)

    async def _obey(self, migration: Object) -> None:
        """Move the VM as *migration* says; one that asks for where it is already has succeeded."""
        name, home = migration["metadata"]["name"], self.vm.home
        source, target = (side_of(migration, side) for side in SIDES)
        # A person may apply a manifest twice, or the way back before the way there.
        if target == home:
            await self.say_outcome(name, "Succeeded")
        elif source == home:
            await self.vm.start_target(target)
            await self.complete(migration)
        else:
            await self.say_outcome(name, "Aborted")

    async def _tidy(self) -> None:
        """End each QEMU but the one in which the VM runs."""
        for node in set(self.vm.guests) - {self.vm.home}:
            await self.vm.end(node)

    @staticmethod
    def _wanted(migrations: Objects) -> list[Object]:
        """Return those that wait for the VM, or already see it at their target."""
        return [
            migration
            for migration in migrations.values()
            if observer.phase_of(migration) in {"Ready", "Live"}
            and "outcome" not in migration["spec"]
        ]

    def node_of(self, migration: Object, side: str) -> str:
        """Return the node of the endpoint that *migration* names as source or target."""
        endpoint = migration["spec"][side]["endpoint"]["name"]
        return str(self.endpoints.objects[endpoint]["spec"]["node"])

    def note(self, text: str) -> None:
        """Tell something that a person should read."""
        self._tell(Note(time.time_ns(), text))


def prefer_lab(network: NodeNetwork) -> None:
    """Let nobody else's work be measured: nodes are machines of their own, and so are we."""
    for node in network.nodes.values():
        node.group.prefer()
    # The scheduler divides between sessions before it looks at niceness (sched(7), autogroup).
    ours = Path("/proc/self/autogroup")
    if ours.exists():
        with contextlib.suppress(OSError):
            ours.write_text("-5")


def side_of(migration: Object, side: str) -> str:
    """Return the node of the endpoint that *migration*'s status names as source or target."""
    sides = observer.status(migration).get(side, ())
    return str(sides[0]["node"]) if sides else ""


def vm_of(endpoints: Iterable[Object]) -> VmSpec:
    """Build the VM that *endpoints* describe; it is the same on every node."""
    spec = next(iter(endpoints))["spec"]
    return VmSpec(spec["workload"], (Nic(spec["interface"], spec["mac"], tuple(spec["ips"])),))
