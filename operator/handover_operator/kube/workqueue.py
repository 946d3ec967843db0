"""Keys to work on, each by one worker at a time; a failure is tried again after a while.

A key that is added while it is being worked on is worked on once more: the work looks at what is
known then, so nothing is lost and nothing is done for every event.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

import structlog

from handover_operator.kube import retry
from handover_operator.kube.errors import Denied, Outdated, Temporary
from handover_operator.observability import metrics

K = TypeVar("K", bound=Hashable)

CONFLICT_DELAY: Final = 0.01
"""Before the second attempt after somebody was faster; the first one is made at once."""
DENIED_DELAY: Final = 1.0
"""After a refusal: a right or a namespace may come a moment later, and seldom does."""
REASON_LIMIT: Final = 500
"""Characters of a reason in the log: an answer may quote the whole value that it refuses."""


class WorkQueue(Generic[K]):
    """Runs ``work(key)`` for every key that is added, for those that are urgent first."""

    def __init__(
        self, work: Callable[[K], Awaitable[None]], is_urgent: Callable[[K], bool] = lambda _: False
    ) -> None:
        self._work = work
        self._is_urgent = is_urgent
        # False comes before True. No two turns are the same, so keys, which may have no order, are
        # never compared.
        self._ready: asyncio.PriorityQueue[tuple[bool, int, K]] = asyncio.PriorityQueue()
        self._turn = itertools.count()
        self._waiting: set[K] = set()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._denied: dict[K, str] = {}
        self._defects: dict[K, str] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Count what is not done yet; mere appointments are not."""
        return len(self._waiting | self._active | self._failures.keys())

    def denied(self) -> int:
        """Count the keys whose last attempt was answered with no."""
        return len(self._denied)

    def add(self, key: K) -> None:
        """Work on *key* soon."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait((not self._is_urgent(key), next(self._turn), key))

    def add_later(self, key: K, delay: float) -> None:
        """Work on *key* after *delay* seconds; replaces an earlier appointment."""
        self._cancel(key)
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(max(delay, 0), self._ring, key)

    def clear(self) -> None:
        """Forget all keys and appointments; nobody works."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._failures.clear()
        self._denied.clear()
        self._defects.clear()
        # Those that are active are their workers' to take off (``_serve``).
        self._waiting.clear()
        self._again.clear()
        self._ready = asyncio.PriorityQueue()

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._serve())

    def _ring(self, key: K) -> None:
        del self._timers[key]
        self.add(key)

    def _cancel(self, key: K) -> None:
        """Cancel an appointment; work that looks at all makes it anew where it must."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _serve(self) -> None:
        while True:
            _, _, key = await self._ready.get()
            # Neither a full queue nor work that has nothing to wait for gives way by itself.
            await asyncio.sleep(0)
            if key not in self._waiting:
                continue  # forgotten meanwhile
            self._waiting.discard(key)
            self._active.add(key)
            self._cancel(key)
            metrics.LOOKS.inc()
            try:
                await self._attempt(key)
            finally:
                self._active.discard(key)
            # It was added while it was worked on, so that what was looked at may be old.
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _attempt(self, key: K) -> None:
        """Work on one key; whatever comes of it, the others go on."""
        try:
            await self._work(key)
        except Outdated as reason:
            self._retry(key, str(reason), first=CONFLICT_DELAY)
        except Denied as reason:
            self._deny(key, str(reason), reason.retry_after)
        except Temporary as reason:
            self._retry(key, str(reason), retry_after=reason.retry_after)
        except Exception as error:  # noqa: BLE001  the task's root: one key must not stop the others
            self._retry(key, self._defect(key, error))
        else:
            self._forgive(key)

    def _defect(self, key: K, error: Exception) -> str:
        """Tell an exception that nobody foresaw: once with its traceback, then by its name."""
        name = f"{type(error).__name__}: {error}"[:REASON_LIMIT]
        if self._defects.get(key) != name:
            self._defects[key] = name
            self._log.exception("work_failed", key=str(key))
        metrics.DEFECTS.inc()
        return name

    def _forgive(self, key: K) -> None:
        for faults in (self._failures, self._denied, self._defects):
            faults.pop(key, None)

    def _deny(self, key: K, reason: str, retry_after: float) -> None:
        """Note a refusal; each reason is told once, however often it is met."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        metrics.RETRIES.inc()
        if self._denied.get(key) != reason[:REASON_LIMIT]:
            self._denied[key] = reason[:REASON_LIMIT]
            self._log.error("denied", key=str(key), reason=self._denied[key])
        self.add_later(key, retry.delay(failures, first=DENIED_DELAY, retry_after=retry_after))

    def _retry(
        self, key: K, reason: str, *, first: float | None = None, retry_after: float = 0.0
    ) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # This answer was no refusal, so the earlier one may be mended by now.
        self._denied.pop(key, None)
        metrics.RETRIES.inc()
        # Somebody was faster, and what they wrote is known by now.
        if first is not None and failures == 0:
            # It is active still; ``_serve`` adds it once this attempt is over.
            self._again.add(key)
            return
        delay = retry.delay(failures, first=first, retry_after=retry_after)
        self._log.warning("retry", key=str(key), reason=reason[:REASON_LIMIT], delay=delay)
        self.add_later(key, delay)
