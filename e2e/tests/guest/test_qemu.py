"""Real guests that really migrate, without Kubernetes: what the network alone does and can do."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handover_lab.guest import initramfs, migration
from handover_lab.guest.migration import POSTCOPY, SHORT_PAUSE, Limits
from handover_lab.guest.qemu import Guest, GuestError, Nic, VmSpec
from handover_lab.network import manual_cutover, measure, tap
from handover_lab.network.bird import Bird
from handover_lab.network.manual_cutover import Cutover, ManualCutover
from handover_lab.network.measure import Loss, Switchover
from handover_lab.network.namespaces import Namespace, connect
from handover_lab.network.traffic import Flow, Kind

MISSING = [name for name in ("qemu-system-x86_64", "bird", "gcc") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

NIC = Nic("tapvm", "52:54:00:65:00:02", ("10.65.0.2", "fd00:65::2"))
VM = VmSpec("vm", (NIC,))
FLOWS: dict[Kind, float] = {"ping": 1, "udp": 10, "tcp": 20}
SECOND = 10**9


@dataclass
class Lab:
    """A router that is also the client, two nodes, and one VM that runs on the first of them."""

    directory: Path
    router: Namespace
    nodes: list[Namespace]
    flows: dict[str, Flow] = field(default_factory=dict)
    guests: list[Guest] = field(default_factory=list)

    @property
    def guest(self) -> Guest:
        """The QEMU that runs the VM now."""
        return self.guests[-1]

    async def start(self, node: Namespace, *, incoming: bool = False) -> Guest:
        """Start the VM's QEMU on *node*; it ends with the test."""
        console = self.directory / "console.log"
        self.guests.append(await Guest.start(node, VM, console, incoming=incoming))
        return self.guest

    async def flow(self, address: str) -> None:
        """Begin the three flows to *address* and wait until all are answered."""
        for kind, interval_ms in FLOWS.items():
            path = self.directory / kind
            self.flows[kind] = Flow.start(self.router, kind, address, interval_ms, path)
        for flow in self.flows.values():
            await flow.answered()

    async def hand_over(self, delay_ms: int, limits: Limits = SHORT_PAUSE) -> "Move":
        """Migrate the VM from the first node to the second and move its route by hand."""
        source, (_, there) = self.guest, self.nodes
        began = time.time_ns()
        hand = await ManualCutover.wait(there, NIC, delay_ms)
        target = await self.start(there, incoming=True)
        switchover = await migration.migrate(source, target, self.directory / "migration", limits)
        cutover = await hand.cutover()
        for flow in self.flows.values():
            await flow.answered(cutover.routed_ns)
        await source.end()
        await self.settle()
        return Move(began, switchover, cutover, time.time_ns())

    async def settle(self) -> None:
        """Do what comes after the cutover; the second node becomes the first."""
        here, there = self.nodes
        manual_cutover.delete_routes(here, NIC, manual_cutover.NORMAL)
        manual_cutover.add_routes(there, NIC, manual_cutover.NORMAL)
        manual_cutover.delete_routes(there, NIC, manual_cutover.ELEVATED)
        self.nodes.reverse()
        for flow in self.flows.values():
            await flow.answered(time.time_ns() + SECOND // 2)


@dataclass
class Move:
    """When one migration happened."""

    began_ns: int
    switchover: Switchover
    cutover: Cutover
    ended_ns: int

    def loss(self, flow: Flow) -> Loss:
        """What *flow* felt of it, once all its answers are there."""
        packets = flow.recording.packets()
        return measure.loss(measure.between(packets, self.began_ns, self.ended_ns), self.switchover)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The lab with its VM booted and routed; everything ends with the test."""
    initramfs.build()
    async with contextlib.AsyncExitStack() as cleanup:
        router, *nodes = (Namespace.make(name) for name in ("router", "node-a", "node-b"))
        for namespace in (router, *nodes):
            cleanup.callback(namespace.end)
        speakers = connect(router, nodes)
        birds = []
        for place, speaker in zip((router, *nodes), speakers, strict=True):
            birds.append(Bird.start(place, speaker, speakers, tmp_path))
            cleanup.callback(birds[-1].stop)
        vm = Lab(tmp_path, router, nodes)
        cleanup.push_async_callback(end_all, lambda: [g.end for g in vm.guests])
        cleanup.push_async_callback(end_all, lambda: [f.stop for f in vm.flows.values()])
        for node in nodes:
            tap.add(node, NIC.tap)
        await vm.start(nodes[0])
        await asyncio.gather(vm.guest.ready(), *(speaker.established() for speaker in birds))
        manual_cutover.add_routes(nodes[0], NIC, manual_cutover.NORMAL)
        yield vm


async def end_all(enders: Callable[[], list[Callable[[], Awaitable[object]]]]) -> None:
    """Call all that are there by now."""
    for end in enders():
        await end()


@pytest.mark.parametrize("address", NIC.addresses)
async def test_routes_that_follow_the_first_rarp_lose_next_to_nothing(
    lab: Lab, address: str
) -> None:
    await lab.flow(address)

    direct = await lab.hand_over(delay_ms=0)
    late = await lab.hand_over(delay_ms=1000)

    for flow in lab.flows.values():
        await flow.stop()
    ping, session = lab.flows["ping"], lab.flows["tcp"].recording
    fast, slow = direct.loss(ping), late.loss(ping)
    for move in (direct, late):
        assert move.switchover.stopped_ns < move.switchover.resumed_ns < move.cutover.heard_ns
        assert measure.survived(
            session.packets(), broken=session.broken, resumed_ns=move.switchover.resumed_ns
        )
    assert fast.outage_ms is not None
    assert slow.outage_ms is not None
    assert fast.outage_ms < slow.outage_ms
    assert fast.lost_after_switch < slow.lost_after_switch
    assert direct.loss(lab.flows["udp"]).lost < late.loss(lab.flows["udp"]).lost


async def test_after_post_copy_the_network_follows_the_same_rarp(lab: Lab) -> None:
    await lab.flow("10.65.0.2")

    move = await lab.hand_over(delay_ms=0, limits=POSTCOPY)

    assert "MIGRATION:postcopy-active" in {event.key for event in lab.guests[0].events}
    assert move.switchover.resumed_ns < move.cutover.heard_ns
    assert not (await lab.flows["tcp"].stop()).broken


async def test_a_cancelled_migration_announces_nothing_and_the_guest_runs_on(lab: Lab) -> None:
    await lab.flow("10.65.0.2")
    here, there = lab.nodes
    source = lab.guest
    hand = await ManualCutover.wait(there, NIC)
    target = await lab.start(there, incoming=True)
    slow = Limits(bytes_per_second=migration.CRAWL)
    running = asyncio.create_task(
        migration.migrate(source, target, lab.directory / "migration", slow)
    )
    await source.expect("MIGRATION:active")
    await source.expect("RESUME")

    await migration.cancel(source)

    with pytest.raises(GuestError, match=r"ended as (cancelled|failed)"):
        await running
    for flow in lab.flows.values():
        await flow.answered(time.time_ns())
    await hand.end()
    assert there.run("ip route show proto 88") == ""
    assert here.run("ip route show proto 88") != ""
    assert not (await lab.flows["tcp"].stop()).broken


async def test_a_target_that_dies_leaves_the_guest_at_its_source(lab: Lab) -> None:
    await lab.flow("10.65.0.2")
    source = lab.guest
    target = await lab.start(lab.nodes[1], incoming=True)
    slow = Limits(bytes_per_second=migration.CRAWL)
    running = asyncio.create_task(
        migration.migrate(source, target, lab.directory / "migration", slow)
    )
    await source.expect("RESUME")

    await target.end()

    with pytest.raises(GuestError):
        await running
    await lab.flows["tcp"].answered(time.time_ns())
    assert not (await lab.flows["tcp"].stop()).broken


async def test_a_qemu_that_cannot_start_says_why(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"did not start(.|\n)*tapvm.*busy"):
        await Guest.start(lab.nodes[0], VM, tmp_path / "second.log")


async def test_a_guest_that_dies_ends_every_wait(lab: Lab) -> None:
    waiting = asyncio.create_task(lab.guest.expect("STOP"))
    await asyncio.sleep(0)

    await lab.guest.end()

    with pytest.raises(GuestError, match=r"QEMU has ended\. Last lines(.|\n)*guest: ready"):
        await waiting
