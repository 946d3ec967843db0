"""PURE: how many frames in how short a time are a flood; who counts says what time it is."""

from typing import Final

FRAMES: Final = 64
"""Frames within ``WINDOW`` that are still no flood: more than the receive buffer holds."""
WINDOW: Final = 0.1
"""Seconds; a flood is thus some 640 frames a second, or more."""


class Arrivals:
    """Counts the frames of one interface, a window after the other.

    A window lasts until it has ``FRAMES`` of them: how long that was says what they are.
    """

    __slots__ = ("_count", "_since")

    def __init__(self, now: float) -> None:
        self._count = 0
        self._since = now

    @property
    def are_many(self) -> bool:
        """So many have come that it is time to judge them."""
        return self._count >= FRAMES

    def count(self) -> None:
        """Count one more."""
        self._count += 1

    def end_window(self, now: float) -> bool:
        """Begin the next window; tell whether the frames of the last one were a flood."""
        is_flood = now - self._since < WINDOW
        self._count, self._since = 0, now
        return is_flood
