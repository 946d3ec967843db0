"""`make bench-operator`: how fast and how light the real operator is, on a real API server.

Endpoints and migrations by the thousand are made, and one more migration is timed after the other.
Absolute figures move with the machine's neighbors; that the cost of an event does not grow with
the number of endpoints does not.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from handover_api import names
from handover_lab.bench import adapter
from handover_lab.bench import report as bench_report
from handover_lab.bench.figures import percentile
from handover_lab.bench.world import PATIENCE, ROOT, Api, BenchError, Key, Observer, Pulse, report
from handover_lab.cluster.client import ClientError
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.release import Release
from handover_lab.cluster.replica import EVENTS, Replica
from handover_lab.processes.waiting import NeverSeenError, until
from handover_lab.terminal.progress import Progress

BUILD: Final = ROOT / "build" / "bench"
NAMESPACES: Final = 10
BLOCKS: Final = 5
"""So many times the cost of an event is measured."""
CRD_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (100, 1_000, 10_000)
    migrations: int = 1_000
    timed: int = 200
    events: int = 1_000
    vms: tuple[int, int, int] = (500, 50, 10_000)
    """Running while some of them move at once, and the most."""


QUICK: Final = Plan(sizes=(100, 1_000), migrations=100, timed=40, events=200, vms=(50, 20, 1_000))


def namespace(number: int) -> str:
    """Return where the endpoint of a number lives; both of a migration live together."""
    return f"bench-{number // 2 % NAMESPACES}"


def endpoint(number: int) -> dict[str, Any]:
    """Compose an endpoint with the labels that a VM's pod has."""
    labels = {
        "kubevirt.io": "virt-launcher",
        "kubevirt.io/created-by": f"00000000-0000-4000-8000-{number:012d}",
        "kubevirt.io/nodeName": f"node-{number % 50}",
        "vm.kubevirt.io/name": f"vm-{number // 2}",
        "app": f"app-{number % 7}",
        "tier": f"tier-{number % 3}",
    }
    # Both of a migration have the same address, or the network could not follow.
    guest = number // 2
    address = ".".join(map(str, (10, guest >> 16 & 255, guest >> 8 & 255, guest & 255)))
    return {
        "apiVersion": names.API_VERSION,
        "kind": "WorkloadEndpoint",
        "metadata": {"name": f"e{number}", "namespace": namespace(number), "labels": labels},
        "spec": {
            "node": f"node-{number % 50}",
            "workload": f"launcher-{number}",
            "mac": "02:00:00:00:00:01",
            "ips": [address],
        },
    }


def migration(number: int) -> dict[str, Any]:
    """Compose the migration of two endpoints, by workload and by selector."""
    source, target = 2 * number, 2 * number + 1
    created_by = f"00000000-0000-4000-8000-{target:012d}"
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LiveMigration",
        "metadata": {"name": f"m{number}", "namespace": namespace(source)},
        "spec": {
            "source": {"workload": {"name": f"launcher-{source}"}},
            "target": {"selector": {"matchLabels": {"kubevirt.io/created-by": created_by}}},
        },
    }


def keys(number: int) -> tuple[Key, Key, Key]:
    """Return the keys of a migration, its source and its target."""
    place = namespace(2 * number)
    return (
        ("LiveMigration", place, f"m{number}"),
        ("WorkloadEndpoint", place, f"e{2 * number}"),
        ("WorkloadEndpoint", place, f"e{2 * number + 1}"),
    )


