"""When a guest that is about to leave sent its last frame here: a small ring per source endpoint.

The kernel keeps the times; the loop looks at a few headers ten times a second and gives blocks
back. No frame costs a step of Python, and a thread opens and closes the ring.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from handover_nodeagent.sniff import capture, own_frames, ring
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown
from handover_nodeagent.sniff.ring import NoRing, Ring

Opened = Ring | NoRing


class LastFrameRecorder:
    """Records from its making on, until ``close``."""

    def __init__(self, ifindex: int, mac: str | None) -> None:
        """Open on the running loop; what the thread finds comes a few milliseconds later."""
        self._mac = mac
        self._loop = asyncio.get_running_loop()
        self._ring: Ring | None = None
        self._unknown = Unknown("the ring is still being opened")
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._share = 1
        self._last_ns = self._error_ns = self._looked_ns = 0
        # The socket is made here, for the thread may live in another network namespace.
        sock = ring.open_socket()
        if isinstance(sock, NoRing):
            self._unknown = Unknown(sock.reason)
            return
        program = own_frames.compile_filter(mac)
        make = partial(Ring.on, sock, ifindex, program, own_frames.GEOMETRY)
        capture.in_background(partial(self._open, make))

    @property
    def is_recording(self) -> bool:
        """Tell whether frames are recorded now."""
        return self._ring is not None

    def last(self) -> LastFrame | Unknown:
        """Return when the guest sent its last frame so far, or why nobody knows."""
        if self._ring is None:
            return self._unknown
        retired = self._ring.retired()
        last_ns = max(self._last_ns, *(block.last_ns for block in retired), 0)
        being_filled = self._ring.open_block(retired)
        error_ns = self._error_ns
        if being_filled is None:
            # What came since then found no block, and nobody knows how long that was so.
            error_ns = max(error_ns, time.time_ns() - last_ns)
        else:
            times = (frame.received_ns for frame in self._ring.frames(being_filled))
            last_ns = max(last_ns, *times, 0)
        return LastFrame(last_ns, error_ns) if last_ns else Unknown("the guest has sent nothing")

    def close(self) -> None:
        """Record nothing more; again, it changes nothing."""
        self._is_closed = True
        self._unknown = Unknown("nobody records it any more")
        if self._timer:
            self._timer.cancel()
        if self._ring:
            capture.in_background(self._ring.close)
            self._ring = None

    def _open(self, make: Callable[[], Opened]) -> None:
        """Open in the thread, and tell the loop, unless that has ended meanwhile."""
        opened = make()
        try:
            self._loop.call_soon_threadsafe(self._opened, opened)
        except RuntimeError:
            if isinstance(opened, Ring):
                opened.close()

    def _opened(self, opened: Opened) -> None:
        if isinstance(opened, NoRing):
            self._unknown = Unknown(opened.reason)
        elif self._is_closed:
            capture.in_background(opened.close)
        else:
            self._ring = opened
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
