"""PURE: when a guest has stood still and runs on in its place, as after a migration that failed.

Its port has kept the oldest of what came meanwhile (a tap: its queue's length less one) and has
dropped the rest. A guest that is merely slow sends all the time, and is left alone: it would be
given more of what it cannot take.
"""

from typing import Final

STILL_NS: Final = 50_000_000
"""Longer than an emulated guest is silent that has been asked."""
QUEUED: Final = 950
"""Packets that a port has kept, at least: 999 with ours, and with what else waits there."""


class Stall:
    """Whether one guest stands still."""

    def __init__(self) -> None:
        self.since_ns: int | None = None

    def observe(self, now_ns: int, taken_ns: int, asked_ns: int, heard_ns: int) -> int | None:
        """Return since when it had taken nothing, once it runs again; else None.

        It was asked at *asked_ns* and has not answered (0: it has), and was heard at *heard_ns*.
        """
        is_silent = heard_ns < now_ns - STILL_NS
        if self.since_ns is None:
            if is_silent and 0 < asked_ns < now_ns - STILL_NS:
                self.since_ns = taken_ns
            return None
        if is_silent:
            return None
        since, self.since_ns = self.since_ns, None
        return since
