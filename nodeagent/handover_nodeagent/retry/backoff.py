"""PURE: how long to wait after a failure, of one thing and of each of many.

Whoever waits says what time it is, and draws the lot where jitter is wanted. Times are the loop's,
in seconds.
"""

from collections.abc import Hashable, Iterable
from typing import Final, Generic, Self, TypeVar

FIRST: Final = 0.1
"""Seconds until the second attempt: what was only busy has had its time by then."""
LAST: Final = 60.0
"""Seconds between two attempts at most: a person who mends the reason need not restart us."""
LAST_OF_SHARED: Final = 30.0
"""The same for the API server, whose word all nodes wait for when it is back."""

_K = TypeVar("_K", bound=Hashable)


class Backoff:
    """The waits between attempts at one thing, each twice as long as the one before."""

    __slots__ = ("_delay", "_first", "_has_jitter", "_last")

    def __init__(self, first: float = FIRST, last: float = LAST, *, jitter: bool = False) -> None:
        self._first = first
        self._last = last
        self._has_jitter = jitter
        self._delay = first

    @classmethod
    def shared(cls, first: float = FIRST, last: float = LAST_OF_SHARED) -> Self:
        """Return the waits for a thing that all agents ask for.

        With jitter, so that a crowd of agents does not come back in one instant.
        """
        return cls(first, last, jitter=True)

    @property
    def is_fresh(self) -> bool:
        """Nothing has failed since the last success."""
        return self._delay == self._first

    @property
    def delay(self) -> float:
        """How long the next wait is, without its jitter; to look at it does not prolong it."""
        return self._delay

    def next(self, drawn: float = 1.0) -> float:
        """Return how long to wait now.

        With jitter between half of it and all of it, as *drawn* is between 0 and 1.
        """
        delay = self._delay
        self._delay = min(delay * 2, self._last)
        return delay * (1 + drawn) / 2 if self._has_jitter else delay

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._delay = self._first


class Schedule(Generic[_K]):
    """When each of many keys is due again; knows no clock, and is told the time."""

    def __init__(self) -> None:
        # Of each key while it fails: what fails for ever makes nobody else's wait longer.
        self._backoffs: dict[_K, Backoff] = {}
        self._due: dict[_K, float] = {}

    @property
    def due(self) -> float | None:
        """When the next is due; None when nothing has failed."""
        return min(self._due.values(), default=None)

    def failed(self, keys: Iterable[_K], now: float) -> None:
        """Wait for the first time; what waits already waits on."""
        for key in keys:
            if key not in self._due:
                # Without jitter: what failed together is due together, in as few slices as may be.
                self._backoffs[key] = Backoff()
                self._due[key] = now + self._backoffs[key].next()

    def succeeded(self, keys: Iterable[_K]) -> None:
        """Forget what is well."""
        for key in keys:
            self._backoffs.pop(key, None)
            self._due.pop(key, None)

    def take(self, now: float, most: int | None = None) -> frozenset[_K]:
        """Return what is due, *most* of it and what waited longest first.

        It waits twice as long afterwards, unless it succeeds.
        """
        due = [key for key in self._due if self._due[key] <= now]
        taken = frozenset(sorted(due, key=lambda key: self._due[key])[:most])
        for key in taken:
            self._due[key] = now + self._backoffs[key].next()
        return taken
