"""What is measured of the operator beside a KubeVirt that is simulated (kubevirt/simulated.py).

Timed is the instant that matters for a guest: from its VMIM's phase Scheduling to the role on the
endpoint of its target pod, with fifty migrations under way, and with fifty begun at one instant.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from handover_lab import paths
from handover_lab.bench.operator import floors, report
from handover_lab.bench.operator.client import AT_ONCE, PATIENCE, Client, Key
from handover_lab.bench.operator.object_observer import ObjectObserver
from handover_lab.bench.operator.objects import agent_status, namespace
from handover_lab.cluster import rest
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.release import Release
from handover_lab.cluster.replica import Replica
from handover_lab.kubevirt import objects
from handover_lab.kubevirt.objects import ALL_VMIMS, CRD, VERSION, VMI, Guest
from handover_lab.kubevirt.simulated import KubeVirt, Migration
from handover_lab.processes.waiting import until

NAMESPACE: Final = "vms"
LAUNCHER: Final = 24_000
"""Bytes of a virt-launcher pod of KubeVirt 1.9, as the API server sends it."""

GAP: Final = 0.1
"""Seconds between two that begin, where they are not to begin at the same instant."""
NODES: Final = tuple(f"node-{number}" for number in range(20))
OUR_KINDS: Final = "/apis/handover.dev/v1alpha1/workloadendpoints"


def address(number: int) -> str:
    """Return the address of a VM."""
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def target(migration: Migration) -> Key:
    """Return the key of a migration's target."""
    return ("WorkloadEndpoint", NAMESPACE, migration.target_pod)


