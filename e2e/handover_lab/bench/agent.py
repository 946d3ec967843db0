"""`make bench`: how fast and how light the real agent is, beside the least that could do its work.

The floor is a C program (epoll, recv, sendmsg, ack) that hears the same frames in the same run; an
observer outside of both sees when the kernel has the route. Absolute figures move with the
machine's neighbors, the ratios do not.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from handover_lab.bench.bed import Bed, BenchError, Guest, batch, bed
from handover_lab.bench.figures import Sample, draw, is_kept, percentile, show
from handover_lab.cluster.nodegroup import GroupError
from handover_lab.processes import pods
from handover_lab.terminal.progress import Progress

BUILD: Final = Path(__file__).parents[3] / "build" / "bench"
ENDPOINTS: Final = 200
BURNER: Final = "while True: pass"
GAP: Final = 0.02
"""Seconds before each cutover, the agent's and the floor's alike: what follows one, up to its
report, does not delay the next, and neither finds the machine warm from the other.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    cycles: int = 2000
    quiet_seconds: float = 20.0
    rest_seconds: float = 20.0
    many: int = 1000
    most: int = 2000
    foreign: int = 10_000
    request: int = 0
    """Of the agent, in thousandths of a processor; the floor runs in the same control group."""
    priority: str = "high"
    """The agent's setting HANDOVER_PROCESSOR_PRIORITY."""
    is_cutovers_alone: bool = False


QUICK: Final = Plan(
    cycles=200, quiet_seconds=15.0, rest_seconds=5.0, many=200, most=400, foreign=1000
)


class Bench:
    """Measures one thing after the other, and says so."""

    def __init__(self, bed: Bed, plan: Plan, say: Callable[[str], None]) -> None:
        self.bed = bed
        self.plan = plan
        self.say = say
        self.guests = [Guest(number) for number in range(ENDPOINTS)]
        self.yardsticks = [Guest(number, "flo") for number in range(ENDPOINTS)]
        self.results: dict[str, Any] = {"announcement_to_route": {}}
        self.samples: dict[str, Sample] = {}
        self._uids = (f"bench-{number}" for number in itertools.count())

    async def run(self) -> None:
        """Measure all."""
        self.say(f"{ENDPOINTS} endpoints, an API server, the agent and the floor")
        await self.prepare()
        await self.cutovers("idle")
        burners = [
            self.bed.run(*pods.inside(group), sys.executable, "-c", BURNER)
            for group in pods.neighbors()
        ]
        await self.cutovers("busy")
        for burner in burners:
            burner.kill()
        if not self.plan.is_cutovers_alone:
            await self.rest()

    async def prepare(self) -> None:
        """Start the agent and the floor as one pod, and wait until both are ready."""
        self.bed.connect(self.guests + self.yardsticks)
        await self.bed.create(self.guests)
        is_real_time = self.plan.priority == "high"
        pod = pods.inside(pods.make("agent", self.plan.request, is_real_time=is_real_time))
        words = [word for one in self.yardsticks for word in (one.tap, str(one.address))]
        floor = self.bed.run(*pod, str(self.bed.program), "floor", *words)
        assert floor.stdout is not None
        await asyncio.to_thread(floor.stdout.readline)
        self.bed.agent.prefix = pod
        self.bed.agent.environment["HANDOVER_PROCESSOR_PRIORITY"] = self.plan.priority
        self.bed.agent.start()
        await self.bed.agent.ready()
        await asyncio.sleep(1)
        self.results["rss_mib_200"] = round(self.bed.agent.rss_mib, 1)

    async def rest(self) -> None:
        """Measure all but cutovers one by one."""
        await self.evacuation()
        await self.at_rest()
        await self.flood()
        self.bed.end()
        self.bed.agent.stop()
        await self.large()

    async def cutovers(self, condition: str) -> None:
        """Let guest after guest announce itself, the agent's and the floor's in turn."""
        agent: list[float] = []
        floor: list[float] = []
        for begun in range(0, self.plan.cycles, ENDPOINTS):
            self.say(f"announcement to route, {condition}: {begun} of {self.plan.cycles}")
            await self.reset()
            for guest, yardstick in zip(self.guests, self.yardsticks, strict=True):
                await asyncio.sleep(GAP)
                agent += self.bed.observer.time(guest)
                await asyncio.sleep(GAP)
                floor += self.bed.observer.time(yardstick)
        sample = self.samples[condition] = Sample(tuple(agent), tuple(floor))
        self.results["announcement_to_route"][condition] = sample.figures()

    async def reset(self) -> None:
        """Make every guest a target again, and the floor's routes go."""
        batch(["ip"], ["route flush proto 99"])
        await self.bed.targets(self.guests, next(self._uids))
        await asyncio.sleep(0.3)

    async def evacuation(self) -> None:
        """Twenty guests at the same instant."""
        lasts: list[float] = []
        for round_ in range(10 if self.plan is not QUICK else 2):
            self.say(f"twenty guests at once: round {round_ + 1}")
            await self.reset()
            for first in range(0, ENDPOINTS, 20):
                lasts.append(max(self.bed.observer.time(*self.guests[first : first + 20])))
                await asyncio.sleep(0.15)
        self.results["evacuation_20_last_us"] = round(statistics.median(lasts), 1)
        self.results["evacuation_20_last_us_p99"] = round(percentile(lasts, 99), 1)

    async def at_rest(self) -> None:
        """What it costs while nothing happens, and while a Target's interface is busy."""
        self.say("at rest, once all reports have left")
        await asyncio.sleep(self.plan.quiet_seconds)
        # A look at everything each five minutes, 0.03 % with 200 endpoints, may fall into one.
        self.results["cpu_percent_rest"] = min([await self.cpu_percent() for _ in range(2)])
        self.say("50,000 packets/s of ordinary traffic on a Target's interface")
        await self.bed.targets(self.guests[:1], next(self._uids))
        command = (str(self.bed.program), "flood", self.guests[0].eth, "udp", "50000")
        sender = self.bed.run(*command, inside=True)
        await asyncio.sleep(self.plan.quiet_seconds)
        self.results["cpu_percent_traffic"] = await self.cpu_percent()
        sender.kill()

    async def cpu_percent(self) -> float:
        """Return the share of one processor that the agent uses now."""
        before = self.bed.agent.cpu_seconds
        await asyncio.sleep(self.plan.rest_seconds)
        used = self.bed.agent.cpu_seconds - before
        return round(100 * used / self.plan.rest_seconds, 3)

    async def flood(self) -> None:
        """A hostile guest sends 100,000 ARP frames/s: with an endpoint, and without one."""
        stranger = Guest(ENDPOINTS)
        self.bed.connect([stranger])
        p99: dict[str, float] = {}
        for name, hostile in (("without", stranger), ("with", self.guests[0])):
            self.say(f"100,000 ARP frames/s on an interface {name} endpoint")
            times: list[float] = []
            for _ in range(5 if self.plan is not QUICK else 1):
                await self.reset()
                command = (str(self.bed.program), "flood", hostile.eth, "arp", "100000")
                sender = self.bed.run(*command, inside=True)
                await asyncio.sleep(0.2)
                for guest in self.guests[1:]:
                    await asyncio.sleep(GAP)
                    times += self.bed.observer.time(guest)
                sender.kill()
                sender.wait()
            p99[name] = percentile(times, 99)
        self.results["flood_p99_us"] = {name: round(value, 1) for name, value in p99.items()}
        self.results["flood_p99_ratio"] = round(p99["with"] / p99["without"], 2)

    async def large(self) -> None:
        """Start with many endpoints and foreign routes; memory with most of them."""
        plan = self.plan
        foreign = [
            f"route add 10.{128 + number // 65536}.{number // 256 % 256}.{number % 256} dev lo "
            "scope link proto 3"
            for number in range(plan.foreign)
        ]
        batch(["ip"], foreign)
        for count, what in ((plan.many, "start"), (plan.most, "memory")):
            self.say(f"{what} with {count} endpoints and {plan.foreign} foreign routes")
            known = len(self.guests)
            fresh = [Guest(number) for number in range(known + 1, count + 1)]
            self.bed.connect(fresh)
            await self.bed.create(fresh)
            self.guests += fresh
            began = time.monotonic()
            self.bed.agent.start()
            await self.bed.agent.ready()
            if what == "start":
                self.results["start_1000_endpoints_s"] = round(time.monotonic() - began, 2)
            else:
                await asyncio.sleep(15)
                self.results["rss_mib_2000"] = round(self.bed.agent.rss_mib, 1)
            self.bed.agent.stop()


