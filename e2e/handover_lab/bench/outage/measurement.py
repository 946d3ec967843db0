"""Moves a real guest there and back, row by row, under traffic and the eyes of witnesses."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Final

from handover_api.configuration import Settings
from handover_lab.bench.agent import process
from handover_lab.bench.agent.node import compile_program
from handover_lab.bench.outage import figures, floor, moments
from handover_lab.bench.outage.figures import Flows, Line, Sample, Source
from handover_lab.bench.outage.floor import Side
from handover_lab.bench.outage.moments import Seen
from handover_lab.bench.outage.rows import LATE_S, Row
from handover_lab.bench.outage.witness import Witness
from handover_lab.cluster import observer
from handover_lab.cluster.node import JOIN, Node
from handover_lab.cluster.observer import Objects, ObserverError
from handover_lab.four_nodes.cluster import SIDES
from handover_lab.four_nodes.lab import FourNodeLab, name_of
from handover_lab.guest.deliveries import Deliveries
from handover_lab.guest.qemu import GuestError
from handover_lab.guest.vm import Family, FlowSpec, Move
from handover_lab.network import delivery
from handover_lab.network.delivery import Delivered
from handover_lab.network.traffic import Recording, TrafficError
from handover_lab.testing.agent_processes import AgentProcess

FLOWS: Final = (
    FlowSpec("outside v4", "ping", 4, 1),
    FlowSpec("outside v6", "ping", 6, 1),
    FlowSpec("pod v4", "ping", 4, 10, "pod"),
    FlowSpec("pod v6", "ping", 6, 10, "pod"),
    FlowSpec("session v4", "tcp", 4, 10),
    FlowSpec("session v6", "tcp", 6, 10),
    FlowSpec("requests v4", "request", 4, 10),
    FlowSpec("requests v6", "request", 6, 10),
)
"""The pods are on a bystander: what they lose, its own route has lost."""
PINGS: Final = ("outside", "pod")
FAMILIES: Final[tuple[Family, ...]] = (4, 6)
CALM_S: Final = 1.0
"""Of traffic before each migration, which what follows is compared with."""
AFTER_S: Final = 1.5
"""Of traffic after it, so that a route which comes LATE_S later is seen to come."""
HELD_S: Final = 1.0
"""So long the source's agent is looked at while its guest could leave any moment."""
HOLDING_S: Final = 10.0
"""A ring is open in milliseconds; one that is not by then never will be."""
TURN: Final = 2
"""Migrations of a row until another one's turn comes: there and back, which may differ."""
ATTEMPTS: Final = 3
"""Of a row's migrations as many may fail, in QEMU or because nobody finds the VM any more; then the
row ends as it is, and the next one may do better."""

SHOWN: Final = 10
"""Lost packets of which it is said when they were sent."""

REAL_TIME_US: Final = 200_000
"""Of each second, for what is urgent on a node."""

FAILURES: Final = (GuestError, ObserverError, TrafficError)


class BenchLab(FourNodeLab):
    """The lab with agents that are as urgent as those of the chart."""

    agent_variables: ClassVar[Mapping[str, str]] = {"HANDOVER_PROCESSOR_PRIORITY": "high"}

    @contextlib.asynccontextmanager
    async def agent(self, node: str) -> AsyncIterator[AgentProcess]:
        """Keep an agent running on *node*, which may be as urgent as it asks for."""
        self.cluster.nodes[node].group.allow_real_time(REAL_TIME_US)
        async with super().agent(node) as process:
            yield process