class KubeVirtBench:
    """Measures the operator beside a played KubeVirt."""

    def __init__(
        self, operator: Replica, api: rest.Api, client: Client, say: Callable[[str], None]
    ) -> None:
        self.api = api
        self.client = client
        self.say = say
        self.operator = operator
        self.observer = ObjectObserver(client)
        self.kubevirt = KubeVirt(api, NAMESPACE)
        self.kubevirt.ballast = LAUNCHER
        self.scheduled: dict[str, float] = {}
        self.bound: dict[str, float] = {}

    async def run(self, running: int, moving: int, most: int) -> dict[str, Any]:
        """Measure *moving* migrations of *running* VMs at once, then memory with *most* VMs."""
        await self.prepare()
        try:
            return await self.measure(running, moving, most)
        finally:
            self.operator.stop()

    async def prepare(self) -> None:
        """Make all kinds, the nodes and the namespace."""
        for file in sorted(paths.CRDS.glob("*.yaml")):
            await self.api.call("POST", CRD, yaml.safe_load(file.read_text()))
        for name in NODES:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await self.api.call("POST", "/api/v1/nodes", node)
        await self.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        await self.api.call(
            "POST", "/api/v1/namespaces", {"metadata": {"name": namespace(floors.NUMBER)}}
        )
        await self.kubevirt.install()
        await until(lambda: self.api.exists(OUR_KINDS), bool, "our kinds are served", PATIENCE)

    async def measure(self, running: int, moving: int, most: int) -> dict[str, Any]:
        """Start VMs, move some, start many more."""
        await self.start(range(running))
        async with self.observer.watching():
            await self.operator.start()
            await self.until_endpoints(running)
            await self.operator.until_calm()
            few = self.operator.rss_mib
            bare: list[float] = []
            moved = await self.move(range(moving), bare)
            at_once = await self.move(range(moving, min(2 * moving, running)))
            results: dict[str, Any] = {
                **report.percentiles("scheduling_to_role", self.took(moved, self.scheduled)),
                **report.percentiles("bare_patch_kubevirt", bare),
                **report.percentiles("burst_bound_to_role", self.took(at_once, self.bound)),
            }
            results |= await self.complete(moved)
        if most > running:
            self.operator.stop()
            await self.start(range(running, most))
            await self.operator.start()
            await self.until_endpoints(most)
            await self.operator.until_calm()
            self.operator.stop()
            self.say(f"start with {most} VMs")
            results["start_to_synced_adapter_s"] = round(await self.operator.start(), 2)
            await self.operator.until_calm()
            results["rss_mib_adapter"] = round(self.operator.rss_mib, 1)
            grown = self.operator.rss_mib - few
            results["rss_mib_per_1000_vms"] = round(1000 * grown / (most - running), 1)
        return results

    async def start(self, numbers: Iterable[int]) -> None:
        """Let VMs run, each in its pod."""
        left = iter(numbers)

        async def work() -> None:
            for number in left:
                self.say(f"VM {number}")
                await self.start_one(number)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def start_one(self, number: int) -> None:
        """Make a VMI that runs and its pod, in as few requests as it takes."""
        node, ips = NODES[number % len(NODES)], (address(number),)
        guest = Guest(f"vm-{number}", labels={"app": f"app-{number % 7}"})
        metadata = {"name": guest.name, "labels": {**guest.labels, "kubevirt.io/nodeName": node}}
        interfaces = objects.reported(guest.mac, ips)
        status = {"phase": "Running", "nodeName": node, "interfaces": interfaces}
        body = {
            "apiVersion": VERSION,
            "kind": "VirtualMachineInstance",
            "metadata": metadata,
            "spec": guest.spec(),
            "status": status,
        }
        vmi = await self.api.call("POST", VMI.format(NAMESPACE), body)
        pod = await self.kubevirt.make_pod(vmi, {"kubevirt.io/nodeName": node})
        await self.kubevirt.bind(pod, node)
        await self.kubevirt.wire(pod, ips)

    async def until_endpoints(self, wanted: int) -> None:
        """Wait until the operator knows so many objects of the kind that it makes."""

        async def count() -> float:
            await asyncio.sleep(0.5)
            return await self.operator.metric('handover_operator_objects{kind="WorkloadEndpoint"}')

        self.say(f"{wanted} endpoints are made and known")
        await until(count, lambda found: found >= wanted, f"{wanted} endpoints", PATIENCE)

    async def move(
        self, numbers: Iterable[int], bare: list[float] | None = None
    ) -> Sequence[Migration]:
        """Begin migrations, and see the roles of their targets.

        With *bare* a bare write follows each of them, and what it took is added there; without,
        all begin at the same instant.
        """
        patch = floors.ConditionalPatch(self.client)
        noting = asyncio.create_task(self.note())
        moving = [
            await self.kubevirt.request(f"vm-{number}", f"move-{number}") for number in numbers
        ]
        self.say(f"{len(moving)} migrations at once")
        begun = []
        for migration in moving:
            begun.append(asyncio.create_task(self.begin(migration)))
            if bare is not None:
                await asyncio.sleep(GAP)
                bare.append(await patch.time())
        await asyncio.gather(*begun)
        given, names = self.observer.roles, {each.name for each in moving}
        await self.observer.until(
            lambda: all(target(each) in given for each in moving), "the roles of all targets"
        )
        await until(self._all_scheduled(names), bool, "phase Scheduling of all")
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
        return moving

    def took(self, moved: Iterable[Migration], since: Mapping[str, float]) -> list[float]:
        """Return the ms from an instant of each migration to the role of its target."""
        given = self.observer.roles
        return [max(given[target(each)] - since[each.name], 0.0) * 1000 for each in moved]

    def _all_scheduled(self, names: set[str]) -> Callable[[], Any]:
        async def read() -> bool:
            return names <= self.scheduled.keys()

        return read

    async def complete(self, moved: Sequence[Migration]) -> dict[str, int]:
        """Lead migrations to their end, and count what was written."""
        left = iter(moved)

        async def work() -> None:
            for migration in left:
                self.say(f"to its end: {migration.name}")
                await self._complete(migration)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        seen = self.observer
        ours = [("LiveMigration", NAMESPACE, each.name) for each in moved]
        pods = [pod for each in moved for pod in (each.source_pod, each.target_pod)]
        made = [*ours, *(("WorkloadEndpoint", NAMESPACE, pod) for pod in pods)]
        counted = (
            max(seen.writes[key] for key in made),
            max(seen.statuses[key] for key in ours),
        )
        return dict(zip(report.WRITES, counted, strict=True))

    async def _complete(self, migration: Migration) -> None:
        live_migration: Key = ("LiveMigration", NAMESPACE, migration.name)
        source: Key = ("WorkloadEndpoint", NAMESPACE, migration.source_pod)
        its_target = target(migration)

        async def say(key: Key, state: str) -> None:
            await self.client.patch(key, agent_status(state, migration.uid, "10.0.0.1"), "/status")

        await say(source, "Base")
        await say(its_target, "Target")
        await migration.until("target_ready")
        await self._until_phase(live_migration, "Ready")
        await migration.until("detect")
        await say(its_target, "Live")
        await self._until_phase(live_migration, "Live")
        await migration.until("succeed")
        await self._until_phase(live_migration, "Converging")
        await say(source, "Withdrawn")
        await migration.until("end_source")
        await say(its_target, "TimeWait")
        await say(its_target, "Base")
        await self._until_phase(live_migration, "Succeeded")

    async def _until_phase(self, key: Key, wanted: str) -> None:
        phases = self.observer.phases
        await self.observer.until(lambda: phases.get(key) == wanted, f"{key[2]} {wanted}")

    async def begin(self, migration: Migration) -> None:
        """Take one migration to where its target pod is bound."""
        here = migration.vmi["status"]["nodeName"]
        migration.node = NODES[(NODES.index(here) + 1) % len(NODES)]
        migration.ips = (address(int(migration.name.rpartition("-")[2])),)
        await migration.until("bind")
        self.bound[migration.name] = time.perf_counter()

    async def note(self) -> None:
        """Note when each VMIM came into phase Scheduling."""
        async for _, raw in self.api.watch(ALL_VMIMS):
            if raw.get("status", {}).get("phase") == "Scheduling":
                self.scheduled.setdefault(raw["metadata"]["name"], time.perf_counter())


async def measure(
    directory: Path, numbers: tuple[int, int, int], say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure on a control plane of its own."""
    say("an API server for a KubeVirt that is played")
    plane = ControlPlane.start(directory / "kubevirt")
    try:
        release = await Release.install(plane)
        operator = release.replica(directory / "operator-kubevirt.log", patience=PATIENCE)
        async with (
            rest.Api.connect(plane.kubeconfig) as api,
            Client.connect(plane.kubeconfig) as client,
        ):
            bench = KubeVirtBench(operator, api, client, say)
            return await bench.run(*numbers)
    finally:
        plane.stop()
