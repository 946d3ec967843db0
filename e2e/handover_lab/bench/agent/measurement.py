"""What is measured of the agent: cutovers, rest, floods, starts; always beside the floor.

The agent's turns and the floor's alternate, so that a neighbor on the machine delays both alike.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from handover_lab.bench.agent.guests import FLOORS, Guest, run_batch
from handover_lab.bench.agent.node import Node
from handover_lab.bench.agent.process import PATIENCE, cpu_seconds
from handover_lab.bench.agent.report import Sample
from handover_lab.bench.agent.route_observer import BenchError
from handover_lab.bench.figures import percentile
from handover_lab.processes import pods

ENDPOINTS: Final = 200
BURNER: Final = "while True: pass"
AT_REST: Final = """
import asyncio
async def rest():
    while True:
        await asyncio.sleep(1)
asyncio.run(rest())
"""
"""The floor of a daemon in Python at rest: a loop that wakes once a second, to do nothing."""
LOOK: Final = 2.0
CALM: Final = 0.005
"""Of a processor: some times what the agent uses at rest, and far below what reports take."""
GAP: Final = 0.02
"""Seconds before each cutover, the agent's and the floor's alike: what follows one, up to its
report, does not delay the next, and neither finds the machine warm from the other.
"""
LONG_GAP: Final = 0.15
"""The same where twenty follow."""
TOGETHER: Final = 20
"""Guests that come at one instant where a node is drained."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    cycles: int = 2000
    quiet_seconds: float = 20.0
    rest_seconds: float = 20.0
    many: int = 1000
    most: int = 2000
    foreign: int = 10_000
    rounds: int = 10
    """Of twenty guests at once, each of them ten times."""
    floods: int = 5
    request: int = 0
    """Of the agent, in thousandths of a processor; the floor runs in the same control group."""
    priority: str = "high"
    """The agent's setting HANDOVER_PROCESSOR_PRIORITY."""
    is_cutovers_alone: bool = False


QUICK: Final = Plan(
    cycles=200,
    quiet_seconds=15.0,
    rest_seconds=5.0,
    many=200,
    most=400,
    foreign=1000,
    rounds=2,
    floods=1,
)


