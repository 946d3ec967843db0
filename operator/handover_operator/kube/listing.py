"""Lists beside the watches: one before anything is decided, others to find what has vanished.

Kopf does not tell when its first list is done, so all kinds are listed before it starts. Each list
with which one of its watches begins is compared with what is known (handlers.py), so that nobody
misses a deletion that happened while a watch was broken; a sweep now and then finds what is lost
all the same.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from handover_api.names import GROUP
from handover_operator.controller import Reconciler
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Conflict, Temporary, Unavailable
from handover_operator.kube.workqueue import FIRST_DELAY

LAST_DELAY: Final = 10.0
SETTLE: Final = 2.0
"""A new list of Kopf's is taken in within this time; seconds."""

LAST_PAUSE: Final = 2.0
"""Between a watch that ended soon and the next; seconds."""

LAST_PAUSE_AFTER_LISTS: Final = 15.0
"""The same where the watch began with lists: those of 10,000 VMs are 300 MB."""

THRESHOLDS: Final = (10_000, 20, 100_000)
"""Of the garbage collector's generations; the last one's is never reached."""


async def load(cluster: Cluster, reconciler: Reconciler) -> None:
    """List all kinds; the reconciler decides nothing before all of them are known."""
    for kind in Kind:
        try:
            async for page, _ in cluster.objects(kind):
                for raw in page:
                    reconciler.observe(kind, raw)
        except Absent as error:
            message = f"CustomResourceDefinition {kind.plural}.{GROUP} is not installed"
            raise Unavailable(message) from error
    reconciler.start()


async def sweep(cluster: Cluster, reconciler: Reconciler) -> None:
    """Forget objects that exist no more though no watch has told it."""
    for kind in Kind:
        existing, version = await cluster.identities(kind)
        reconciler.retain(kind, existing, version)
    reconciler.rederive()


class Sweeper:
    """Sweeps in an interval; what watches list meanwhile is compared by them.

    ``lists``: how many of those there were.
    """

    def __init__(self, sweep: Callable[[], Awaitable[None]], interval: float) -> None:
        self._sweep = sweep
        self._interval = interval
        self.lists = 0
        self._listed = asyncio.Event()
        self._settled = False
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
                self._tidy()
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
                await asyncio.sleep(SETTLE)
        except TimeoutError:
            return False
        self._listed.clear()
        return True

    def _tidy(self) -> None:
        if self._settled:
            gc.collect()
        else:
            self._settled = True
            settle()


def settle() -> None:
    """Let the garbage collector pass over what is loaded by now.

    It stays, and a full collection that walks through it costs 300 ms with 10,000 objects. Once
    after our own lists, once after Kopf's, which keeps things of its own for every object; what
    little grows old later is collected after sweeps only.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


async def keep_watching(
    watch: Callable[[], Awaitable[None]], lists: Callable[[], int] = lambda: 0
) -> None:
    """Watch until cancelled, anew whenever it ends; every new one begins with lists.

    Kopf ends with any error that it does not know, such as that a kind has gone. *lists* counts
    the lists that were complete: they cost much, so that there is more patience after some.
    """
    log = structlog.get_logger()
    loop = asyncio.get_running_loop()
    pause = FIRST_DELAY
    while True:
        began, listed = loop.time(), lists()
        try:
            await watch()
        except Exception as error:  # noqa: BLE001  whatever it was, the next one may not meet it
            log.warning("watch_ended", reason=str(error) or type(error).__name__)
        await asyncio.sleep(pause)
        pause = next_pause(pause, loop.time() - began, has_listed=lists() > listed)


def next_pause(pause: float, lasted: float, *, has_listed: bool) -> float:
    """Return the pause after the next end, by how long it was since the last beginning."""
    last = LAST_PAUSE_AFTER_LISTS if has_listed else LAST_PAUSE
    return FIRST_DELAY if lasted > 2 * last else min(pause * 2, last)


async def insist(attempt: Callable[[], Awaitable[object]], what: str) -> None:
    """Try until it works; each new reason is logged once."""
    log = structlog.get_logger()
    said = ""
    delay = FIRST_DELAY
    while True:
        retry_after = 0.0
        try:
            await attempt()
        except (Temporary, Absent, Conflict) as reason:
            if str(reason) != said:
                said = str(reason)
                log.warning("waiting", what=what, reason=said)
            if isinstance(reason, Temporary):
                retry_after = reason.retry_after
        else:
            return
        await asyncio.sleep(max(delay, retry_after))
        delay = min(delay * 2, LAST_DELAY)
