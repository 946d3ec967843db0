"""The demonstration itself: the same VM moves without Handover, then with it, there and back."""

import abc
import asyncio
import contextlib
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Generic, TypeVar

from handover_api import __version__
from handover_lab import facts, paths
from handover_lab.cluster import manifests
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.demo import builds, picture, report, timeline
from handover_lab.demo.fact_order import FactOrder
from handover_lab.demo.picture import Scene
from handover_lab.demo.report import Counted, Migration, Report, Told
from handover_lab.demo.timeline import Timeline
from handover_lab.facts import Action, Fact, Traffic
from handover_lab.guest import cpu_share, initramfs
from handover_lab.guest.deliveries import Deliveries
from handover_lab.guest.vm import Move, Vm
from handover_lab.lab import Cutover, Lab, Migrated
from handover_lab.network import carriers, delivery, manual_cutover, measure
from handover_lab.network.carriers import Carrier
from handover_lab.network.delivery import Delivered
from handover_lab.network.measure import Packet, Switchover
from handover_lab.network.traffic import Recording
from handover_lab.sandbox import sandbox
from handover_lab.terminal.screen import Screen
from handover_lab.toolchain import tools

LabT = TypeVar("LabT", bound=Lab)

BUILD: Final = paths.BUILD / "demo"
HOME, AWAY = "node-a", "node-b"
LATE_MS: Final = 1000
WATCH_S: Final = 1.0
"""So long the quiet before and after a migration is shown."""

CONVERGENCE: Final = "configuration.liveMigrationRouteConvergenceTime=3s"
"""Shorter than the default, so that nobody has to wait for the end."""

ClusterStarter = Callable[[NodeNetwork], Awaitable[Cluster]]
"""Starts a cluster on nodes, with our images on each."""


