"""The VM and the network around it, without Kubernetes: taps, BIRD, one guest, flows to it."""

import asyncio
import contextlib
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from handover_lab import facts
from handover_lab.cluster.nodegroup import NodeGroup
from handover_lab.facts import Fact, Traffic
from handover_lab.guest import migration
from handover_lab.guest.migration import SHORT_PAUSE, Limits
from handover_lab.guest.qemu import Guest, GuestError, Nic, VmSpec
from handover_lab.network import carriers, manual_cutover, route_watch, tap
from handover_lab.network.bird import Speaker
from handover_lab.network.carriers import CARRIERS, Carrier, Mesh, Niced
from handover_lab.network.manual_cutover import Cutover, ManualCutover
from handover_lab.network.measure import Packet, Switchover
from handover_lab.network.topology import Topology as Shape
from handover_lab.network.traffic import Flow, Kind, Recording
from handover_lab.processes.place import Place

Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """A flow to the VM."""

    name: str
    kind: Kind
    family: Family
    interval_ms: float
    place: str = "router"
    """Where it comes from: the name of a client."""


FLOWS: Final = (
    FlowSpec("ping", "ping", 4, 1),
    FlowSpec("ping v6", "ping", 6, 5),
    FlowSpec("UDP echo", "udp", 4, 10),
    FlowSpec("TCP session", "tcp", 4, 20),
)
"""The first one is what figures are taken of."""

LAST: Final = 5
"""The niceness of an emulated guest, which takes all that it can get."""

GLANCE_S: Final = 0.1
CELL_NS: Final = 50_000_000
SETTLED_NS: Final = 300_000_000


@dataclass(frozen=True, slots=True)
class Topology:
    """Where everything stands: the nodes, and the router between them, which is the client too."""

    router: Place
    nodes: Mapping[str, Place]
    """Those on which the VM can be."""
    mesh: Sequence[Speaker]
    """Of the router, then of each node in the same order, and of the bystanders."""
    bystanders: Mapping[str, Place] = field(default_factory=dict)
    """Nodes that only send to it."""
    shape: Shape = "segment"
    carrier: Carrier = "bird"
    """Who tells all of them where the VM is, as long as it is open."""

    @property
    def places(self) -> Mapping[str, Place]:
        """Router, nodes and bystanders, in the order of the mesh."""
        return {"router": self.router, **self.nodes, **self.bystanders}


@dataclass(frozen=True, slots=True)
class Move:
    """One migration of the VM: the stretch of time that belongs to it, and its instants."""

    source: str
    target: str
    began_ns: int
    switchover: Switchover
    ended_ns: int
    by_hand: Cutover | None = None
    """When the route was moved by hand."""

    def covers(self, moment_ns: int) -> bool:
        """Whether a moment belongs to this migration."""
        return self.began_ns <= moment_ns < self.ended_ns

    def packets(self, recording: Recording) -> tuple[Packet, ...]:
        """Return the packets of this migration."""
        return tuple(packet for packet in recording.packets() if self.covers(packet.sent_ns))


