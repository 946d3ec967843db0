"""Keys to work on, each by one worker at a time; a failure is tried again after a while.

A key that is added while it is being worked on is worked on once more: the work looks at what is
known then, so nothing is lost and nothing is done for every event.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from handover_operator.kube.backoff import Backoff, Failure
from handover_operator.observability import metrics

K = TypeVar("K", bound=Hashable)


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
        self._backoff: Backoff[K] = Backoff()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Count what is not done yet; mere appointments are not."""
        return len(self._waiting | self._active | self._backoff.failed())

    def denied(self) -> int:
        """Count the keys whose last attempt was answered with no."""
        return self._backoff.denied()

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
        self._backoff.clear()
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
        except Exception as error:  # noqa: BLE001  the task's root: one key must not stop the others
            self._retry(key, error)
        else:
            self._backoff.succeed(key)

    def _retry(self, key: K, error: Exception) -> None:
        """Have a failed attempt made again, and tell of it."""
        retry = self._backoff.fail(key, error)
        metrics.RETRIES.inc()
        if retry.failure is Failure.DEFECT:
            metrics.DEFECTS.inc()
            # Once with its traceback, then by its name.
            if retry.is_news:
                self._log.error("work_failed", key=str(key), exc_info=error)
        if retry.is_at_once:
            # It is active still; ``_serve`` adds it once this attempt is over.
            self._again.add(key)
            return
        if retry.failure is not Failure.DENIED:
            self._log.warning("retry", key=str(key), reason=retry.reason, delay=retry.delay)
        # Each refusal is told once, however often it is met.
        elif retry.is_news:
            self._log.error("denied", key=str(key), reason=retry.reason)
        self.add_later(key, retry.delay)
