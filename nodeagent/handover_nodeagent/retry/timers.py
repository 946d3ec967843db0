"""What waits, on the event loop, and what is tried again: nobody else does.

What is refused may be granted later without anybody saying so, so nothing is given up; and nothing
is tried so often that it keeps the loop from what goes well.
"""

import asyncio
import random
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

from handover_nodeagent.retry.backoff import Backoff, Schedule
from handover_nodeagent.retry.buckets import Bucket

SLICE: Final = 16
"""Keys that are tried in one turn of the loop; between two slices a guest may announce itself."""

_K = TypeVar("_K", bound=Hashable)


async def sleep(backoff: Backoff, at_least: float = 0.0) -> None:
    """Wait for the next attempt: *at_least* so long, where the other side has asked for it."""
    await asyncio.sleep(max(_draw(backoff), at_least))


async def take(bucket: Bucket) -> None:
    """Wait for a token."""
    wait = bucket.reserve(asyncio.get_running_loop().time())
    if wait:
        await asyncio.sleep(wait)


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
            delay = max(_draw(self._backoff), at_least)
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


def _draw(backoff: Backoff) -> float:
    """Return how long to wait now; no two agents draw the same."""
    return backoff.next(random.random())  # noqa: S311  jitter is no secret
