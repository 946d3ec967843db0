"""PURE: which pings the network has lost, in all: those of the guest's pause, too.

Each node notes which pings it has passed to the guest's port. What came to the guest where it ran
and has no answer, the guest has lost: an emulated one that is short of a processor lets its port
overflow, and cannot send all of a burst. What came to a port shortly before the guest stopped may
still lie there, and nobody takes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import inf
from typing import Final, NamedTuple, Protocol

from handover_lab.network.measure import IN_FLIGHT_NS, Packet, Switchover

WRAP: Final = 1 << 16
"""A sequence number of ICMP is a ping's number modulo this."""

AHEAD: Final = 1_000
"""So many pings may have come of which nobody knows yet that they were sent."""

HELD_NS: Final = 1_000_000_000
"""So long before a move a ping may have been sent which then comes to the guest's next node."""

Delivered = Mapping[str, AbstractSet[int]]
"""By node the numbers of one flow's pings that came to the guest's port there."""


class Moved(Protocol):
    """A move of the guest."""

    @property
    def source(self) -> str:
        """From which node."""
        ...

    @property
    def target(self) -> str:
        """To which one."""
        ...

    @property
    def switchover(self) -> Switchover:
        """When."""
        ...


class Stay(NamedTuple):
    """The guest on one node, where it takes nothing that was sent later than so."""

    node: str
    until_ns: float = inf


def stays(moves: Sequence[Moved]) -> tuple[Stay, ...]:
    """Return where the guest was before, between and after *moves*: one at least."""
    left = (Stay(each.source, each.switchover.stopped_ns - IN_FLIGHT_NS) for each in moves)
    return (*left, Stay(moves[-1].target))


def numbers(sequences: Iterable[int], sent: int) -> frozenset[int]:
    """Return the numbers of the last pings with these *sequences*, of at least so many *sent*."""
    last = sent + AHEAD - 1
    return frozenset(last - (last - sequence) % WRAP for sequence in sequences)


def lost(
    pings: Sequence[Packet], delivered: Delivered, guest: Sequence[Stay], since_ns: int = 0
) -> tuple[int, ...]:
    """Return when those were sent, since then, that have no answer and reached no *guest* that ran.

    In ns, as *since_ns*.
    """
    return tuple(
        ping.sent_ns
        for number, ping in enumerate(pings)
        if ping.answered_ns is None
        and ping.sent_ns >= since_ns
        and not was_taken(number, ping.sent_ns, delivered, guest)
    )


def was_taken(number: int, sent_ns: int, delivered: Delivered, guest: Sequence[Stay]) -> bool:
    """Tell whether ping *number*, sent then, came to where the *guest* was, or to where it went."""
    for stay in guest:
        if sent_ns < stay.until_ns and number in delivered[stay.node]:
            return True
        if sent_ns < stay.until_ns - HELD_NS:
            return False
    return False
