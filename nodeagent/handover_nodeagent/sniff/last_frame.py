"""When a guest that is about to leave sent its last frame here: a small ring per source endpoint.

The kernel keeps the times; the loop looks at a few headers ten times a second and gives blocks
back. No frame costs a step of Python, and a thread opens and closes the ring.
"""

import asyncio
import time

from handover_nodeagent.sniff import own_frames
from handover_nodeagent.sniff.background_ring import BackgroundRing, Opened
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown
from handover_nodeagent.sniff.ring import Ring, Socket


class LastFrameRecorder:
    """Records from its making on, until ``close``."""

    def __init__(self, ifindex: int, mac: str | None) -> None:
        """Open on the running loop; what the thread finds comes a few milliseconds later."""
        self._mac = mac
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._share = 1
        self._last_ns = self._error_ns = self._looked_ns = 0
        program = own_frames.compile_filter(mac)

        def make(sock: Socket) -> Opened:
            return Ring.on(sock, ifindex, program, own_frames.GEOMETRY)

        self._opened = BackgroundRing(make, self._begin)

    @property
    def is_recording(self) -> bool:
        """Tell whether frames are recorded now."""
        return self._opened.ring is not None

    def last(self) -> LastFrame | Unknown:
        """Return when the guest sent its last frame so far, or why nobody knows."""
        opened = self._opened.ring
        if opened is None:
            return Unknown(self._opened.reason)
        retired = opened.retired()
        last_ns = max(self._last_ns, *(block.last_ns for block in retired), 0)
        being_filled = opened.open_block(retired)
        error_ns = self._error_ns
        if being_filled is None:
            # What came since then found no block, and nobody knows how long that was so.
            error_ns = max(error_ns, time.time_ns() - last_ns)
        else:
            times = (frame.received_ns for frame in opened.frames(being_filled))
            last_ns = max(last_ns, *times, 0)
        return LastFrame(last_ns, error_ns) if last_ns else Unknown("the guest has sent nothing")

    def close(self) -> None:
        """Record nothing more; again, it changes nothing."""
        if self._timer:
            self._timer.cancel()
        self._opened.close()

    def _begin(self) -> None:
        opened = self._opened.ring
        if opened:
            self._looked_ns = time.time_ns()
            self._timer = self._loop.call_later(own_frames.LOOK, self._look, opened)

    def _look(self, opened: Ring) -> None:
        """Keep the time of the last frame, give the blocks back, and thin what is too much."""
        self._timer = self._loop.call_later(own_frames.LOOK, self._look, opened)
        retired = opened.retired()
        is_full = len(retired) == own_frames.GEOMETRY.blocks
        kept = sum(block.packets for block in retired)
        self._last_ns = max(self._last_ns, *(block.last_ns for block in retired), 0)
        opened.release(len(retired))
        share = own_frames.share_after(self._share, kept, is_full=is_full)
        if share != self._share:
            opened.filter(own_frames.compile_filter(self._mac, share))
        elapsed, self._looked_ns = time.time_ns() - self._looked_ns, time.time_ns()
        # As many are to be kept of the next ones as the new share makes of those that were sent.
        expected = kept * self._share * (own_frames.SURGE if is_full else 1) // share
        self._error_ns = own_frames.spacing_ns(share, expected, elapsed)
        self._share = share
