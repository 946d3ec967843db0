"""PURE: a cutover's figures as they come in, from the source's node and from all others.

All times are realtime ns. The source tells its own by its own clock, which is brought to ours and
says how wrong that may be; the others' answers count when they arrive, so that no clock of theirs
is asked for.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from handover_api.workloadendpoint import Cutover
from handover_nodeagent.sniff.own_frames import LastFrame

_MICROSECOND: Final = 1000


class PeerClock(NamedTuple):
    """How far the source's clock is ahead of ours, and how wrong that may be."""

    ahead_ns: int
    error_ns: int


class SourceTimes(NamedTuple):
    """What the source told, and when that came here; ``last_frame``: None where nobody knows."""

    redirected_ns: int
    last_frame: LastFrame | None
    arrived_ns: int


def with_source(
    cutover: Cutover, announced_ns: int, times: SourceTimes, clock: PeerClock
) -> Cutover:
    """Add when the source's redirect was in, and for how long the guest was silent.

    A redirect is in after the announcement and before its news: what clocks say beyond that is
    their error, and is cut.
    """
    latest = times.arrived_ns - announced_ns
    redirect = times.redirected_ns - clock.ahead_ns - announced_ns
    figures: dict[str, int] = {
        "announcement_to_redirect_microseconds": _micros(min(redirect, latest))
    }
    if times.last_frame:
        silence = announced_ns - (times.last_frame.at_ns - clock.ahead_ns)
        figures["guest_silence_microseconds"] = _micros(silence)
        # Both in one figure: how much later or earlier the last frame may have been.
        error = clock.error_ns + times.last_frame.error_ns
        figures["clock_error_microseconds"] = -(-error // _MICROSECOND)
    return cutover.model_copy(update=figures)


def with_nodes(
    cutover: Cutover, announced_ns: int, asked: int, arrivals_ns: Collection[int]
) -> Cutover:
    """Add how many of the nodes that were *asked* have followed, and when the last one had.

    An answer arrives after its route is in: the last node's was there by then.
    """
    figures: dict[str, int] = {
        "nodes_followed": len(arrivals_ns),
        "nodes_silent": max(0, asked - len(arrivals_ns)),
    }
    if arrivals_ns:
        last = max(arrivals_ns) - announced_ns
        figures["announcement_to_last_node_microseconds"] = _micros(last)
    return cutover.model_copy(update=figures)


def _micros(nanoseconds: int) -> int:
    return max(0, nanoseconds) // _MICROSECOND
