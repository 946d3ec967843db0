"""Keeps the ARP guard in step with the endpoints, off the loop and one change after another."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from handover_nodeagent import metrics
from handover_nodeagent.kernel.drift import DriftWatch
from handover_nodeagent.kernel.nft import GuardTable
from handover_nodeagent.network import Guard

FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0

_log: Final = structlog.get_logger()


class GuardKeeper:
    """Level-triggered: what an interface is to have is asked for when its turn comes.

    ``trouble`` says why the guard is not as it should be, "" when it is.
    """

    def __init__(self, wanted: Callable[[Iterable[str] | None], Guard]) -> None:
        """Take from *wanted* the guard of some interfaces, with None of all that have one."""
        self.trouble = ""
        self._wanted = wanted
        self._table = GuardTable()
        self._touched: set[str] = set()
        self._all = False
        self._work = asyncio.Event()

    def touch(self, interfaces: Iterable[str]) -> None:
        """The guard of *interfaces* may have changed."""
        self._touched.update(interfaces)
        if self._touched:
            self._work.set()

    def replace(self) -> None:
        """Make the whole table anew: at start, on drift, with another mode."""
        self._all = True
        self._work.set()

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again, ever more patiently."""
        watch = self._watch()
        patience = FIRST_PATIENCE
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                whole, touched = self._all, frozenset(self._touched)
                self._all = False
                self._touched.clear()
                self.trouble = await self._apply(touched, whole=whole)
                if not self.trouble:
                    patience = FIRST_PATIENCE
                    continue
                metrics.GUARD_ERRORS.inc()
                _log.warning("guard", trouble=self.trouble, again_in_seconds=patience)
                await asyncio.sleep(patience)
                patience = min(2 * patience, LAST_PATIENCE)
                self.replace()
        finally:
            if watch:
                watch.close()
            self._table.close()

    async def remove(self) -> None:
        """Take the whole table away."""
        await self._table.remove()

    def _watch(self) -> DriftWatch | None:
        try:
            return DriftWatch(self._drifted, self.replace, author=self._table.author)
        except OSError as error:
            _log.warning("guard_unwatched", why=f"nobody hears of its changes: {error.strerror}")
            return None

    async def _apply(self, touched: frozenset[str], *, whole: bool) -> str:
        if whole:
            metrics.GUARD.labels("replace").inc()
            return await self._table.replace(self._wanted(None))
        metrics.GUARD.labels("change").inc(len(touched))
        return await self._table.change(self._wanted(touched))

    def _drifted(self) -> None:
        metrics.DRIFT.inc()
        _log.warning("guard_drifted", why="somebody else changed table arp handover")
        self.replace()