@dataclass
class Demonstration(abc.ABC, Generic[LabT]):
    """One demonstration on the nodes of *network*, and what it has found so far."""

    opening: ClassVar[str]
    """What is done when Handover is there."""
    migrations: ClassVar[tuple[str, ...]]
    """The examples that move the VM, one after the other."""
    commands_before: ClassVar[tuple[str, ...]]
    """What kubectl is asked while the target waits for the VM."""
    commands_after: ClassVar[tuple[str, ...]]
    """What it is asked at the end."""
    hints: ClassVar[tuple[str, ...]]
    """What a person can let it do who keeps the cluster."""

    network: NodeNetwork
    start_cluster: ClusterStarter
    screen: Screen
    directory: Path
    timeline: Timeline
    carrier: Carrier = "bird"
    """Who tells the router and the nodes where the VM is."""
    fact_order: FactOrder = field(init=False)
    is_shown: bool = False
    rows: list[Migration] = field(default_factory=list)
    baseline: Migration | None = None
    scenes: list[Scene] = field(default_factory=list)
    """Without Handover, then with it."""
    flows: dict[str, Counted] = field(default_factory=dict)
    """All that was sent while Handover was there."""
    answers_before: list[tuple[str, str]] = field(default_factory=list)
    """Commands and their answers while the target waited for the VM."""

    def __post_init__(self) -> None:
        self.fact_order = FactOrder(self.tell)

    @abc.abstractmethod
    def open(self) -> contextlib.AbstractAsyncContextManager[LabT]:
        """Show the VM without Handover, and prepare what Handover is then installed on."""

    @abc.abstractmethod
    async def begin(self, lab: LabT) -> None:
        """Let Handover serve the VM where it runs."""

    @abc.abstractmethod
    async def migrate(self, lab: LabT, manifest: Path) -> Migrated:
        """Migrate once as *manifest* says; the first time with a look at the objects."""

    async def perform(self, *, keep: bool) -> int:
        """Show everything, publish what it proved, and return the exit status.

        With *keep* it never returns: the VM obeys whatever migration is applied, until Ctrl-C or,
        where nobody sits at a terminal and our caller is let go, until the sandbox is ended.
        """
        async with self.fact_order.open(), self.open() as lab:
            await self.install(lab)
            await self.with_handover(lab)
            await self.show_objects(lab)
            found = self.found()
            publish(self.screen, found, self.scenes)
            write_down(self.timeline)
            status = 1 if found.faults else 0
            if keep:
                explain(self.screen, lab.cluster, self.hints)
                if sys.stdin.isatty():
                    self.screen.note("Ctrl-C ends it.")
                else:
                    sandbox.release(status)
                await lab.drive(self.screen.trouble)
        return status

    async def without(
        self,
        vm: Vm,
        boot: Callable[[str], Awaitable[None]],
        move_late: Callable[[], Awaitable[Move]],
    ) -> None:
        """Let the VM's route follow by hand, LATE_MS after the VM; *move_late* does both."""
        self.screen.headline("Without Handover")
        self.screen.note(
            "A VM boots on node-a and moves to node-b. Its route is moved by hand, a second late."
        )
        async with self.live(f"The VM moves from {HOME} to {AWAY}, its route a second later"):
            await boot(HOME)
            manual_cutover.add_routes(
                self.network.nodes[HOME], vm.node_nic(HOME), manual_cutover.NORMAL
            )
            vm.lead(HOME)
            await vm.start_flows()
            await asyncio.sleep(WATCH_S)
            move = await move_late()
            await asyncio.sleep(WATCH_S)
            recordings = await vm.stop_flows()
        self.baseline = row(move, recordings, None)
        assert move.by_hand is not None
        packets = recordings["ping"].packets()
        self.scenes.append(Scene(packets, move.switchover, move.by_hand.routed_ns))

    async def install(self, lab: LabT) -> None:
        """Install Handover as a user would."""
        self.screen.headline("With Handover")
        values = (CONVERGENCE, *values_for(self.carrier))
        line = f"helm install handover charts/handover --set {','.join(values)} --wait"
        with self.screen.step(line, line):
            await lab.install(*values)

    async def with_handover(self, lab: LabT) -> None:
        """Let the VM move there and back under one steady flow."""
        moved: list[Migrated] = []
        async with self.live(self.opening), contextlib.AsyncExitStack() as ends:
            await self.begin(lab)
            deliveries = ends.enter_context(Deliveries.kept(lab.vm))
            await lab.vm.start_flows()
            # Each has its first answer: whoever carries the routes has done so.
            flows, since_ns = dict(lab.vm.flows), time.time_ns()
            await asyncio.sleep(WATCH_S)
            for name in self.migrations:
                self.chapter(f"kubectl apply -f examples/{name}.yaml")
                moved.append(await self.migrate(lab, paths.EXAMPLES / f"{name}.yaml"))
                await asyncio.sleep(WATCH_S)
                # By now the migration's last ping has its answer, or gets none.
                pings = moved[-1].move.packets(lab.vm.flows["ping"].recording)
                self.fact_order.add(arrivals(pings, moved[-1].move.switchover))
                await deliveries.note(flows)
            recordings = await lab.vm.stop_flows()
            await deliveries.note(flows)
        moves, until_ns = [one.move for one in moved], time.time_ns()
        lost_ns = lost_on_the_way(recordings, deliveries.delivered, moves, since_ns)
        began_ns = self.timeline.history.began_ns
        self.flows = {
            name: Counted.of(
                measure.between(one.packets(), since_ns, until_ns), lost_ns.get(name), began_ns
            )
            for name, one in recordings.items()
        }
        for one in moved:
            self.rows.append(row(one.move, recordings, one, lost_ns["ping"]))
        first = moved[0]
        cutover_ns = first.cutover.at_ns if first.cutover else first.move.switchover.resumed_ns
        packets = recordings["ping"].packets()
        self.scenes.append(Scene(packets, first.move.switchover, cutover_ns))

    async def ask_before(self, lab: Lab) -> None:
        """See what kubectl says while the target waits, the first time that it does."""
        if not self.answers_before:
            for line in self.commands_before:
                self.answers_before.append(
                    (f"kubectl {line}", await lab.kubectl(*shlex.split(line)))
                )

    async def show_objects(self, lab: LabT) -> None:
        """Show what a user of the cluster sees, before the migration and now."""
        self.screen.headline("What kubectl said while the target waited for the VM")
        for line, answer in self.answers_before:
            self.screen.command(line, answer)
        self.screen.headline("What it says now")
        for line in self.commands_after:
            self.screen.command(f"kubectl {line}", await lab.kubectl(*shlex.split(line)))

    def found(self) -> Report:
        """Sum up."""
        more = {name: (str(tools.locate(name)), *tools.TOOLS[name].ask) for name in builds.PROGRAMS}
        ours = {"handover": __version__, "guest's linux": initramfs.build().version}
        versions = report.versions(more) | ours
        return Report(tuple(self.rows), self.baseline, versions, self.carrier, self.flows)

    def tell(self, fact: Fact | Traffic) -> None:
        """Show a fact; between two live views it is only taken in."""
        if self.is_shown:
            self.timeline.tell(fact)
        else:
            self.timeline.history = facts.with_fact(self.timeline.history, fact)

    @contextlib.asynccontextmanager
    async def live(self, title: str) -> AsyncIterator[None]:
        """Show the timeline for a while, under *title*."""
        # What happened just now is still being put in order, before and after.
        await asyncio.sleep(WATCH_S / 2)
        with self.timeline:
            self.is_shown = True
            self.chapter(title)
            yield
            await asyncio.sleep(WATCH_S / 2)
            self.is_shown = False

    def chapter(self, title: str) -> None:
        """Give what follows a title."""
        self.fact_order.add(facts.Chapter(time.time_ns(), title))


