"""PURE: a cutover's figures as they come in, from the source's node and from all others.

All times are realtime ns. The source tells its own by its own clock, which is brought to ours and
says how wrong that may be; the others' answers count when they arrive, so that no clock of theirs
is asked for.
"""

from collections.abc import Collection
from typing import Final

from handover_api.workloadendpoint import Cutover
from handover_nodeagent.peers.messages import NEVER
from handover_nodeagent.peers.sink import Acknowledgment, Done
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown

_MICROSECOND: Final = 1000


def done(done_ns: int, last: LastFrame | Unknown) -> Done:
    """Compose what the source answers, once its redirect is in."""
    if isinstance(last, Unknown):
        return Done(done_ns)
    return Done(done_ns, last.at_ns, last.error_ns)


def with_source(cutover: Cutover, announced_ns: int, ack: Acknowledgment) -> Cutover:
    """Add when the source's redirect was in, and for how long the guest was silent.

    A redirect is in after the announcement and before its news: what clocks say beyond that is
    their error, and is cut. Where nobody compared the clocks, its news is all that is known.
    """
    times, latest = ack.times, ack.acknowledged_ns - announced_ns
    ahead = ack.offset.ahead_ns if ack.offset else times.done_ns - ack.acknowledged_ns
    redirect = times.done_ns - ahead - announced_ns
    figures: dict[str, int] = {
        "announcement_to_redirect_microseconds": _micros(min(redirect, latest))
    }
    if ack.offset and times.last_frame_ns != NEVER:
        figures["guest_silence_microseconds"] = _micros(
            announced_ns - (times.last_frame_ns - ahead)
        )
        # Both in one figure: by how much the silence may have been longer or shorter.
        error = ack.offset.error_ns + times.last_frame_error_ns
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
