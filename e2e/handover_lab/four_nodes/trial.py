"""One migration under all traffic, and what each client felt of it."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.guest.migration import SHORT_PAUSE, Limits
from handover_lab.guest.vm import Move
from handover_lab.lab import Migrated
from handover_lab.network import delivery, measure
from handover_lab.network.measure import Loss, Progress, Switchover
from handover_lab.network.ping_record import DeliveryRecord
from handover_lab.network.traffic import Direction, Recording, Stream

BEFORE_NS: Final = 1_000_000_000
"""So long all of it runs before the VM moves: what a rate is compared with."""
SETTLED_NS: Final = 700_000_000
"""Until then TCP may wait to send again what the pause took: twice its least patience, 200 ms."""
AFTER_NS: Final = 2_000_000_000
"""So long a rate is taken after that."""

TUNNEL: Final = "dev handover0 "
DIRECTIONS: Final[tuple[Direction, ...]] = ("download", "upload")
NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one migration."""

    migrated: Migrated
    losses: Mapping[str, Loss]
    """By the flow of packets."""
    undelivered: Mapping[str, tuple[int, ...]]
    """By the flow of pings: when those were sent that never came to the VM, once it had stopped.

    What came there and has no answer, an emulated guest that is short of a processor has lost.
    """
    shares: Mapping[str, float]
    """By the TCP stream or session: its rate after the switch, of the one before."""
    redirected_ns: int | None
    """When the source began to send on what still came; None: it did not."""
    last_node_us: float | None
    """From the target's route to the last bystander's; None: not all have one of their own."""

    @property
    def lost(self) -> int:
        """The most that the network has lost of a flow of pings, the guest's pause included."""
        return max(map(len, self.undelivered.values()))

    @property
    def lost_after_switch(self) -> int:
        """The same of those that were sent once the guest ran again."""
        resumed = self.migrated.move.switchover.resumed_ns
        return max(sum(sent >= resumed for sent in flow) for flow in self.undelivered.values())

    @property
    def redirect_us(self) -> float | None:
        """How long after the guest ran again the source began to send on."""
        resumed = self.migrated.move.switchover.resumed_ns
        return None if self.redirected_ns is None else (self.redirected_ns - resumed) / 1e3

    def told(self) -> str:
        """Say in a few lines how it went."""
        switchover = self.migrated.move.switchover
        lost = {name: (each.lost, each.lost_after_switch) for name, each in self.losses.items()}
        network = {
            name: [round((at - switchover.stopped_ns) / 1e6, 1) for at in sent]
            for name, sent in self.undelivered.items()
        }
        shares = {name: round(share, 2) for name, share in self.shares.items()}
        cutover = self.migrated.cutover
        lines = (
            f"pause {switchover.pause_ms:.0f} ms, {cutover}",
            f"lost, lost after the switch: {lost}",
            f"of these by the network, ms after the stop: {network}",
            f"rate after the switch: {shares}",
            f"last bystander after {self.last_node_us} us, redirect after {self.redirect_us} us",
        )
        return "\n".join(lines)


async def run(
    lab: FourNodeLab, *, by_hand_s: float | None = None, limits: Limits = SHORT_PAUSE
) -> Trial:
    """Move the VM to the other side; *by_hand_s* later somebody leads all others there."""
    await lab.vm.start_flows()
    streams = await start_streams(lab)
    await asyncio.sleep(BEFORE_NS / 1e9)
    began_ns = time.time_ns()
    hand = asyncio.create_task(lab.follow_by_hand(by_hand_s)) if by_hand_s is not None else None
    target = lab.cluster.nodes[lab.away]
    try:
        with DeliveryRecord.kept(target, lab.vm.nic.tap) as record:
            migrated = await lab.migrate(lab.migration(), limits)
            if hand:
                await hand
            came = {
                spec.name: record.delivered(spec.family, lab.vm.flows[spec.name].identifier)
                for spec in lab.vm.flow_specs
                if spec.kind == "ping"
            }
    finally:
        if hand:
            hand.cancel()
        progress = {name: await each.stop() for name, each in streams.items()}
        recordings = await lab.vm.stop_flows()
    losses = {
        name: measure.loss(migrated.move.packets(each), migrated.move.switchover)
        for name, each in recordings.items()
    }
    undelivered = {
        name: lost_on_the_way(recordings[name], migrated.move, came[name]) for name in came
    }
    shares = shares_of(migrated.move.switchover, began_ns, recordings, progress)
    redirected_ns = first_redirect_ns(lab, migrated.move)
    last_us = last_node_us(lab, migrated)
    return Trial(migrated, losses, undelivered, shares, redirected_ns, last_us)


async def start_streams(lab: FourNodeLab) -> dict[str, Stream]:
    """Begin a TCP stream from outside in each direction and family."""
    streams = {}
    for (family, address), direction in itertools.product(lab.vm.addresses.items(), DIRECTIONS):
        path = lab.vm.directory / f"stream-{next(NUMBERS)}"
        place = lab.vm.clients["router"]
        streams[f"{direction} v{family}"] = Stream.start(place, direction, address, path)
    for stream in streams.values():
        await stream.flows()
    return streams


def lost_on_the_way(recording: Recording, move: Move, came: frozenset[int]) -> tuple[int, ...]:
    """Return when the pings were sent, after the stop, that have no answer and never came."""
    pings = recording.packets()
    delivered = {move.source: frozenset[int](), move.target: delivery.numbers(came, len(pings))}
    stopped_ns = move.switchover.stopped_ns
    lost = delivery.lost(pings, delivered, delivery.stays((move,)), stopped_ns)
    return tuple(sent_ns for sent_ns in lost if sent_ns < move.ended_ns)


def first_redirect_ns(lab: FourNodeLab, move: Move) -> int | None:
    """Return when the source first had a route through the tunnel to the target."""
    redirects = (
        route.at_ns
        for route in lab.routes
        if route.node == move.source
        and route.present
        and TUNNEL in route.how
        and route.at_ns >= move.switchover.stopped_ns
    )
    return next(redirects, None)


def shares_of(
    switchover: Switchover,
    began_ns: int,
    recordings: Mapping[str, Recording],
    progress: Mapping[str, tuple[Progress, ...]],
) -> dict[str, float]:
    """Compare the rate of each TCP stream and session after the switch with the one before."""
    settled = switchover.resumed_ns + SETTLED_NS
    windows = (began_ns - BEFORE_NS, began_ns), (settled, settled + AFTER_NS)
    rates = {
        name: [measure.rate(each, *window) for window in windows] for name, each in progress.items()
    }
    rates |= {
        name: [measure.answer_rate(each.packets(), *window) for window in windows]
        for name, each in recordings.items()
        if "TCP" in name
    }
    return {name: after / before if before else 0 for name, (before, after) in rates.items()}


def last_node_us(lab: FourNodeLab, migrated: Migrated) -> float | None:
    """Measure how long after the target the last bystander had a route to the VM."""
    resumed = migrated.move.switchover.resumed_ns
    first = {
        route.node: route.at_ns
        for route in reversed(lab.routes)
        if route.present and route.at_ns >= resumed and route.node in lab.vm.topology.bystanders
    }
    if migrated.cutover is None or first.keys() != lab.vm.topology.bystanders.keys():
        return None
    return (max(first.values()) - migrated.cutover.at_ns) / 1e3
