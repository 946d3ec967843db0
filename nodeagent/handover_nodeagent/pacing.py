"""How long to wait after a failure, and how often at most to do a thing."""

import asyncio
import random
from typing import Final

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