class Demo(Demonstration[Lab]):
    """`make demo`: somebody applies LiveMigrations, and the lab moves the VM as they say."""

    opening = "kubectl apply -f examples/workloadendpoints.yaml"
    migrations = ("livemigration", "livemigration-back")
    commands_before = ("get lm", "get wep", "describe wep")
    commands_after = ("get pods --all-namespaces -o wide", "get lm", "get wep")
    hints = ("get wep,lm", "delete lm --all", "apply -f examples/livemigration.yaml")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Lab]:
        """Move the VM between bare nodes at first: the cluster may still be in the making."""
        tell = self.fact_order.add
        async with Lab.open_vm(self.network, self.directory, tell, self.carrier) as vm:
            # Or what starts beside it would take it from the guest, which then loses pings itself.
            with cpu_share.reserved(vm):
                move_late = functools.partial(vm.move_by_hand, HOME, AWAY, LATE_MS)
                await self.without(vm, vm.boot, move_late)
                with self.screen.step("moving the VM back", f"the VM is back on {HOME}"):
                    await vm.move_by_hand(AWAY, HOME, 0)
                    manual_cutover.delete_routes(
                        self.network.nodes[HOME], vm.nic, manual_cutover.NORMAL
                    )
                cluster = await self.start_cluster(self.network)
                async with Lab.on(cluster, vm, self.fact_order.add) as lab:
                    yield lab

    async def begin(self, lab: Lab) -> None:
        """Apply the VM's endpoints."""
        await lab.apply(*manifests.read(manifests.ENDPOINTS))
        await lab.in_state("vm-on-node-a", "Base")

    async def migrate(self, lab: Lab, manifest: Path) -> Migrated:
        """Migrate once as *manifest* says; the first time with a look at the objects."""
        (migration,) = manifests.read(manifest)
        await lab.prepare(migration)
        await self.ask_before(lab)
        return await lab.complete(migration)