@dataclass
class Bench:
    """What is measured, and what was."""

    directory: Path
    migrations: int
    say: Callable[[str], None]
    done: Callable[[Sequence[Line]], None]
    """Called with all lines when a carrier's rows are complete: an interruption leaves those."""
    lines: list[Line] = field(default_factory=list)
    _program: Path | None = None

    async def run(self, rows: Sequence[Row]) -> None:
        """Measure *rows*, a lab for each topology and a mesh for each carrier."""
        self._program = self.directory / "bench"
        await asyncio.to_thread(compile_program, self._program)
        for topology, of_topology in groupby(rows, lambda row: row.topology):
            self.say(f"four nodes, {topology}: starting a control plane, agents and the VM")
            directory = self.directory / topology
            directory.mkdir()
            # FRR's daemons have a user of their own, who must get there.
            directory.chmod(0o755)
            async with BenchLab.started(directory, topology) as lab:
                lab.vm.flow_specs = FLOWS
                with self._witnessed(lab, directory) as witnesses:
                    for carrier, of_carrier in groupby(of_topology, lambda row: row.carrier):
                        self.say(f"four nodes, {topology}: starting what carries routes, {carrier}")
                        async with lab.carried(carrier):
                            await self._measure(lab, list(of_carrier), witnesses)
                        if carrier == "none":
                            # From now on somebody else leads everybody to the VM.
                            await asyncio.to_thread(lab.forget)

    @contextlib.contextmanager
    def _witnessed(self, lab: FourNodeLab, directory: Path) -> Iterator[Mapping[str, Witness]]:
        with contextlib.ExitStack() as ends:
            witnesses = {}
            for name, node in lab.cluster.nodes.items():
                taps = [lab.vm.nic.tap] if name in SIDES else []
                path = directory / f"witness-{name}"
                witnesses[name] = Witness.start(node, Settings().peer_port, path, taps)
                ends.callback(witnesses[name].stop)
            yield witnesses

    async def _measure(
        self, lab: FourNodeLab, rows: Sequence[Row], witnesses: Mapping[str, Witness]
    ) -> None:
        """Measure the rows of one carrier in turns, so that a neighbor delays them alike."""
        trials = [Trials(row, self.migrations) for row in rows]
        while not all(each.are_over for each in trials):
            for each in trials:
                await self._take_turn(lab, each, witnesses)
        for each in trials:
            self.lines += [each.line(family) for family in FAMILIES]
        self.lines = figures.compared(self.lines)
        self.done(self.lines)

    async def _take_turn(
        self, lab: FourNodeLab, trials: "Trials", witnesses: Mapping[str, Witness]
    ) -> None:
        """Move the VM there and back."""
        row = trials.row
        await lab.configure(
            sourceRedirect="auto" if row.redirect else "off",
            holdPackets="auto" if row.resend else "off",
        )
        with self._floor(lab, row):
            for _ in range(TURN):
                if trials.are_over:
                    return
                number = len(trials.samples) + 1
                self.say(f"{row.title}: migration {number} of {self.migrations}")
                dropped = dropped_by_machine()
                try:
                    found = await self._migrate(lab, row, witnesses)
                except FAILURES as error:
                    trials.failures += 1
                    self.say(f"{row.title}: {error}")
                    continue
                if lost := max(sample.lost_before for sample in found.values()):
                    trials.voids += 1
                    self.say(f"{row.title}: once more; {lost} pings were lost before the VM moved")
                else:
                    trials.samples.append(found)
                    self._say_lost(row, found, dropped_by_machine() - dropped)

    def _say_lost(self, row: Row, found: Mapping[Family, Sample], dropped: int) -> None:
        """Say when those were sent that a row has lost which is to lose none."""
        for family, sample in found.items():
            if row.resend and sample.lost_total:
                shown = ", ".join(f"{at_ms:.0f}" for at_ms in sample.lost_at_ms[:SHOWN])
                self.say(
                    f"{row.title}: lost of IPv{family}, sent {shown} ms after the stop; "
                    f"{dropped} packets found no room in this machine's own queues"
                )

    @contextlib.contextmanager
    def _floor(self, lab: FourNodeLab, row: Row) -> Iterator[None]:
        """Keep the C programs at work where no redirect is: else both would wait for each other."""
        if row.redirect:
            yield
            return
        first, second = (
            Side(
                beside_agent(lab.cluster.nodes[name]),
                lab.cluster.nodes[name].address,
                lab.vm.nic.tap,
            )
            for name in SIDES
        )
        assert self._program is not None
        with floor.running(self._program, (first, second)):
            yield

    async def _migrate(
        self, lab: FourNodeLab, row: Row, witnesses: Mapping[str, Witness]
    ) -> dict[Family, Sample]:
        """Move the VM once, and measure each family."""
        began_ns, migration = time.time_ns(), lab.migration()
        with Deliveries.kept(lab.vm) as deliveries:
            await lab.vm.start_flows()
            flows = dict(lab.vm.flows)
            ports = {name: flow.request_port for name, flow in flows.items()}
            try:
                await asyncio.sleep(CALM_S)
                since_ns = time.time_ns()
                async with by_hand(lab, row):
                    await lab.prepare(migration)
                    source = await self._look_at_source(lab, row)
                    target = lab.cluster.nodes[lab.away]
                    before = dropped_at(target, lab.vm.nic.tap)
                    migrated = await lab.complete(migration)
                await asyncio.sleep(AFTER_S)
            finally:
                recordings = await lab.vm.stop_flows()
            await deliveries.note(flows)
        dropped = dropped_at(target, lab.vm.nic.tap) - before
        records = {name: witness.seen() for name, witness in witnesses.items()}
        found = Found(
            migrated.move,
            recordings,
            {name: moments.read(each, began_ns, time.time_ns()) for name, each in records.items()},
            reported(lab, migration["metadata"]["name"]),
            since_ns,
            deliveries.delivered,
            dropped,
            source,
            ports,
        )
        return {family: found.of(family, lab.vm.addresses[family]) for family in FAMILIES}

    async def _look_at_source(self, lab: FourNodeLab, row: Row) -> Source | None:
        """Measure the source's agent until the guest moves; None: it should hold, and does not."""
        if row.resend:
            try:
                await lab.endpoints.until(is_holding(lab.vm.home), "Holding=True", HOLDING_S)
            except ObserverError as error:
                self.say(f"{row.title}: {error}")
                return None
        pid = lab.agents[lab.vm.home].pid
        before, at = process.cpu_seconds(pid), time.monotonic()
        await asyncio.sleep(HELD_S)
        spent, took = process.cpu_seconds(pid) - before, time.monotonic() - at
        return Source(process.rss_mib(pid), spent / took * 1e3)


