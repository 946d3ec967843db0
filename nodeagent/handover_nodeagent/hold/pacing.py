"""PURE: how fast what was held is sent again.

A target's tap queues 999 frames of those that its guest has not taken so far, and drops the
newest: what is sent again shares it with what comes newly, while the guest wakes up.
"""

from typing import Final

FIRST: Final = 256
"""Frames at once: those that came when the guest stopped, among them whatever somebody waits for to
be answered. A quarter of a tap's."""
TURN: Final = 0.002
"""Seconds between two turns after that."""
LATEST: Final = 0.8
"""Seconds within which all is sent."""
LEAST_RATE: Final = 4000
"""Frames a second that any guest takes beside what else it gets."""
MERGED: Final = 8
"""Segments of one frame that come to the tap as one, at least: the target's kernel puts together
what belongs together (GRO)."""
LINGER: Final = 0.3
"""Seconds after the redirect until nothing more comes to the port: by then a qdisc of the port (a
bandwidth limit) has let go of what it had, and processors of packets that they had begun with."""
LAST: Final = 5.0
"""Seconds after which what is left is lost: whoever takes nothing for so long is gone. A full ring
of small packets takes a busy agent two."""


def rate(count: int, span_ns: int) -> float:
    """Return frames a second for *count* of them, which came within *span_ns*.

    Half as many as came: a guest that took those, through whatever limits its bandwidth, takes one
    and a half times as many for a while.
    """
    came = count * 1e9 / span_ns if span_ns else 0
    return max(came / 2, count / LATEST, LEAST_RATE)


def cost(packets: int) -> float:
    """Return how many frames one counts as that was split into so many packets."""
    return max(1.0, packets / MERGED)
