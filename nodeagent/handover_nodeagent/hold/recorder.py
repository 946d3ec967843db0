"""What goes into one guest's port, held in a ring for as long as it may not have been taken.

The kernel copies; the loop looks at the headers of blocks, some fifty times a second, and gives
back what the guest has, what is too old, and what is too much. No packet costs a step of Python
before it is sent again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from handover_api.workloadendpoint import HoldReason
from handover_nodeagent.hold import bounds, packet_filter
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.sniff.background_ring import BackgroundRing, Opened
from handover_nodeagent.sniff.ring import Octets, Ring, Socket
from handover_nodeagent.sniff.ring_blocks import Frame


class Position(NamedTuple):
    """Up to where a ring was read: a block's sequence number, and how many frames of it."""

    sequence: int = -1
    frames: int = 0


class Held(NamedTuple):
    """One frame of a ring, which is there until the next ``release_until``, and what is behind."""

    frame: Frame
    behind: Position


class _Dropped(NamedTuple):
    """Packets of a block that went past a bound, the last of them at ``last_ns``."""

    last_ns: int
    packets: int


class HoldRecorder:
    """Holds from its making on, until ``close``.

    ``taken_until`` tells until when the guest has taken all, in realtime ns; 0: nobody knows.
    """

    def __init__(
        self,
        ifindex: int,
        addresses: tuple[IPAddress, ...],
        blocks: int,
        taken_until: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """Open on the running loop; call *changed* when it holds, and when it no longer can."""
        self.blocks = blocks
        self.is_thinned = False
        """What is too large for a link is left out, as too much of it came."""
        self._has_overflowed = False
        self._addresses = addresses
        self._taken_until = taken_until
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        # What is told of a guest that is never heard need not be exact beyond that.
        self._dropped: deque[_Dropped] = deque(maxlen=8 * bounds.NODE_BLOCKS)
        self._looked_at = self._loop.time()
        self._kept = 0
        program, geometry = packet_filter.compile_filter(addresses), bounds.geometry(blocks)

        def make(sock: Socket) -> Opened:
            return Ring.on(sock, ifindex, program, geometry, is_inbound=False, has_virtio=True)

        self._opened = BackgroundRing(make, self._begin)

    @property
    def is_holding(self) -> bool:
        """Tell whether packets are held now."""
        return self._opened.ring is not None

    @property
    def trouble(self) -> tuple[HoldReason, str] | None:
        """Why nothing is held; None also before it is known."""
        if self._has_overflowed:
            return HoldReason.TOO_MUCH, "more is sent to the guest than could be held"
        if self._opened.is_refused:
            return HoldReason.NO_RING, f"what a paused guest misses is lost: {self._opened.reason}"
        return None

    def frames(self, behind: Position) -> Iterator[Held]:
        """Return all frames after that position, oldest first, those of this moment too."""
        ring = self._opened.ring
        if ring is None:
            return
        retired = ring.retired()
        being_filled = ring.open_block(retired)
        for block in (*retired, being_filled) if being_filled else retired:
            if block.sequence < behind.sequence:
                continue
            seen = behind.frames if block.sequence == behind.sequence else 0
            for number, frame in enumerate(ring.frames(block)):
                if number >= seen:
                    yield Held(frame, Position(block.sequence, number + 1))

    def newest(self) -> tuple[int, int]:
        """Return what is another pair once another packet was held."""
        ring = self._opened.ring
        if ring is None:
            return 0, 0
        retired = ring.retired()
        newest = ring.open_block(retired) or retired[-1]
        return newest.sequence, newest.packets

    def dropped_since(self, since_ns: int) -> int:
        """Return how many packets went past a bound since then; more, where blocks tell no more."""
        return sum(one.packets for one in self._dropped if one.last_ns >= since_ns)

    def pause_looking(self) -> None:
        """Give nothing back by itself from now on: somebody sends what is held."""
        self._is_paused = True
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def look_again(self) -> None:
        """Give back again what nobody needs."""
        ring, self._is_paused = self._opened.ring, False
        if ring and self._timer is None:
            self._timer = self._loop.call_later(bounds.FASTEST_LOOK, self._look, ring)

    def release_until(self, behind: Position) -> None:
        """Give back all blocks before that position."""
        ring = self._opened.ring
        if ring:
            ring.release(sum(block.sequence < behind.sequence for block in ring.retired()))

    def count_since(self, since_ns: int) -> int:
        """Return how many packets are held since then; more, where blocks tell no more."""
        ring = self._opened.ring
        if ring is None:
            return 0
        retired = ring.retired()
        being_filled = ring.open_block(retired)
        count = sum(block.packets for block in retired if block.last_ns >= since_ns)
        return count + (being_filled.packets if being_filled else 0)

    def lost_packets(self) -> int:
        """Return for how many the kernel found no room since this was asked last."""
        ring = self._opened.ring
        return ring.losses().packets if ring else 0

    def send(self, virtio: Octets, frame: Octets) -> int:
        """Send a frame of ours out of the port; return an errno, 0 for none."""
        ring = self._opened.ring
        return ring.send(virtio, frame) if ring else 0

    def close(self) -> None:
        """Hold nothing more, and forget what was held; again, it changes nothing."""
        self.pause_looking()
        self._opened.close()

    def _begin(self) -> None:
        if self._opened.ring and not self._is_paused:
            self._timer = self._loop.call_later(bounds.SLOWEST_LOOK, self._look, self._opened.ring)
        self._changed()

    def _yields(self, ring: Ring) -> bool:
        """Hold less than before, as the loop could not keep up; at last nothing: False."""
        if self.is_thinned:
            self._has_overflowed = True
            self.close()
        else:
            self.is_thinned = True
            smaller = packet_filter.compile_filter(self._addresses, packet_filter.LARGEST)
            ring.filter(smaller)
        self._changed()
        return not self._has_overflowed

    def _look(self, ring: Ring) -> None:
        """Give back what nobody needs, and end where the kernel could not keep up."""
        has_lost = ring.losses().packets > 0
        if has_lost and not self._yields(ring):
            return
        self._timer = None
        retired, taken_until_ns = ring.retired(), self._taken_until()
        if self._is_paused:
            return
        needed_ns = taken_until_ns - bounds.TRAIN_NS
        decided = bounds.release(retired, needed_ns, time.time_ns(), self.blocks)
        gone = retired[decided.taken : decided.taken + decided.dropped]
        self._dropped.extend(_Dropped(block.last_ns, block.packets) for block in gone)
        while self._dropped and self._dropped[0].last_ns < taken_until_ns:
            self._dropped.popleft()
        come = len(retired) - self._kept
        self._kept = len(retired) - decided.taken - decided.dropped
        ring.release(decided.taken + decided.dropped)
        if has_lost:
            # What found no room until now says nothing of what is held from now on.
            ring.losses()
        now = self._loop.time()
        delay = bounds.until_next_look(come, self.blocks, now - self._looked_at)
        self._looked_at = now
        self._timer = self._loop.call_later(delay, self._look, ring)