async def measure(plan: Plan, console: Console) -> bool:
    """Measure in a fresh bed, and write the report; return whether every bar is kept."""
    BUILD.mkdir(parents=True, exist_ok=True)
    progress = Progress(console)
    pods.stand_aside()
    with tempfile.TemporaryDirectory(prefix="handover-bench-") as directory, progress.running():
        async with bed(Path(directory)) as it:
            bench = Bench(it, plan, progress.say)
            await bench.run()
    bench.results["machine"] = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cycles": plan.cycles,
        "agent_cpu_request_m": plan.request,
        "agent_priority": plan.priority,
    }
    (BUILD / "agent.json").write_text(json.dumps(bench.results, indent=2) + "\n")
    draw(bench.samples, BUILD / "agent.png")
    show(bench.results, console)
    console.print("build/bench/agent.json and agent.png have it all.")
    return is_kept(bench.results)


def main() -> int:
    """Run the bench; it needs root, and runs in a sandbox (`make bench` does that)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to try a change")
    parser.add_argument("--cutovers", action="store_true", help="one by one, and nothing else")
    parser.add_argument("--cpu", metavar="REQUEST", help="another cpu request than the chart's")
    parser.add_argument("--priority", choices=["high", "normal"], default="high")
    arguments = parser.parse_args()
    plan = dataclasses.replace(
        QUICK if arguments.quick else Plan(),
        request=pods.millicores(arguments.cpu) if arguments.cpu else pods.chart_request(),
        priority=arguments.priority,
        is_cutovers_alone=arguments.cutovers,
    )
    console = Console(highlight=False)
    try:
        return 0 if asyncio.run(measure(plan, console)) else 1
    except (BenchError, GroupError) as error:
        console.print(f"The bench stopped: {error}", style="red")
        return 2


if __name__ == "__main__":
    sys.exit(main())
