"""One migration under all traffic, and what each client felt of it."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.guest.migration import SHORT_PAUSE, Limits
from handover_lab.lab import Migrated
from handover_lab.network import measure
from handover_lab.network.measure import Loss, Progress
from handover_lab.network.traffic import Direction, Recording, Stream

BEFORE_NS: Final = 1_000_000_000
"""So long all of it runs before the VM moves: what a rate is compared with."""
AFTER_NS: Final = 2_000_000_000
"""So long after the guest runs again: as late as routes are moved by hand."""

DIRECTIONS: Final[tuple[Direction, ...]] = ("download", "upload")
NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one migration."""

    migrated: Migrated
    losses: Mapping[str, Loss]
    """By the flow of packets."""
    shares: Mapping[str, float]
    """By the TCP stream or session: its rate after the switch, of the one before."""

    @property
    def lost_after_switch(self) -> int:
        """The most that a flow of pings lost once the guest ran again."""
        return max(
            loss.lost_after_switch for name, loss in self.losses.items() if "TCP" not in name
        )

    def lines(self) -> list[str]:
        """Say in a few lines how it went."""
        switchover = self.migrated.move.switchover
        lost = {name: (each.lost, each.lost_after_switch) for name, each in self.losses.items()}
        shares = {name: round(share, 2) for name, share in self.shares.items()}
        cutover = self.migrated.cutover
        return [
            f"pause {switchover.pause_ms:.0f} ms, {cutover}",
            f"lost, lost after the switch: {lost}",
            f"rate after the switch: {shares}",
        ]


async def run(
    lab: FourNodeLab, *, by_hand_s: float | None = None, limits: Limits = SHORT_PAUSE
) -> Trial:
    """Move the VM to the other side; *by_hand_s* later somebody leads all others there."""
    await lab.vm.start_flows()
    streams = await start_streams(lab)
    await asyncio.sleep(BEFORE_NS / 1e9)
    began_ns = time.time_ns()
    hand = asyncio.create_task(lab.follow_by_hand(by_hand_s)) if by_hand_s is not None else None
    try:
        migrated = await lab.migrate(lab.migration(), limits)
        if hand:
            await hand
    finally:
        if hand:
            hand.cancel()
        progress = {name: await each.stop() for name, each in streams.items()}
        recordings = await lab.vm.stop_flows()
    return felt(migrated, began_ns, recordings, progress)


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


def felt(
    migrated: Migrated,
    began_ns: int,
    recordings: Mapping[str, Recording],
    progress: Mapping[str, tuple[Progress, ...]],
) -> Trial:
    """Sum up what was recorded."""
    resumed = migrated.move.switchover.resumed_ns
    windows = (began_ns - BEFORE_NS, began_ns), (resumed, resumed + AFTER_NS)
    rates = {
        name: [measure.rate(each, *window) for window in windows] for name, each in progress.items()
    }
    rates |= {
        name: [measure.answer_rate(each.packets(), *window) for window in windows]
        for name, each in recordings.items()
        if "TCP" in name
    }
    return Trial(
        migrated,
        {
            name: measure.loss(migrated.move.packets(each), migrated.move.switchover)
            for name, each in recordings.items()
        },
        {name: after / before if before else 0 for name, (before, after) in rates.items()},
    )
