"""Sends again what is held, oldest first, and what still comes to the port for a moment.

A few at once and the others paced (``pacing``), in turns of the loop, so that other guests and
messages have theirs.
"""

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from handover_api.workloadendpoint import HoldReason
from handover_nodeagent.hold import bounds, pacing, segments, senders
from handover_nodeagent.hold.recorder import Held, HoldRecorder, Position
from handover_nodeagent.hold.segments import Fragment, Unsendable
from handover_nodeagent.hold.senders import Buffers, Sender

PER_TURN: Final = 64
"""Packets without a turn for others: less than a millisecond."""
LONGEST: Final = 64
"""Fragments by which a turn may be longer, so that it ends with whole packets: 64 KiB are fewer, of
1280 octets each."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which packets are to be sent, by when they went into the port, in realtime ns.

    Of those until ``doubtful_until_ns`` the guest may have had each. The first ``spared`` are left
    out. ``until_ns`` None: all that comes until nothing more does.
    """

    since_ns: int
    doubtful_until_ns: int
    spared: int = 0
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the packets that were held."""

    held: int = 0
    resent: int = 0
    doubled: int = 0
    dropped: int = 0
    reason: HoldReason | None = None


class Resend:
    """One guest's packets on their way; begins at once, and calls *done* at its end.

    ``counts``: what has become of them by now. ``recorder`` gives nothing back by itself meanwhile.
    """

    def __init__(
        self,
        recorder: HoldRecorder,
        sender: Sender,
        span: Span,
        done: Callable[[Counts], None],
    ) -> None:
        self.recorder = recorder
        self._sender = sender
        self._span = span
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + pacing.LINGER
        self._gives_up_at = self._loop.time() + pacing.LAST
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._delay = pacing.TURN
        self._position = Position()
        self._frames: Iterator[Held] = iter(())
        # What is left of one frame, and whether some of it was refused.
        self._rest: deque[Buffers] = deque()
        self._is_refused = False
        self._is_doubtful = False
        # Packets in fragments of which the last one is not sent so far.
        self._begun: set[bytes] = set()
        self._spared = span.spared
        recorder.pause_looking()
        waiting = recorder.count_since(span.since_ns)
        self._rate = pacing.rate(waiting, time.time_ns() - span.since_ns)
        self._credit = float(pacing.FIRST)
        lost = recorder.dropped_since(span.since_ns)
        self.counts = Counts(held=lost, dropped=lost)
        if lost or recorder.is_thinned:
            self._note(HoldReason.TOO_MUCH)
        self._turn()

    def end(self) -> None:
        """Send nothing more, and forget what is left; again, it changes nothing."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        left = bool(self._rest) + self._count_waiting()
        lost = self.recorder.lost_packets()
        counts = self.counts
        self.counts = dataclasses.replace(
            counts,
            # What is left of one frame was counted when that was begun.
            held=counts.held + left - bool(self._rest) + lost,
            dropped=counts.dropped + left + lost,
        )
        if left or lost:
            self._note(HoldReason.TOO_MUCH)
        self._rest.clear()
        self._frames = iter(())
        self._sender.close()
        self._done(self.counts)

    def _turn(self) -> None:
        """Send what its turn allows, then let others have theirs."""
        sent = 0
        # A packet in fragments goes as one: too much of others in between ends the patience of whom
        # they are for (net.ipv4.ipfrag_max_dist). Those of two may be mixed.
        while sent < PER_TURN + (LONGEST if self._begun else 0):
            is_due = self._credit >= 1 or self._begun
            if not self._rest and not (is_due and self._begin_frame()):
                break
            number = self._sender.send(self._rest[0])
            if number in senders.AGAIN:
                break
            self._rest.popleft()
            self._is_refused |= number != 0
            sent += 1
            if not self._rest:
                self._end_frame()
        if sent >= PER_TURN + LONGEST:
            # The last one of some did not come; what is whole need not wait for it.
            self._begun.clear()
        self.recorder.release_until(self._position)
        self._wait(sent)

    def _wait(self, sent: int) -> None:
        """Have the next turn when it is due; end where nothing more comes."""
        is_idle = sent == 0 and not self._rest and self._credit >= 1
        now = self._loop.time()
        is_over = is_idle and (now >= self._ends_at or self._span.until_ns is not None)
        # A queue that stays full would keep guests' traffic in memory for as long as it does.
        if is_over or now >= self._gives_up_at:
            self._timer = self._loop.call_soon(self.end)
            return
        if sent >= PER_TURN:
            self._timer = self._loop.call_soon(self._turn)
            return
        # What still comes is little: it is looked for ever more seldom.
        self._delay = min(2 * self._delay, pacing.LINGER / 4) if is_idle else pacing.TURN
        self._credit = min(pacing.FIRST, self._credit + self._rate * self._delay)
        self._timer = self._loop.call_later(self._delay, self._turn)

    def _begin_frame(self) -> bool:
        """Take up the next frame that is to be sent; False when there is none now."""
        while held := self._next_wanted():
            self._is_doubtful = held.frame.received_ns <= self._span.doubtful_until_ns
            found = self._sender.split(held.frame)
            self.counts = dataclasses.replace(self.counts, held=self.counts.held + 1)
            if not isinstance(found, Unsendable):
                self._rest.extend(found)
                self._credit -= pacing.cost(len(found))
                self._note_fragment(segments.fragment(held.frame.octets))
                return True
            self._is_refused = True
            self._end_frame()
        return False

    def _note_fragment(self, fragment: Fragment | None) -> None:
        """Know of which packets more is to come."""
        if fragment and fragment.has_more:
            self._begun.add(fragment.packet)
        elif fragment:
            self._begun.discard(fragment.packet)

    def _next_wanted(self) -> Held | None:
        """Go on with the next frame of the span; None when there is none now."""
        while held := self._next_held():
            received_ns, since_ns = held.frame.received_ns, self._span.since_ns
            # A node that tracks connections wants all fragments of a packet, also those that were
            # taken before the others came.
            if received_ns < since_ns and not (
                received_ns >= since_ns - bounds.TRAIN_NS and segments.fragment(held.frame.octets)
            ):
                continue
            if self._span.until_ns is not None and received_ns > self._span.until_ns:
                return None
            if not self._spared:
                return held
            self._spared -= 1
        return None

    def _next_held(self) -> Held | None:
        """Go on with the frames that are known, and then with those that have come since."""
        held = next(self._frames, None)
        if held is None:
            self._frames = self.recorder.frames(self._position)
            held = next(self._frames, None)
        if held:
            self._position = held.behind
        return held

    def _count_waiting(self) -> int:
        count = 0
        while self._next_wanted():
            count += 1
        return count

    def _end_frame(self) -> None:
        counts = self.counts
        if self._is_refused:
            self.counts = dataclasses.replace(counts, dropped=counts.dropped + 1)
            self._note(HoldReason.REFUSED)
        else:
            doubled = counts.doubled + self._is_doubtful
            self.counts = dataclasses.replace(counts, resent=counts.resent + 1, doubled=doubled)
        self._is_refused = False

    def _note(self, reason: HoldReason) -> None:
        """Keep the first reason for which something was lost."""
        if self.counts.reason is None:
            self.counts = dataclasses.replace(self.counts, reason=reason)