class Bench:
    """Measures one thing after the other, and says so."""

    def __init__(self, node: Node, plan: Plan, say: Callable[[str], None]) -> None:
        self.node = node
        self.plan = plan
        self.say = say
        self.guests = [Guest(number) for number in range(ENDPOINTS)]
        self.floor_guests = [Guest(number, FLOORS) for number in range(ENDPOINTS)]
        self.results: dict[str, Any] = {"announcement_to_route": {}}
        self.samples: dict[str, Sample] = {}
        self.pod: tuple[str, ...] = ()
        """What a command begins with that runs in the agent's control group."""
        self._uids = (f"bench-{number}" for number in itertools.count())

    async def run(self) -> None:
        """Measure all."""
        self.say(f"{ENDPOINTS} endpoints, an API server, the agent and the floor")
        await self.prepare()
        await self.cutovers("idle")
        burners = [
            self.node.start(*pods.inside(group), sys.executable, "-c", BURNER)
            for group in pods.neighbors()
        ]
        await self.cutovers("busy")
        for burner in burners:
            burner.kill()
        if not self.plan.is_cutovers_alone:
            await self.rest()

    async def prepare(self) -> None:
        """Start the agent and the floor as one pod, and wait until both are ready."""
        self.node.connect(self.guests + self.floor_guests)
        await self.node.create(self.guests)
        is_real_time = self.plan.priority == "high"
        pod = self.pod = pods.inside(
            pods.make("agent", self.plan.request, is_real_time=is_real_time)
        )
        words = [word for one in self.floor_guests for word in (one.tap, str(one.address))]
        floor = self.node.start(*pod, str(self.node.program), "floor", *words)
        assert floor.stdout is not None
        await asyncio.to_thread(floor.stdout.readline)
        self.node.agent.prefix = pod
        self.node.agent.environment["HANDOVER_PROCESSOR_PRIORITY"] = self.plan.priority
        self.node.agent.start()
        await self.node.agent.ready()
        await asyncio.sleep(1)
        self.results["rss_mib_200"] = round(self.node.agent.rss_mib, 1)

    async def rest(self) -> None:
        """Measure all but cutovers one by one."""
        await self.twenty_at_once()
        await self.at_rest()
        await self.flood()
        self.node.end()
        self.node.agent.stop()
        await self.large()

    async def cutovers(self, condition: str) -> None:
        """Let guest after guest announce itself, the agent's and the floor's in turn."""
        agent: list[float] = []
        floor: list[float] = []
        for begun in range(0, self.plan.cycles, ENDPOINTS):
            self.say(f"announcement to route, {condition}: {begun} of {self.plan.cycles}")
            await self.reset()
            for guest, floor_guest in zip(self.guests, self.floor_guests, strict=True):
                await asyncio.sleep(GAP)
                agent += self.node.observer.time(guest)
                await asyncio.sleep(GAP)
                floor += self.node.observer.time(floor_guest)
        sample = self.samples[condition] = Sample(tuple(agent), tuple(floor))
        self.results["announcement_to_route"][condition] = sample.figures()

    async def reset(self) -> None:
        """Make every guest a target again, and the floor's routes go."""
        run_batch(["ip"], ["route flush proto 99"])
        await self.node.make_targets(self.guests, next(self._uids))
        await asyncio.sleep(0.3)

    async def twenty_at_once(self) -> None:
        """Let twenty guests come at the same instant: the last one's route counts."""
        agent: list[float] = []
        floor: list[float] = []
        for round_ in range(self.plan.rounds):
            self.say(f"{TOGETHER} guests at once: round {round_ + 1} of {self.plan.rounds}")
            await self.reset()
            for first in range(0, ENDPOINTS, TOGETHER):
                together = slice(first, first + TOGETHER)
                agent.append(max(self.node.observer.time(*self.guests[together])))
                await asyncio.sleep(LONG_GAP)
                floor.append(max(self.node.observer.time(*self.floor_guests[together])))
                await asyncio.sleep(LONG_GAP)
        sample = Sample(tuple(agent), tuple(floor))
        self.results["announcement_to_route"][f"{TOGETHER} at once"] = sample.figures()

    async def at_rest(self) -> None:
        """What it costs while nothing happens, and while a Target's interface is busy."""
        floor = self.node.start(*self.pod, sys.executable, "-c", AT_REST)
        self.say("until all reports have left")
        await self.node.until_reported("Live", ENDPOINTS)
        await self.until_calm()
        await self.compare_cost("rest", floor.pid)
        self.say("50,000 packets/s of ordinary traffic on a Target's interface")
        await self.node.make_targets(self.guests[:1], next(self._uids))
        command = (str(self.node.program), "flood", self.guests[0].eth, "udp", "50000")
        sender = self.node.start(*command, inside=True)
        await self.until_calm()
        await self.compare_cost("traffic", floor.pid)
        sender.kill()
        floor.kill()

    async def until_calm(self) -> None:
        """Wait until the agent is at rest, which takes a busy machine longer."""
        self.say("until the agent is at rest")
        await asyncio.sleep(self.plan.quiet_seconds)
        agent = self.node.agent
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = agent.cpu_seconds
            await asyncio.sleep(LOOK)
            if agent.cpu_seconds - before < CALM * LOOK:
                return
        message = "the agent does not come to rest"
        raise BenchError(message)

    async def compare_cost(self, name: str, floor: int) -> None:
        """Note the shares of one processor that agent and floor use in the same seconds.

        The least of three: a resync each five minutes may fall into one of them.
        """
        shares = [await self._shares(floor) for _ in range(3)]
        agent, bare = min(shares)
        self.results[f"cpu_percent_{name}"] = round(agent, 3)
        self.results[f"bare_cpu_percent_{name}"] = round(bare, 3)

    async def _shares(self, floor: int) -> tuple[float, float]:
        before = self.node.agent.cpu_seconds, cpu_seconds(floor)
        await asyncio.sleep(self.plan.rest_seconds)
        after = self.node.agent.cpu_seconds, cpu_seconds(floor)
        agent, bare = (
            100 * (now - then) / self.plan.rest_seconds
            for now, then in zip(after, before, strict=True)
        )
        return agent, bare

    async def flood(self) -> None:
        """A hostile guest sends 100,000 ARP frames/s: with an endpoint, and without one."""
        stranger = Guest(ENDPOINTS)
        self.node.connect([stranger])
        p99: dict[str, float] = {}
        for name, hostile in (("without", stranger), ("with", self.guests[0])):
            self.say(f"100,000 ARP frames/s on an interface {name} endpoint")
            times: list[float] = []
            for _ in range(self.plan.floods):
                await self.reset()
                command = (str(self.node.program), "flood", hostile.eth, "arp", "100000")
                sender = self.node.start(*command, inside=True)
                await asyncio.sleep(0.2)
                for guest in self.guests[1:]:
                    await asyncio.sleep(GAP)
                    times += self.node.observer.time(guest)
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
        run_batch(["ip"], foreign)
        for count, what in ((plan.many, "start"), (plan.most, "memory")):
            self.say(f"{what} with {count} endpoints and {plan.foreign} foreign routes")
            known = len(self.guests)
            fresh = [Guest(number) for number in range(known + 1, count + 1)]
            self.node.connect(fresh)
            await self.node.create(fresh)
            self.guests += fresh
            began = time.monotonic()
            self.node.agent.start()
            await self.node.agent.ready()
            if what == "start":
                self.results["start_1000_endpoints_s"] = round(time.monotonic() - began, 2)
            else:
                await asyncio.sleep(15)
                self.results["rss_mib_2000"] = round(self.node.agent.rss_mib, 1)
            self.node.agent.stop()
