"""`make bench`: how fast and how light the real agent is, beside the least that could do its work.

The floor is a C program (epoll, recv, sendmsg, ack) that hears the same frames in the same run; an
observer outside of both sees when the kernel has the route. Absolute figures move with the
machine's neighbours, the ratios do not.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from handover_lab.bench_bed import Bed, BenchError, Guest, batch, bed
from handover_lab.progress import Progress

BUILD: Final = Path(__file__).parents[2] / "build" / "bench"
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


QUICK: Final = Plan(
    cycles=200, quiet_seconds=15.0, rest_seconds=5.0, many=200, most=400, foreign=1000
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The agent's and the floor's times of one condition, in µs."""

    agent: tuple[float, ...]
    floor: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        """Return what the report says of them."""
        return {
            "p50_us": round(percentile(self.agent, 50), 1),
            "p99_us": round(percentile(self.agent, 99), 1),
            "max_us": round(max(self.agent), 1),
            "floor_p50_us": round(percentile(self.floor, 50), 1),
            "floor_p99_us": round(percentile(self.floor, 99), 1),
        }


def percentile(values: Sequence[float], rank: int) -> float:
    """Return the value below which *rank* per cent lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


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
        self.bed.connect(self.guests + self.yardsticks)
        await self.bed.create(self.guests)
        words = [word for one in self.yardsticks for word in (one.tap, str(one.address))]
        floor = self.bed.run(str(self.bed.program), "floor", *words)
        assert floor.stdout is not None
        await asyncio.to_thread(floor.stdout.readline)
        self.bed.agent.start()
        await self.bed.agent.ready()
        await asyncio.sleep(1)
        self.results["rss_mib_200"] = round(self.bed.agent.rss_mib, 1)
        await self.cutovers("idle")
        with_burners = [
            self.bed.run(sys.executable, "-c", BURNER) for _ in range(os.cpu_count() or 1)
        ]
        await self.cutovers("busy")
        for burner in with_burners:
            burner.kill()
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
        self.results["cpu_percent_rest"] = await self.cpu_percent()
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


GOALS: Final = (
    ("idle p50 / floor p50", "≤ 3", lambda r: ratio(r, "idle", "p50_us", "floor_p50_us"), 3.0),
    ("idle p99 / floor p99", "≤ 5", lambda r: ratio(r, "idle", "p99_us", "floor_p99_us"), 5.0),
    ("busy p99, ms", "≤ 5", lambda r: r["announcement_to_route"]["busy"]["p99_us"] / 1000, 5.0),
    ("20 guests at once, last, ms", "≤ 2", lambda r: r["evacuation_20_last_us"] / 1000, 2.0),
    ("memory with 200 endpoints, MiB", "≤ 72", lambda r: r["rss_mib_200"], 72.0),
    ("memory with 2,000, MiB", "≤ 120", lambda r: r["rss_mib_2000"], 120.0),
    ("processor at rest, %", "≤ 0.1", lambda r: r["cpu_percent_rest"], 0.1),
    ("processor under traffic, %", "≤ 0.1", lambda r: r["cpu_percent_traffic"], 0.1),
    ("flood, p99 with / without endpoint", "≤ 2", lambda r: r["flood_p99_ratio"], 2.0),
    ("start with 1,000 endpoints, s", "", lambda r: r["start_1000_endpoints_s"], 1e9),
)


def ratio(results: dict[str, Any], condition: str, mine: str, floor: str) -> float:
    """Return a figure of the agent as a multiple of the floor's."""
    figures = results["announcement_to_route"][condition]
    return float(figures[mine] / figures[floor])


def is_kept(results: dict[str, Any]) -> bool:
    """Return whether every bar is kept by what was measured."""
    return all(read(results) <= limit for _, _, read, limit in GOALS)


def show(results: dict[str, Any], console: Console) -> None:
    """Print what a person wants to know."""
    table = Table(title="The agent, measured", title_justify="left")
    for head in ("", "µs p50", "p99", "max", "floor p50", "floor p99"):
        table.add_column(head, justify="right" if head else "left")
    for condition, figures in results["announcement_to_route"].items():
        cells = [f"{figures[key]:,.0f}" for key in figures]
        table.add_row(f"announcement to route, {condition}", *cells)
    console.print(table)
    goals = Table(title_justify="left")
    for head in ("", "measured", "bar", ""):
        goals.add_column(head, justify="right" if head else "left")
    for what, goal, read, limit in GOALS:
        value = read(results)
        is_within = value <= limit
        mark = "" if not goal else "✓" if is_within else "✗ missed"
        goals.add_row(what, f"{value:,.2f}", goal, mark, style=None if is_within else "bold red")
    console.print(goals)


def draw(samples: dict[str, Sample], path: Path) -> None:
    """Draw both distributions, agent and floor."""
    figure = Figure(figsize=(9, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for condition, style in (("idle", "-"), ("busy", ":")):
        sample = samples[condition]
        for values, color, name in (
            (sample.agent, "#0072B2", "agent"),
            (sample.floor, "#8C8C8C", "floor in C"),
        ):
            ordered = sorted(values)
            shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
            axes.plot(ordered, shares, style, color=color, label=f"{name}, {condition}")
    axes.set_xscale("log")
    axes.set_xlabel("µs from the announcement on the wire to the route in the kernel")
    axes.set_ylabel("share of cutovers, %")
    axes.set_title("How soon the route follows the guest", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


async def measure(plan: Plan, console: Console) -> bool:
    """Measure in a fresh bed, and write the report; return whether every bar is kept."""
    BUILD.mkdir(parents=True, exist_ok=True)
    progress = Progress(console)
    with tempfile.TemporaryDirectory(prefix="handover-bench-") as directory, progress.running():
        async with bed(Path(directory)) as it:
            bench = Bench(it, plan, progress.say)
            await bench.run()
    bench.results["machine"] = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cycles": plan.cycles,
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
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        is_kept = asyncio.run(measure(QUICK if arguments.quick else Plan(), console))
    except BenchError as error:
        console.print(f"The bench stopped: {error}", style="red")
        return 2
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
