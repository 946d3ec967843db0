"""Moves a real guest there and back, row by row, under traffic and the eyes of witnesses."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Final

from handover_api.configuration import Settings
from handover_lab.bench.agent.node import compile_program
from handover_lab.bench.outage import figures, floor, moments
from handover_lab.bench.outage.figures import Line, Sample
from handover_lab.bench.outage.floor import Side
from handover_lab.bench.outage.moments import Seen
from handover_lab.bench.outage.rows import LATE_S, Row
from handover_lab.bench.outage.witness import Witness
from handover_lab.cluster import observer
from handover_lab.cluster.node import JOIN, Node
from handover_lab.cluster.observer import ObserverError
from handover_lab.four_nodes.cluster import SIDES
from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.guest.qemu import GuestError
from handover_lab.guest.vm import Family, FlowSpec, Move
from handover_lab.network.traffic import Recording, TrafficError
from handover_lab.testing.agent_processes import AgentProcess

FLOWS: Final = (
    FlowSpec("outside v4", "ping", 4, 1),
    FlowSpec("outside v6", "ping", 6, 1),
    FlowSpec("pod v4", "ping", 4, 10, "pod"),
    FlowSpec("pod v6", "ping", 6, 10, "pod"),
    FlowSpec("session v4", "tcp", 4, 10),
    FlowSpec("session v6", "tcp", 6, 10),
)
"""The pods are on a bystander: what they lose, its own route has lost."""
FAMILIES: Final[tuple[Family, ...]] = (4, 6)
CALM_S: Final = 1.0
"""Of traffic before each migration, which what follows is compared with."""
AFTER_S: Final = 1.5
"""Of traffic after it, so that a route which comes LATE_S later is seen to come."""
TURN: Final = 2
"""Migrations of a row until another one's turn comes: there and back, which may differ."""
ATTEMPTS: Final = 3
"""Of a row's migrations as many may fail, in QEMU or because nobody finds the VM any more; then the
row ends as it is, and the next one may do better."""

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
        self.done(self.lines)

    async def _take_turn(
        self, lab: FourNodeLab, trials: "Trials", witnesses: Mapping[str, Witness]
    ) -> None:
        """Move the VM there and back."""
        row = trials.row
        await lab.configure(sourceRedirect="auto" if row.redirect else "off")
        with self._floor(lab, row):
            for _ in range(TURN):
                if trials.are_over:
                    return
                number = len(trials.samples) + 1
                self.say(f"{row.title}: migration {number} of {self.migrations}")
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
        await lab.vm.start_flows()
        try:
            await asyncio.sleep(CALM_S)
            async with by_hand(lab, row):
                migrated = await lab.migrate(migration)
            await asyncio.sleep(AFTER_S)
        finally:
            recordings = await lab.vm.stop_flows()
        records = {name: witness.seen() for name, witness in witnesses.items()}
        found = Found(
            migrated.move,
            recordings,
            {name: moments.read(each, began_ns, time.time_ns()) for name, each in records.items()},
            reported(lab, migration["metadata"]["name"]),
        )
        return {family: found.of(family, lab.vm.addresses[family]) for family in FAMILIES}


@contextlib.asynccontextmanager
async def by_hand(lab: FourNodeLab, row: Row) -> AsyncIterator[None]:
    """Lead everybody to the VM, LATE_S after it has moved, where nobody carries its routes."""
    if row.carrier != "none":
        yield
        return
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

    def of(self, family: Family, address: str) -> Sample:
        """Measure it by the flows of one family."""
        # All of each flow, which began and ended with this migration: a late route comes late.
        pings, pods, session = (
            self.recordings[f"{name} v{family}"].packets() for name in ("outside", "pod", "session")
        )
        move = self.move
        told = moments.of_switchover(self.seen, move.source, move.target, address)
        return Sample.of((pings, pods), session, move.switchover, told, self.reported)


def reported(lab: FourNodeLab, name: str) -> Mapping[str, object]:
    """Return what Handover tells of the cutover of migration *name*."""
    sides = observer.status(lab.migrations.objects.get(name, {})).get("target", ())
    return next((side["cutover"] for side in sides if side.get("cutover")), {})


def beside_agent(node: Node) -> Callable[..., list[str]]:
    """Return what runs a program where the node's agent runs: neither has more of a processor."""

    def command(*argv: str) -> list[str]:
        return node.command("sh", "-c", JOIN, "sh", *node.group.programs, "--", *argv)

    return command