def lost_on_the_way(
    recordings: Mapping[str, Recording],
    delivered: Mapping[str, Delivered],
    moves: Sequence[Move],
    since_ns: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Return for each flow that nodes took notes of when those were sent that came to no guest."""
    stays = delivery.stays(moves)
    return {
        name: delivery.lost(recordings[name].packets(), came, stays, since_ns)
        for name, came in delivered.items()
    }


def row(
    move: Move,
    recordings: Mapping[str, Recording],
    migrated: Migrated | None,
    lost_ns: Sequence[int] | None = None,
) -> Migration:
    """Measure one migration from what the flows recorded.

    At *lost_ns* those pings were sent that came to no guest; None: nobody has looked.
    """
    session = recordings["TCP session"]
    cutover = migrated.cutover if migrated else None
    return Migration.measured(
        (move.source, move.target),
        move.switchover,
        move.packets(recordings["ping"]),
        lost_ns=None if lost_ns is None else [at for at in lost_ns if move.covers(at)],
        told=told(cutover) if cutover else None,
        tcp_survived=measure.survived(
            move.packets(session), broken=session.broken, resumed_ns=move.switchover.resumed_ns
        ),
    )


def told(cutover: Cutover) -> Told:
    """Say of a cutover what a person reads."""
    sent_on_us = max(0.0, (cutover.redirect_us or 0) - cutover.route_us)
    switched_ns = cutover.at_ns + round(sent_on_us * 1e3)
    return Told(cutover.signal, cutover.route_us, cutover.redirect_us, switched_ns, cutover.hold)


def arrivals(pings: Sequence[Packet], switchover: Switchover) -> Action:
    """Tell what became of the pings of one migration, and when the late ones came."""
    lost = sum(ping.answered_ns is None for ping in pings)
    text = f"{lost:,} of {len(pings):,} lost"
    came = [ping.answered_ns or 0 for ping in measure.late(pings, switchover.resumed_ns)]
    if came:
        first, last = ((at - switchover.resumed_ns) / 1e6 for at in (min(came), max(came)))
        text += f", {len(came):,} late: {first:,.0f} to {last:,.0f} ms after the guest ran again"
    return Action(time.time_ns(), "client", "pings", text)


def values_for(carrier: Carrier) -> tuple[str, ...]:
    """Compose what Helm is told of *carrier*; nothing without BGP, which is how it comes."""
    if carrier == "agents":
        return ()
    advertise = f"configuration.advertise={carriers.ADVERTISE[carrier]}"
    if carrier != "frr":
        return (advertise,)
    names = ("ipv4ElevatedRoutePriority", "ipv6ElevatedRoutePriority")
    return (advertise, *(f"configuration.{name}={carriers.BELOW_ZEBRA}" for name in names))


def explain(screen: Screen, cluster: Cluster, hints: Sequence[str]) -> None:
    """Say how the cluster that stays can be used, and write the command for it."""
    script = BUILD / "kubectl"
    enter = (sys.executable, "-m", sandbox.__name__, "--enter", sandbox.current() or "", "--")
    inside = ("env", f"KUBECONFIG={cluster.kubeconfig}", str(tools.locate("kubectl")))
    script.write_text(f'#!/bin/sh\nexec {shlex.join((*enter, *inside))} "$@"\n')
    script.chmod(0o755)
    screen.headline("It goes on running")
    command = script.relative_to(paths.ROOT)
    screen.note("Look around, and move the VM as often as you like:")
    for line in hints:
        screen.console.print(f"  {command} {line}")


def write_down(shown: Timeline) -> None:
    """Keep the whole history, of which a screen shows the end."""
    lines = (timeline.fact_line(shown.history, fact).plain for fact in shown.history.facts)
    (BUILD / "timeline.txt").write_text("\n".join(lines) + "\n")


def publish(screen: Screen, found: Report, scenes: list[Scene]) -> None:
    """Write the report and the picture, and show the summary."""
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "report.json").write_text(json.dumps(found.to_object(), indent=2) + "\n")
    without, with_handover = scenes
    written = picture.draw(with_handover, without, BUILD / "migration")
    screen.headline("Summary")
    screen.console.print(found.table())
    for path in (*written, BUILD / "report.json"):
        screen.note(f"  {path.relative_to(paths.ROOT)}")
    for fault in found.faults:
        screen.fault(fault)
    if found.faults:
        screen.note(found.advice(os.getloadavg()[0], os.cpu_count() or 1))
