"""PURE: from packets and the instants of a switchover to the figures that people ask for.

All times are nanoseconds since the epoch by one machine's clock: packets by the kernel's time
stamps, STOP and RESUME by QEMU's.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple


class Packet(NamedTuple):
    """One packet of a flow and its answer, if there was one."""

    sent_ns: int
    answered_ns: int | None
    is_doubled: bool = False
    """Answered more than once: it came to the guest twice."""


class Progress(NamedTuple):
    """How far a stream had come at one moment."""

    at_ns: int
    total: int


@dataclass(frozen=True, slots=True)
class Switchover:
    """When the guest stopped on the source and resumed on the target."""

    began_ns: int
    stopped_ns: int
    resumed_ns: int

    @property
    def pause_ms(self) -> float:
        """How long the guest ran nowhere: no network can be better than that."""
        return (self.resumed_ns - self.stopped_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Loss:
    """What one flow felt of one switchover."""

    sent: int
    lost: int
    """Never answered, of those that were on their way at STOP or sent later."""
    lost_after_switch: int
    """Those of them that were sent when the guest ran again."""
    outage_ms: float | None
    """The longest silence that ends after STOP, from one answer to the next one; None: it never
    ended. Usually from the last answer before STOP to the first one after RESUME, but a ping that
    waited in the guest's own queue is answered at once, also where the network comes much later.
    """


IN_FLIGHT_NS: Final = 50_000_000
"""So long a ping is on its way at most, also where the guest is emulated on a busy machine. One
that was sent longer before STOP was lost to something else than the switchover.
"""


def loss(packets: Sequence[Packet], switchover: Switchover) -> Loss:
    """Sum up *packets*, those of one migration and no other's."""
    since = switchover.stopped_ns - IN_FLIGHT_NS
    unanswered = [p for p in packets if p.answered_ns is None and p.sent_ns >= since]
    late = sum(packet.sent_ns >= switchover.resumed_ns for packet in unanswered)
    return Loss(len(packets), len(unanswered), late, outage_ms(packets, switchover))


def outage_ms(packets: Iterable[Packet], switchover: Switchover) -> float | None:
    """Measure the longest silence around or after the switchover."""
    arrivals = sorted(p.answered_ns for p in packets if p.answered_ns is not None)
    if not arrivals or arrivals[-1] < switchover.resumed_ns:
        return None
    silences = [
        later - earlier for earlier, later in pairwise(arrivals) if later > switchover.stopped_ns
    ]
    return max(silences, default=0) / 1e6


def late(packets: Iterable[Packet], resumed_ns: int) -> tuple[Packet, ...]:
    """Return those that were sent before the guest ran again, and answered after that.

    What had no answer is lost, and never late.
    """
    return tuple(
        packet
        for packet in packets
        if packet.answered_ns is not None and packet.sent_ns < resumed_ns <= packet.answered_ns
    )


def silence_at(packets: Iterable[Packet], moment_ns: int) -> float | None:
    """Measure the silence that the moment is in; None: it has no begin or no end."""
    arrivals = sorted(p.answered_ns for p in packets if p.answered_ns is not None)
    behind = bisect.bisect_right(arrivals, moment_ns)
    if not 0 < behind < len(arrivals):
        return None
    return (arrivals[behind] - arrivals[behind - 1]) / 1e6


def between(packets: Iterable[Packet], start_ns: int, end_ns: int) -> tuple[Packet, ...]:
    """Return the packets that were sent from *start_ns* on and before *end_ns*."""
    return tuple(packet for packet in packets if start_ns <= packet.sent_ns < end_ns)


def survived(session: Iterable[Packet], *, broken: bool, resumed_ns: int) -> bool:
    """Whether a TCP session lived on: unbroken, and a later request was answered."""
    return not broken and any(
        packet.answered_ns is not None and packet.sent_ns >= resumed_ns for packet in session
    )


def rate(progress: Sequence[Progress], start_ns: int, end_ns: int) -> float:
    """Return how many bytes per second got through from *start_ns* to *end_ns*."""
    return (_total_at(progress, end_ns) - _total_at(progress, start_ns)) * 1e9 / (end_ns - start_ns)


def answer_rate(packets: Iterable[Packet], start_ns: int, end_ns: int) -> float:
    """Return how many answers per second came from *start_ns* to *end_ns*."""
    arrivals = (packet.answered_ns for packet in packets)
    found = sum(at_ns is not None and start_ns <= at_ns < end_ns for at_ns in arrivals)
    return found * 1e9 / (end_ns - start_ns)


def _total_at(progress: Sequence[Progress], at_ns: int) -> int:
    behind = bisect.bisect_right(progress, at_ns, key=lambda each: each.at_ns)
    return progress[behind - 1].total if behind else 0