class Bench:
    """Measures one thing after the other, and says so."""

    def __init__(self, api: Api, operator: Replica, plan: Plan, say: Callable[[str], None]) -> None:
        self.api = api
        self.operator = operator
        self.observer = Observer(api)
        self.plan = plan
        self.say = say
        self.results: dict[str, Any] = {}
        self.latencies: dict[int, list[float]] = {}
        self.costs: dict[int, float] = {}
        self._made = 0
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Measure all."""
        for number in range(NAMESPACES):
            made = {"kind": "Namespace", "metadata": {"name": f"bench-{number}"}}
            await self.api.create(made, "/api/v1/namespaces")
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await self.api.create(yaml.safe_load(path.read_text()), CRD_PATH)
        await until(self._is_served, bool, "the kinds are served", PATIENCE)
        for size in self.plan.sizes:
            await self.fill(size)
            async with self.observer.watching():
                await self.measure(size)
        small, large = self.plan.sizes[0], self.plan.sizes[-1]
        ratio = round(self.costs[large] / self.costs[small], 2)
        self.results[f"event_cost_ratio_{large}_to_{small}"] = ratio
        self.results["event_cost_us"] = {
            size: round(cost * 1e6) for size, cost in self.costs.items()
        }

    async def _is_served(self) -> bool:
        try:
            await self.api.create(endpoint(0))
        except BenchError:
            return False
        return True

    async def fill(self, size: int) -> None:
        """Make endpoints up to *size* while no operator runs; at last migrations, too."""
        self.operator.stop()
        more = (endpoint(number) for number in range(self._made, size))
        await self.api.create_all(more, lambda n: self.say(f"{n} more of {size} endpoints"))
        self._made = size
        if size == self.plan.sizes[-1]:
            old = [next(self._numbers) for _ in range(self.plan.migrations - self.plan.timed)]
            await self.api.create_all(map(migration, old), lambda n: self.say(f"{n} migrations"))

    async def measure(self, size: int) -> None:
        """Measure with *size* endpoints."""
        self.say(f"start with {size} endpoints")
        first = await self.operator.start()
        await self.operator.until_calm()
        if size == self.plan.sizes[-1]:
            self.operator.stop()
            again = await self.operator.start()
            await self.operator.until_calm()
            self.results["start_to_synced_s"] = round(max(first, again), 2)
            self.results["rss_mib"] = round(self.operator.rss_mib, 1)
        await self.operator.until_calm()
        # Neighbors on the machine only ever make it dearer.
        self.costs[size] = min([await self.events(size) for _ in range(BLOCKS)])
        timed = self.plan.timed if size == self.plan.sizes[-1] else min(size // 5, 20)
        numbers = [next(self._numbers) for _ in range(timed)]
        pulse = Pulse()
        async with pulse.beating():
            self.latencies[size] = [await self.apply(number) for number in numbers]
        if size == self.plan.sizes[-1]:
            p50, p99 = (percentile(self.latencies[size], rank) for rank in (50, 99))
            self.results |= {
                "applied_to_role_p50_ms": round(p50, 1),
                "applied_to_role_p99_ms": round(p99, 1),
                "machine_delay_p99_ms": round(percentile(pulse.late_ms, 99), 1),
            }
            await self.finish(numbers)
            self.results["rss_mib_at_the_end"] = round(self.operator.rss_mib, 1)

    async def events(self, size: int) -> float:
        """Change endpoints that no migration concerns; return the CPU seconds of one event."""
        seen = await self.operator.metric(EVENTS)
        before = self.operator.cpu_seconds
        events = self.plan.events // BLOCKS
        numbers = itertools.islice(itertools.cycle(range(size - 10, size)), events)
        for count, number in enumerate(numbers):
            key = ("WorkloadEndpoint", namespace(number), f"e{number}")
            await self.api.patch(key, {"metadata": {"labels": {"count": str(count)}}})
            if count % 100 == 0:
                self.say(f"{count} events with {size} endpoints")
        wanted = seen + events
        read = self.operator.metric
        told = await until(lambda: read(EVENTS), lambda now: now >= wanted, "all events", PATIENCE)
        return (self.operator.cpu_seconds - before) / (told - seen)

    async def apply(self, number: int) -> float:
        """Apply one migration; return the ms from its watch event to both roles."""
        ours, source, target = keys(number)
        self.say(f"applied to role: migration {number}")
        await self.api.create(migration(number))
        created = time.perf_counter()
        seen = self.observer
        await seen.until(
            lambda: ours in seen.born and {source, target} <= seen.given.keys(),
            f"both roles of {ours[2]}",
        )
        await asyncio.sleep(0.02)  # its status is written meanwhile
        begun = min(created, seen.born[ours])
        return (max(seen.given[source], seen.given[target]) - begun) * 1000

    async def finish(self, numbers: list[int]) -> None:
        """Lead migrations to their end, several at once, and count what was written."""
        left = iter(numbers)
        await asyncio.gather(*(self._finish_each(left) for _ in range(8)))
        made = [key for number in numbers for key in keys(number)]
        ours = [key for key in made if key[0] == "LiveMigration"]
        writes = max(self.observer.writes[key] for key in made)
        statuses = max(self.observer.statuses[key] for key in ours)
        self.results["writes_per_migration_and_object_max"] = writes
        self.results["status_writes_per_migration_and_object_max"] = statuses

    async def _finish_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            self.say(f"to its end: migration {number}")
            await self._finish(number)

    async def _finish(self, number: int) -> None:
        ours, source, target = keys(number)
        found = await self.api.call(
            "GET", f"/apis/{names.API_VERSION}/namespaces/{ours[1]}/livemigrations/{ours[2]}"
        )
        uid = found["metadata"]["uid"]

        async def say(key: Key, state: str) -> None:
            await self.api.patch(key, report(state, uid, "10.0.0.1"), "/status")

        await say(source, "Base")
        await say(target, "Target")
        await self._until_phase(ours, "Ready")
        await say(target, "Live")
        await self._until_phase(ours, "Live")
        await self.api.patch(ours, {"spec": {"outcome": "Succeeded"}})
        await self._until_phase(ours, "Converging")
        await say(source, "Withdrawn")
        await say(target, "TimeWait")
        await say(target, "Base")
        await self._until_phase(ours, "Succeeded")

    async def _until_phase(self, key: Key, wanted: str) -> None:
        phases = self.observer.phases
        await self.observer.until(lambda: phases.get(key) == wanted, f"{key[2]} {wanted}")


async def measure(plan: Plan, say: Callable[[str], None], directory: Path) -> Bench:
    """Start what is needed, and measure."""
    say("an API server, and the chart's rights on it")
    plane = ControlPlane.start(directory / "control-plane")
    release = await Release.install(plane)
    alone = {"HANDOVER_KUBEVIRT": "false"}
    operator = release.replica(directory / "operator-alone.log", alone, PATIENCE)
    try:
        async with Api.connect(plane.kubeconfig) as api:
            bench = Bench(api, operator, plan, say)
            await bench.run()
    finally:
        operator.stop()
        plane.stop()
    found = await adapter.measure(directory, plan.vms, say)
    for name in ("scheduling_to_role", "burst_bound_to_role"):
        took = found.pop(name)
        for rank in (50, 99):
            bench.results[f"{name}_p{rank}_ms"] = round(percentile(took, rank), 1)
    for name in bench_report.WRITES:
        bench.results[name] = max(bench.results[name], found.pop(name))
    bench.results |= found
    return bench


def keep_logs(directory: Path) -> None:
    """Keep what the operators said."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for log in directory.glob("*.log"):
        shutil.copy(log, BUILD)


def main() -> None:
    """Measure, write the report and the picture, and show the table."""
    parser = argparse.ArgumentParser(prog="bench_operator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    plan = QUICK if parser.parse_args().quick else Plan()
    console = Console()
    progress = Progress(console)
    with tempfile.TemporaryDirectory(prefix="handover-bench-") as directory, progress.running():
        try:
            bench = asyncio.run(measure(plan, progress.say, Path(directory)))
        except (BenchError, NeverSeenError, ClientError) as error:
            sys.exit(f"bench: {error}")
        finally:
            keep_logs(Path(directory))
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "plan": repr(plan)}
    report_path = BUILD / "operator.json"
    report_path.write_text(json.dumps({**bench.results, "machine": machine}, indent=2) + "\n")
    bench_report.draw(bench.costs, bench.latencies, BUILD / "operator.png")
    console.print(bench_report.table(bench.results))
    console.print(f"{report_path.relative_to(ROOT)} and operator.png have it all.")
    sys.exit(0 if bench_report.is_kept(bench.results) else 1)


if __name__ == "__main__":
    main()
