"""How long to wait after a failure, how often at most, and what is tried again: nobody else does.

What is refused may be granted later without anybody saying so, so nothing is given up; and nothing
is tried so often that it keeps the loop from what goes well. Times are the loop's, in seconds.
"""

import asyncio
import math
import random
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, Self, TypeVar

FIRST: Final = 0.1
"""Seconds until the second attempt: what was only busy has had its time by then."""
LAST: Final = 60.0
"""Seconds between two attempts at most: a person who mends the reason need not restart us."""
LAST_OF_SHARED: Final = 30.0
"""The same for the API server, whose word all nodes wait for when it is back."""
SLICE: Final = 16
"""Keys that are tried in one turn of the loop; between two slices a guest may announce itself."""
RESTING: Final = 1024
"""Buckets that are kept although they may be full; a full one is as good as a new one."""

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

    def next(self) -> float:
        """Return how long to wait now; with jitter between half of it and all of it."""
        delay = self._delay
        self._delay = min(delay * 2, self._last)
        return delay * random.uniform(0.5, 1) if self._has_jitter else delay  # noqa: S311  no secret

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._delay = self._first

    async def sleep(self, at_least: float = 0.0) -> None:
        """Wait for the next attempt: *at_least* so long, where the other side has asked for it."""
        await asyncio.sleep(max(self.next(), at_least))


class Retry:
    """One thing that is attempted again by a timer of the loop."""

    __slots__ = ("_attempt", "_backoff", "_timer")

    def __init__(self, attempt: Callable[[], object], backoff: Backoff | None = None) -> None:
        """Call *attempt* at the next attempt; it says how that went."""
        self._attempt = attempt
        self._backoff = backoff or Backoff()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Another attempt will be made."""
        return self._timer is not None

    @property
    def is_fresh(self) -> bool:
        """Nothing has failed since the last success."""
        return self._backoff.is_fresh

    def failed(self, at_least: float = 0.0) -> None:
        """Attempt again after the next wait; one that has begun goes on as it is."""
        if self._timer is None:
            delay = max(self._backoff.next(), at_least)
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def succeeded(self) -> None:
        """Attempt nothing more; begin with the shortest wait after the next failure."""
        self.cancel()
        self._backoff.reset()

    def cancel(self) -> None:
        """Attempt nothing more, until it fails once more: then the waits go on growing."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _fire(self) -> None:
        # First, so that an attempt that fails at once is waited for again.
        self._timer = None
        self._attempt()


class Gate:
    """Holds everybody back for a while after each failure of a thing that all share."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self._retry = Retry(self._opened.set, backoff or Backoff.shared())

    @property
    def is_open(self) -> bool:
        """Nobody needs to wait."""
        return self._opened.is_set()

    async def wait(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()

    def close(self) -> bool:
        """Close for the next wait, unless closed; return whether it is the first since success."""
        # What was under way when the first one failed fails too: that is one failure.
        if not self.is_open:
            return False
        is_first = self._retry.is_fresh
        self._opened.clear()
        self._retry.failed()
        return is_first

    def open(self) -> None:
        """Let everybody try at once."""
        self._retry.cancel()
        self._opened.set()

    def succeed(self) -> bool:
        """Begin with the shortest wait again; return whether something had failed before."""
        had_failed = not self._retry.is_fresh
        self._retry.succeeded()
        self._opened.set()
        return had_failed


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


class Retries(Generic[_K]):
    """Many keys that are attempted again, each with its own waits and all with one alarm.

    The alarm stands at the earliest of them: what fails for ever postpones nobody.
    """

    def __init__(self, attempt: Callable[[frozenset[_K]], None]) -> None:
        """Call *attempt* with what is due, a slice at a time; it says what failed or succeeded."""
        self._attempt = attempt
        self._schedule = Schedule[_K]()
        self._alarm: asyncio.TimerHandle | None = None

    def failed(self, keys: Iterable[_K]) -> None:
        """Attempt *keys* again; what waits already waits on."""
        self._schedule.failed(keys, asyncio.get_running_loop().time())
        self._wind()

    def succeeded(self, keys: Iterable[_K]) -> None:
        """Forget what is well, or of no interest any more."""
        self._schedule.succeeded(keys)
        self._wind()

    def close(self) -> None:
        """Attempt nothing again."""
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None

    def _wind(self) -> None:
        due = self._schedule.due
        # Moved both ways: what has just failed is due before what fails for ever, and what has
        # succeeded must not wake the loop for nothing.
        if self._alarm and self._alarm.when() != due:
            self.close()
        if due is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        taken = self._schedule.take(asyncio.get_running_loop().time(), SLICE)
        try:
            self._attempt(taken)
        finally:
            # Whatever an attempt meets, the next one has its alarm.
            self._wind()


class Bucket:
    """Token bucket: lets *rate* a second through and, after a rest, *burst* at once."""

    __slots__ = ("_credit", "_due", "_interval")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._credit = burst / rate
        # The instant at which all tokens that were ever taken are paid for.
        self._due = -math.inf

    def reserve(self, now: float) -> float:
        """Take a token, of the future if need be; return in how many seconds it is valid."""
        self._due = self._next(now)
        return max(self._due - now, 0.0)

    def try_take(self, now: float) -> bool:
        """Take a token if there is one; tell whether."""
        due = self._next(now)
        if due > now:
            return False
        self._due = due
        return True

    def is_full(self, now: float) -> bool:
        """Tell whether nothing was taken for so long that *burst* may be taken at once."""
        return self._due <= now - self._credit

    async def take(self) -> None:
        """Wait for a token."""
        wait = self.reserve(asyncio.get_running_loop().time())
        if wait:
            await asyncio.sleep(wait)

    def _next(self, now: float) -> float:
        """Return when the next token is valid; what was not taken while it rested is lost."""
        return max(self._due, now - self._credit) + self._interval


class Buckets(Generic[_K]):
    """A token bucket for each of many keys."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[_K, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def try_take(self, key: _K, now: float) -> bool:
        """Take a token of *key* if there is one; tell whether."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
        if not bucket.try_take(now):
            return False
        # What is not full stays: forgotten, it would have its whole burst again.
        if len(self._buckets) > RESTING:
            self._buckets = {
                key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)
            }
        return True

    def forget(self, key: _K) -> None:
        """Know that nobody cares for *key* any more."""
        self._buckets.pop(key, None)