def dropped_by_machine() -> int:
    """Return for how many packets the kernel's queues between devices had no room so far.

    Of all namespaces, by net.core.netdev_max_backlog.
    """
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def dropped_at(node: Node, tap: str) -> int:
    """Return how many packets a guest's port had no room for so far."""
    (link,) = json.loads(node.run(f"ip --json --statistics link show dev {tap}"))
    return int(link["stats64"]["tx"]["dropped"])


def is_holding(node: str) -> Callable[[Objects], bool]:
    """Return what tells whether the agent of *node* holds what the VM does not take."""

    def is_so(seen: Objects) -> bool:
        told = observer.conditions(seen.get(name_of(node), {}))
        return any((each["type"], each["status"]) == ("Holding", "True") for each in told)

    return is_so


@contextlib.asynccontextmanager
async def by_hand(lab: FourNodeLab, row: Row) -> AsyncIterator[None]:
    """Lead everybody to the VM, LATE_S after it has moved, where nobody carries its routes."""
    if row.carrier != "none":
        yield
        return
    lab.lead_by_hand()
    hand = asyncio.create_task(lab.follow_by_hand(LATE_S))
    try:
        yield
        await hand
    finally:
        hand.cancel()
        await asyncio.gather(hand, return_exceptions=True)


@dataclass(slots=True)
class Trials:
    """A row's migrations so far."""

    row: Row
    wanted: int
    samples: list[Mapping[Family, Sample]] = field(default_factory=list)
    failures: int = 0
    voids: int = 0
    """Migrations of a guest that had no processor, whose loss says nothing of a network."""

    @property
    def are_over(self) -> bool:
        """Tell whether there are enough, or too many have failed."""
        is_hopeless = self.failures == ATTEMPTS or self.voids == ATTEMPTS + self.wanted
        return len(self.samples) == self.wanted or is_hopeless

    def line(self, family: Family) -> Line:
        """Sum up one family's."""
        samples = [each[family] for each in self.samples]
        return figures.line(self.row, family, samples, self.wanted)


@dataclass(frozen=True, slots=True)
class Found:
    """All that was recorded of one migration."""

    move: Move
    recordings: Mapping[str, Recording]
    seen: Mapping[str, Seen]
    reported: Mapping[str, object]
    since_ns: int
    delivered: Mapping[str, Delivered]
    dropped: int
    source: Source | None
    ports: Mapping[str, int]

    def of(self, family: Family, address: str) -> Sample:
        """Measure it by the flows of one family."""
        move = self.move
        client = self.ports[f"requests v{family}"]
        told = moments.of_switchover(self.seen, move.source, move.target, address, client)
        flows = self._flows(family)
        return Sample.of(flows, move.switchover, told, self.reported, self.source)

    def _flows(self, family: Family) -> Flows:
        # All of each flow, which began and ended with this migration: a late route comes late.
        session, requests = (
            self.recordings[f"{name} v{family}"].packets() for name in ("session", "requests")
        )
        names = [f"{name} v{family}" for name in PINGS]
        pings = [self.recordings[name].packets() for name in names]
        stays = delivery.stays((self.move,))
        lost = itertools.chain.from_iterable(
            delivery.lost(each, self.delivered[name], stays, self.since_ns)
            for each, name in zip(pings, names, strict=True)
        )
        twice = sum(len(self.recordings[name].doubled) for name in names)
        return Flows(pings, session, requests, sorted(lost), twice, self.dropped)


def reported(lab: FourNodeLab, name: str) -> Mapping[str, object]:
    """Return what Handover tells of the cutover of migration *name*."""
    sides = observer.status(lab.migrations.objects.get(name, {})).get("target", ())
    return next((side["cutover"] for side in sides if side.get("cutover")), {})


def beside_agent(node: Node) -> Callable[..., list[str]]:
    """Return what runs a program where the node's agent runs: neither has more of a processor."""

    def command(*argv: str) -> list[str]:
        return node.command("sh", "-c", JOIN, "sh", *node.group.programs, "--", *argv)

    return command
