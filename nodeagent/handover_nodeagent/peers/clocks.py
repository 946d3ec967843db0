"""PURE: how far a peer's realtime clock is ahead of ours, and how wrong that may be.

Four times of a HELLO and its answer tell it, as in NTP (RFC 5905 section 8): sent and received
here, received and sent there. The true offset is within half of the time that was spent on the
way, whatever part of it was spent in which direction.
"""

from collections import deque
from typing import Final, NamedTuple

DRIFT: Final = 100e-6
"""How fast two clocks may part: quartz is some 50 ppm off, and so is what NTP slews by."""
KEPT: Final = 8
"""Samples that are compared; of many on a busy way, one or two did not wait in a queue."""


class Offset(NamedTuple):
    """``ahead_ns``: the peer's clock less ours; ``error_ns``: the truth is that near."""

    ahead_ns: int
    error_ns: int


class Exchange(NamedTuple):
    """The times of a HELLO and its answer; ours are by our clock, theirs by the peer's."""

    sent_ns: int
    their_received_ns: int
    their_sent_ns: int
    received_ns: int

    @property
    def round_trip_ns(self) -> int:
        """How long both messages were under way; what the peer took between them is none of it."""
        return (self.received_ns - self.sent_ns) - (self.their_sent_ns - self.their_received_ns)


class Clock:
    """What is known of one peer's clock."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[int, Offset]] = deque(maxlen=KEPT)

    def learn(self, exchange: Exchange) -> None:
        """Take an exchange in; what it proves wrong of the earlier ones is forgotten."""
        round_trip = exchange.round_trip_ns
        # A clock was set between its two times, or the peer tells nonsense.
        if round_trip < 0:
            return
        outward = exchange.their_received_ns - exchange.sent_ns
        homeward = exchange.received_ns - exchange.their_sent_ns
        # Both are "way plus offset" and "way less offset": halved, rounded up to be no promise.
        sample = Offset((outward - homeward) // 2, round_trip // 2 + 1)
        known = self.offset(exchange.received_ns)
        if known and abs(known.ahead_ns - sample.ahead_ns) > known.error_ns + sample.error_ns:
            # Both cannot be true: a clock was set since.
            self._samples.clear()
        self._samples.append((exchange.received_ns, sample))

    def offset(self, now_ns: int) -> Offset | None:
        """Return the best that is known; None before any answer."""
        aged = (
            Offset(offset.ahead_ns, offset.error_ns + int(abs(now_ns - at) * DRIFT))
            for at, offset in self._samples
        )
        return min(aged, key=lambda offset: offset.error_ns, default=None)
