"""PURE: how fast what was held is sent again.

A target's tap queues 999 frames of those that its guest has not taken so far, and drops the
newest: what is sent again shares it with what comes newly, while the guest wakes up.
"""

from typing import Final

FIRST: Final = 128
"""Packets at once: what a request and its answer, or a TCP connection that is stalled, need."""
TURN: Final = 0.002
"""Seconds between two turns after that."""
LATEST: Final = 0.8
"""Seconds within which all is sent."""
LEAST_RATE: Final = 4000
"""Packets a second that any guest takes beside what else it gets."""
LINGER: Final = 0.3
"""Seconds after the redirect until nothing more comes to the port: by then a qdisc of the port (a
bandwidth limit) has let go of what it had, and processors of packets that they had begun with."""


def rate(count: int, span_ns: int) -> float:
    """Return packets a second for *count* of them, which came within *span_ns*.

    Half as many as came: a guest that took those takes one and a half times as many.
    """
    came = count * 1e9 / span_ns if span_ns else 0
    return max(came / 2, count / LATEST, LEAST_RATE)
