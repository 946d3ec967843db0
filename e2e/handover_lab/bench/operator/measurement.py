"""What is measured of the operator with endpoints by the thousand, one thing after the other.

Each thing alternates with its floor, so that a neighbor on the machine delays both alike.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from handover_api import names
from handover_lab.bench.figures import percentile
from handover_lab.bench.operator import floors, objects, report
from handover_lab.bench.operator.client import PATIENCE, Key
from handover_lab.bench.operator.cluster import Cluster
from handover_lab.bench.operator.object_observer import Delay, ObjectObserver
from handover_lab.cluster.replica import EVENTS
from handover_lab.processes.waiting import until

BLOCKS: Final = 5
"""So many times the cost of an event is measured, in the small cluster and in the large one."""
STARTS: Final = 3
CHANGING: Final = 10
"""Endpoints that change, each so often that the operator may not skip over any of its events."""
PAUSE: Final = 0.02
"""Seconds between two things that are timed: what follows one, a status, is written meanwhile."""
FINISHING: Final = 8
"""Migrations that come to their end at the same time."""


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


class Bench:
    """Measures one thing after the other, and says so."""

    def __init__(
        self, cluster: Cluster, directory: Path, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.client = cluster.client
        self.operator = cluster.operator
        self.observer = ObjectObserver(cluster.client)
        self.directory = directory
        self.plan = plan
        self.say = say
        self.results: dict[str, Any] = {}
        self.latencies: dict[int, list[float]] = {}
        self.costs: dict[int, float] = {}
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Measure all."""
        *sizes, largest = self.plan.sizes
        for size in sizes:
            await self.fill(size)
            await self.cluster.operator.start()
            await self.operator.until_calm()
            self.costs[size] = statistics.median(
                [await self.cost(self.cluster) for _ in range(BLOCKS)]
            )
            await self.roles(min(size // 5, 20))
        await self.fill(largest)
        await self.begin_migrations()
        await self.starts()
        await self.costs_side_by_side()
        await self.roles(self.plan.timed, is_finished=True)
        self.results["event_cost_us"] = {
            size: round(cost * 1e6) for size, cost in self.costs.items()
        }

    async def fill(self, size: int) -> None:
        """Make more endpoints."""
        await self.cluster.fill(size, self.say)

    async def begin_migrations(self) -> None:
        """Begin all but those that are timed, while no operator runs."""
        old = [next(self._numbers) for _ in range(self.plan.migrations - self.plan.timed)]
        made = map(objects.migration, old)
        await self.client.create_all(made, lambda n: self.say(f"{n} migrations"))

    async def starts(self) -> None:
        """Start the operator, each time beside a bare process that reads as much."""
        operators: list[float] = []
        bare: list[float] = []
        for _ in range(STARTS):
            self.operator.stop()
            self.say(f"start with {self.cluster.size} endpoints")
            bare.append(await floors.time_start(self.cluster.kubeconfig))
            operators.append(await self.operator.start())
            await self.operator.until_calm()
        self.results |= {
            "start_to_synced_s": round(statistics.median(operators), 2),
            "bare_start_s": round(statistics.median(bare), 2),
            "rss_mib": round(self.operator.rss_mib, 1),
        }

    async def costs_side_by_side(self) -> None:
        """Compare what an event costs here and in a small cluster, in turns."""
        small, large = self.plan.sizes[0], self.cluster.size
        few: list[float] = []
        many: list[float] = []
        async with Cluster.running(self.directory / "small") as other:
            await other.fill(small, self.say)
            await other.operator.start()
            await other.operator.until_calm()
            for _ in range(BLOCKS):
                few.append(await self.cost(other))
                many.append(await self.cost(self.cluster))
        self.costs |= {small: statistics.median(few), large: statistics.median(many)}
        ratio = round(self.costs[large] / self.costs[small], 2)
        self.results[f"event_cost_ratio_{large}_to_{small}"] = ratio

    async def cost(self, cluster: Cluster) -> float:
        """Change endpoints that no migration concerns; return the CPU seconds of one event."""
        size, operator = cluster.size, cluster.operator
        seen = await operator.metric(EVENTS)
        before = operator.cpu_seconds
        events = self.plan.events // BLOCKS
        numbers = itertools.islice(itertools.cycle(range(size - CHANGING, size)), events)
        self.say(f"{events} events with {size} endpoints")
        for count, number in enumerate(numbers):
            patch = {"metadata": {"labels": {"count": str(count)}}}
            await cluster.client.patch(objects.endpoint_key(number), patch)
        wanted = seen + events
        told = await until(
            lambda: operator.metric(EVENTS), lambda now: now >= wanted, "all events", PATIENCE
        )
        return (operator.cpu_seconds - before) / (told - seen)

    async def roles(self, timed: int, *, is_finished: bool = False) -> None:
        """Apply migrations, each beside a bare write; *is_finished*: up to their end."""
        numbers = [next(self._numbers) for _ in range(timed)]
        patch = floors.ConditionalPatch(self.client)
        took: list[float] = []
        bare: list[float] = []
        delay = Delay()
        async with self.observer.watching(), delay.measuring():
            for number in numbers:
                bare.append(await patch.time())
                await asyncio.sleep(PAUSE)
                took.append(await self.apply(number))
                await asyncio.sleep(PAUSE)
            self.latencies[self.cluster.size] = took
            if is_finished:
                self.results |= report.percentiles("applied_to_role", took)
                self.results |= report.percentiles("bare_patch", bare)
                self.results["machine_delay_p99_ms"] = round(percentile(delay.late_ms, 99), 1)
                await self.finish(numbers)
                self.results["rss_mib_at_the_end"] = round(self.operator.rss_mib, 1)

    async def apply(self, number: int) -> float:
        """Apply one migration; return the ms from its watch event to both roles."""
        migration, source, target = objects.keys(number)
        self.say(f"applied to role: migration {number}")
        await self.client.create(objects.migration(number))
        answered = time.perf_counter()
        seen = self.observer
        await seen.until(
            lambda: migration in seen.created and {source, target} <= seen.roles.keys(),
            f"both roles of {migration[2]}",
        )
        # The answer may be later than the event, and the event than the operator's first write.
        begun = min(answered, seen.created[migration])
        return (max(seen.roles[source], seen.roles[target]) - begun) * 1000

    async def finish(self, numbers: list[int]) -> None:
        """Lead migrations to their end, several at once, and count what was written."""
        left = iter(numbers)
        await asyncio.gather(*(self._finish_each(left) for _ in range(FINISHING)))
        made = [key for number in numbers for key in objects.keys(number)]
        migrations = [key for key in made if key[0] == "LiveMigration"]
        writes = max(self.observer.writes[key] for key in made)
        statuses = max(self.observer.statuses[key] for key in migrations)
        self.results |= dict(zip(report.WRITES, (writes, statuses), strict=True))

    async def _finish_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            self.say(f"to its end: migration {number}")
            await self._finish(number)

    async def _finish(self, number: int) -> None:
        migration, source, target = objects.keys(number)
        found = await self.client.call(
            "GET",
            f"/apis/{names.API_VERSION}/namespaces/{migration[1]}/livemigrations/{migration[2]}",
        )
        uid = found["metadata"]["uid"]

        async def say(key: Key, state: str) -> None:
            await self.client.patch(key, objects.agent_status(state, uid, "10.0.0.1"), "/status")

        await say(source, "Base")
        await say(target, "Target")
        await self._until_phase(migration, "Ready")
        await say(target, "Live")
        await self._until_phase(migration, "Live")
        await self.client.patch(migration, {"spec": {"outcome": "Succeeded"}})
        await self._until_phase(migration, "Converging")
        await say(source, "Withdrawn")
        await say(target, "TimeWait")
        await say(target, "Base")
        await self._until_phase(migration, "Succeeded")

    async def _until_phase(self, key: Key, wanted: str) -> None:
        phases = self.observer.phases
        await self.observer.until(lambda: phases.get(key) == wanted, f"{key[2]} {wanted}")
