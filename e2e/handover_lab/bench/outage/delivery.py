"""PURE: which pings the network has lost, in all: those of the guest's pause, too.

Each side's node notes which pings it has passed to the guest's port. What came to the guest at the
target and has no answer, the guest has lost: an emulated one that is short of a processor cannot
send all of a burst. What came to the source's port is the guest's only until shortly before it
stopped; later it may still lie there, and nobody takes it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from handover_lab.network.measure import IN_FLIGHT_NS, Packet, Switchover
from handover_lab.network.ping_record import WRAP


class Delivered(NamedTuple):
    """The numbers, modulo `WRAP`, of one flow's pings that came to the guest's port."""

    source: frozenset[int] = frozenset()
    target: frozenset[int] = frozenset()


def lost(
    pings: Sequence[Packet], delivered: Delivered, since_ns: int, switchover: Switchover
) -> tuple[int, ...]:
    """Return when those were sent, since then, that have no answer and reached no guest that ran.

    In ns, as *since_ns*.
    """
    taken_until_ns = switchover.stopped_ns - IN_FLIGHT_NS

    def was_taken(number: int, packet: Packet) -> bool:
        number %= WRAP
        at_source = packet.sent_ns < taken_until_ns and number in delivered.source
        return at_source or number in delivered.target

    return tuple(
        packet.sent_ns
        for number, packet in enumerate(pings)
        if packet.answered_ns is None
        and packet.sent_ns >= since_ns
        and not was_taken(number, packet)
    )
