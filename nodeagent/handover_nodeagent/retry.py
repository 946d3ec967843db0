"""The only way to wait: how long after a failure, how often at most, and who is tried again."""

import asyncio
import random
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

FIRST: Final = 0.1
LAST: Final = 30.0


class Backoff:
    """The waits of one thing that is tried again and again: doubling; seconds.

    With jitter, so that a crowd of agents does not come back in one instant.
    """

    def __init__(self, first: float = FIRST, last: float = LAST) -> None:
        self._first = first
        self._last = last
        self._delay = first

    @property
    def is_fresh(self) -> bool:
        """Nothing has failed since the last success."""
        return self._delay == self._first

    def next(self) -> float:
        """Return how long to wait now: between half of the wait and all of it."""
        delay = self._delay
        self._delay = min(delay * 2, self._last)
        return delay * random.uniform(0.5, 1)  # noqa: S311  jitter is no secret

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._delay = self._first


class Bucket:
    """Lets *rate* a second through and, after a rest, *burst* at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._credit = burst / rate
        self._due = 0.0

    def reserve(self, now: float) -> float:
        """Take a turn; return how many seconds after *now* it is, 0 for at once."""
        self._due = max(self._due, now - self._credit) + self._interval
        return max(self._due - now, 0.0)

    async def take(self) -> None:
        """Wait for one's turn."""
        wait = self.reserve(asyncio.get_running_loop().time())
        if wait:
            await asyncio.sleep(wait)


class Gate:
    """Holds everybody back for a while after each failure of a thing that all share."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._opened = asyncio.Event()
        self._opened.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Nobody needs to wait."""
        return self._opened.is_set()

    async def wait(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()

    def close(self) -> bool:
        """Close for the next wait, unless closed; return whether it is the first since success."""
        if not self.is_open:
            return False
        is_first = self._backoff.is_fresh
        self._opened.clear()
        self._timer = asyncio.get_running_loop().call_later(self._backoff.next(), self._opened.set)
        return is_first

    def open(self) -> None:
        """Let everybody try at once."""
        if self._timer is not None:
            self._timer.cancel()
        self._opened.set()

    def succeed(self) -> bool:
        """Begin with the shortest wait again; return whether something had failed before."""
        had_failed = not self._backoff.is_fresh
        self._backoff.reset()
        self.open()
        return had_failed


FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0

_K = TypeVar("_K", bound=Hashable)


class Retries(Generic[_K]):
    """All times are seconds of one steady clock."""

    def __init__(self) -> None:
        self._patience: dict[_K, float] = {}
        self._due: dict[_K, float] = {}

    @property
    def due(self) -> float | None:
        """When the next is due; None when nothing has failed."""
        return min(self._due.values(), default=None)

    def failed(self, things: Iterable[_K], now: float) -> None:
        """Wait for the first time; what waits already waits on."""
        for thing in things:
            if thing not in self._due:
                self._patience[thing] = FIRST_PATIENCE
                self._due[thing] = now + FIRST_PATIENCE

    def mended(self, things: Iterable[_K]) -> None:
        """Forget what is well."""
        for thing in things:
            self._patience.pop(thing, None)
            self._due.pop(thing, None)

    def take(self, now: float, most: int | None = None) -> frozenset[_K]:
        """Return what is due, *most* of it and what waited longest first.

        It waits twice as long afterwards, unless it is mended.
        """
        due = [thing for thing in self._due if self._due[thing] <= now]
        taken = frozenset(sorted(due, key=lambda thing: self._due[thing])[:most])
        for thing in taken:
            self._patience[thing] = min(2 * self._patience[thing], LAST_PATIENCE)
            self._due[thing] = now + self._patience[thing]
        return taken


SLICE: Final = 16
"""Attempts at a time; between two slices a guest may announce itself."""


class Attempts(Generic[_K]):
    """What is to be tried again; *again* is called on the loop with what is due."""

    def __init__(self, again: Callable[[frozenset[_K]], None]) -> None:
        self._again = again
        self._retries = Retries[_K]()
        self._alarm: asyncio.TimerHandle | None = None

    def failed(self, things: Iterable[_K]) -> None:
        """Try *things* again; what waits already waits on."""
        self._retries.failed(things, asyncio.get_running_loop().time())
        self._wind()

    def mended(self, things: Iterable[_K]) -> None:
        """Forget what is well."""
        self._retries.mended(things)
        self._wind()

    def close(self) -> None:
        """Try nothing again."""
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None

    def _wind(self) -> None:
        due = self._retries.due
        if self._alarm and self._alarm.when() != due:
            self.close()
        if due is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        taken = self._retries.take(asyncio.get_running_loop().time(), SLICE)
        try:
            self._again(taken)
        finally:
            # Whatever an attempt meets, the next one has its alarm.
            self._wind()
