"""What is done beside the watches: sweeps in an interval, and collecting garbage after lists.

Each list with which a watch begins is compared with what is known, so that nobody misses a
deletion that happened while it was broken; a sweep now and then finds what is lost all the same.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from handover_operator.kube.errors import Absent, Temporary

SETTLE: Final = 2.0
"""A new list of Kopf's is taken in within this time; seconds."""

# A full collection halts the loop for up to 0.3 s with 10,000 objects, so that none may begin by
# itself, in the midst of a migration: they are made after lists and sweeps.
THRESHOLDS: Final = (10_000, 20, 100_000)
"""Of the garbage collector's generations; the last one's is never reached."""


class Resync:
    """Sweeps in an interval; what watches list meanwhile they compare by themselves.

    ``lists``: how many of those there were.
    """

    def __init__(self, sweep: Callable[[], Awaitable[None]], interval: float) -> None:
        self.lists = 0
        self._sweep = sweep
        self._interval = interval
        self._listed = asyncio.Event()
        self._has_settled = False
        self._log = structlog.get_logger()

    def note_list(self) -> None:
        """Take in that a watch has listed its kind; what that left behind is collected soon."""
        self.lists += 1
        self._listed.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval
            while await self._is_listed(due):
                self._collect()
            try:
                await self._sweep()
            except (Temporary, Absent) as reason:
                # A kind that is gone is an outage; its objects are not forgotten for that.
                self._log.warning("sweep_failed", reason=str(reason))
            gc.collect()

    async def _is_listed(self, due: float) -> bool:
        """Wait for lists and a while more; False when a sweep is due."""
        try:
            async with asyncio.timeout_at(due):
                await self._listed.wait()
                # Several kinds list at once after an outage: they are collected together.
                await asyncio.sleep(SETTLE)
        except TimeoutError:
            return False
        self._listed.clear()
        return True

    def _collect(self) -> None:
        if self._has_settled:
            gc.collect()
        else:
            self._has_settled = True
            freeze()


def freeze() -> None:
    """Let the garbage collector pass over what is loaded by now.

    It stays, and a full collection that walks through it costs 300 ms with 10,000 objects. Once
    after our own lists, once after Kopf's, which keeps things of its own for every object; what
    little grows old later is collected after sweeps only.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