class Vm:
    """One VM on the nodes of *topology*; *tell* hears what happens to it and to its traffic."""

    def __init__(
        self,
        directory: Path,
        topology: Topology,
        spec: VmSpec,
        tell: Callable[[Fact | Traffic], None],
    ) -> None:
        self.directory = directory
        self.topology = topology
        self.spec = spec
        self.guests: dict[str, Guest] = {}
        self.flows: dict[str, Flow] = {}
        self.cpu_share: NodeGroup | None = None
        """Where the VM has a share of the processors of its own (cpu_share.py)."""
        self.clients: dict[str, Place] = {"router": topology.router}
        """From where flows can come, by the names that `flow_specs` call them."""
        self.flow_specs: Sequence[FlowSpec] = FLOWS
        self.resumed: list[int] = []
        """When the VM ran again, each time that it moved."""
        self._tell = tell
        self._home = ""
        self._numbers = itertools.count(1)

    @property
    def nic(self) -> Nic:
        """The VM's first interface."""
        return self.spec.nics[0]

    @property
    def addresses(self) -> Mapping[Family, str]:
        """The VM's address in each family."""
        return {6 if ":" in address else 4: address for address in self.nic.addresses}

    @property
    def ports(self) -> str:
        """Its interfaces on the nodes; all that begin so, where there is a "*" at the end."""
        return self.nic.tap

    @property
    def home(self) -> str:
        """The node on which the VM runs, also while another one's QEMU waits for it."""
        return self._home

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Add taps to the nodes, let routes be carried; all that started here ends with it."""
        watches: list[asyncio.Task[None]] = []
        try:
            self.add_taps()
            names = self.topology.places
            watches = [asyncio.create_task(self._watch_routes(name)) for name in names]
            watches.append(asyncio.create_task(self._watch_flows()))
            async with self.carried(self.topology.carrier):
                try:
                    yield
                finally:
                    await self._end_all()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def carried(self, carrier: Carrier) -> AsyncIterator[None]:
        """Let *carrier* tell all where the VM is."""
        places = self.topology.places
        directory = self.directory / f"{carrier}-{next(self._numbers)}"
        directory.mkdir()
        mesh = Mesh(self.topology.mesh, places, self.topology.shape)
        async with CARRIERS[carrier](mesh, directory):
            yield

    def add_taps(self) -> None:
        """Lay a tap on each node."""
        for node in self.topology.nodes.values():
            tap.add(node, self.nic.tap)

    def queue(self, packets: int) -> None:
        """Let so many packets wait for the VM in its taps, as long as it is open."""
        for node in self.topology.nodes.values():
            tap.queue(node, self.nic.tap, packets)

    def qemu_place(self, node: str) -> Place:
        """Tell where on *node* a QEMU finds its tap."""
        return self.topology.nodes[node]

    def node_nic(self, node: str) -> Nic:
        """Tell by which interface *node* itself reaches the VM."""
        assert node in self.topology.nodes
        return self.nic

    async def boot(self, node: str) -> None:
        """Boot the VM on *node*."""
        self._tell(facts.Guest(time.time_ns(), node, "boots"))
        self._home = node
        guest = await self._start(node, incoming=False)
        await guest.ready()
        self._tell(facts.Guest(time.time_ns(), node, "runs"))

    async def start_flows(self) -> None:
        """Begin all flows, after ending those of before, and wait until each is answered."""
        await self.stop_flows()
        for spec in self.flow_specs:
            path = self.directory / f"flow-{next(self._numbers)}"
            place, address = self.clients[spec.place], self.addresses[spec.family]
            self.flows[spec.name] = Flow.start(place, spec.kind, address, spec.interval_ms, path)
        for flow in self.flows.values():
            await flow.answered()

    async def stop_flows(self) -> dict[str, Recording]:
        """End all flows and return what they recorded."""
        recordings = await asyncio.gather(*(flow.stop() for flow in self.flows.values()))
        ended = dict(zip(self.flows, recordings, strict=True))
        self.flows.clear()
        return ended

    async def answered(self) -> None:
        """Wait until each flow has had an answer some time after now."""
        settled = time.time_ns() + SETTLED_NS
        for flow in self.flows.values():
            await flow.answered(settled)

    async def start_target(self, node: str) -> Guest:
        """Start the empty QEMU on *node* into which the VM can move."""
        guest = await self._start(node, incoming=True)
        self._tell(facts.Guest(time.time_ns(), node, "awaited"))
        return guest

    async def move(self, source: str, target: str, limits: Limits = SHORT_PAUSE) -> Switchover:
        """Let QEMU move the VM; the target's QEMU waits already, the source's stays, paused.

        Raises:
            GuestError: QEMU could not; the VM runs on at the source.
        """
        channel = self.directory / f"migration-{next(self._numbers)}"
        try:
            switchover = await migration.migrate(
                self.guests[source], self.guests[target], channel, limits
            )
        except GuestError:
            self._tell(facts.Note(time.time_ns(), "QEMU could not move the VM"))
            raise
        self._home = target
        self.resumed.append(switchover.resumed_ns)
        self._tell(facts.Guest(switchover.stopped_ns, source, "paused"))
        self._tell(facts.Guest(switchover.resumed_ns, target, "runs"))
        return switchover

    async def end(self, node: str) -> None:
        """End the QEMU on *node*, whatever it does."""
        guest = self.guests.pop(node, None)
        if len(self.guests) == 1:
            # A guest that failed after its switchover runs on where it came from.
            (self._home,) = self.guests
        if guest:
            await guest.end()
            self._tell(facts.Guest(time.time_ns(), node, ""))

    def lead(self, node: str) -> bool:
        """Lead the router to the VM on *node*, if no speaker does that; whether that was so."""
        if self.topology.carrier in {"bird", "frr"}:
            return False
        (there,) = (one for one in self.topology.mesh if one.name == node)
        ways = {4: there.address4, 6: there.address6}
        for family, address in self.addresses.items():
            words = ("ip", "route", "replace", address, "via", ways[family], "proto", "static")
            subprocess.run(self.topology.router.command(*words), check=True)
        return True

    async def move_by_hand(self, source: str, target: str, delay_ms: int) -> Move:
        """Move the VM and, *delay_ms* after its first RARP, its routes: all without Handover."""
        nodes, began = self.topology.nodes, time.time_ns()
        await self.start_target(target)
        elevated = str(carriers.elevated(self.topology.carrier))
        by_hand = await ManualCutover.wait(nodes[target], self.node_nic(target), delay_ms, elevated)
        try:
            switchover = await self.move(source, target)
            cutover = await by_hand.cutover()
            if self.lead(target):
                cutover = replace(cutover, routed_ns=time.time_ns())
        finally:
            await by_hand.end()
        await self.end(source)
        await self.answered()
        ended = time.time_ns()
        # As the agent does it: no address is without a route of the target's in between.
        manual_cutover.delete_routes(nodes[source], self.node_nic(source), manual_cutover.NORMAL)
        manual_cutover.add_routes(nodes[target], self.node_nic(target), manual_cutover.NORMAL)
        manual_cutover.delete_routes(nodes[target], self.node_nic(target), elevated)
        return Move(source, target, began, switchover, ended, cutover)

    async def _start(self, node: str, *, incoming: bool) -> Guest:
        console = self.directory / f"console-{node}.log"
        place = Niced(self.qemu_place(node), LAST)
        guest = await Guest.start(place, self.spec, console, incoming=incoming)
        if self.cpu_share:
            self.cpu_share.take(guest.pid)
        self.guests[node] = guest
        return guest

    async def _watch_routes(self, name: str) -> None:
        async for route in route_watch.watch(self.topology.places[name], name, self.addresses[4]):
            self._tell(route)

    async def _watch_flows(self) -> None:
        while True:
            await asyncio.sleep(GLANCE_S)
            for name, flow in self.flows.items():
                seen = flow.recording
                seen.read()
                now = time.time_ns()
                told = facts.traffic(name, seen.sent, seen.answered, now, CELL_NS, self.resumed)
                self._tell(told)

    async def _end_all(self) -> None:
        await self.stop_flows()
        for node in list(self.guests):
            await self.end(node)
