"""Keeps the ARP guard in step with the endpoints, off the loop and one change after another."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from handover_nodeagent import metrics
from handover_nodeagent.kernel import guard_rules
from handover_nodeagent.kernel.drift import DriftWatch
from handover_nodeagent.kernel.nft import GuardTable
from handover_nodeagent.network import Guard
from handover_nodeagent.pacing import Backoff

FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0

_log: Final = structlog.get_logger()


class GuardKeeper:
    """Level-triggered: what an interface is to have is asked for when its turn comes.

    ``trouble`` says why the guard is not as it should be, "" when it is. Interfaces that nft
    cannot name go without (``guard_rules.is_writable``).
    """

    def __init__(
        self, wanted: Callable[[Iterable[str] | None], Guard | None], told: Callable[[], None]
    ) -> None:
        """Take from *wanted* the guard of some interfaces, with None of all that have one.

        Where it returns None the table is left alone. Call *told* when the trouble is another.
        """
        self.trouble = ""
        self._wanted = wanted
        self._told = told
        self._backoff = Backoff(FIRST_PATIENCE, LAST_PATIENCE)
        self._retry: asyncio.TimerHandle | None = None
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
        """Work until cancelled; what fails is tried again, ever more patiently.

        Meanwhile everything else goes on: one interface's trouble is no other one's.
        """
        watch = self._watch()
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                whole, touched = self._all, frozenset(self._touched)
                self._all = False
                self._touched.clear()
                self._mind(await self._apply(touched, whole=whole), whole=whole)
        finally:
            if self._retry:
                self._retry.cancel()
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
        found = self._wanted(None if whole else touched)
        if found is None:
            return ""
        guard = {name: found[name] for name in found if guard_rules.is_writable(name)}
        if whole:
            metrics.GUARD.labels("replace").inc()
            return await self._table.replace(guard)
        metrics.GUARD.labels("change").inc(len(touched))
        return await self._table.change(guard)

    def _mind(self, trouble: str, *, whole: bool) -> None:
        """Have the whole table made anew after a failure; only that ends the trouble."""
        if trouble:
            metrics.GUARD_ERRORS.inc()
            self._retry = self._retry or asyncio.get_running_loop().call_later(
                self._backoff.next(), self._try_again
            )
        elif whole:
            self._backoff.reset()
        if trouble != self.trouble and (trouble or whole):
            self.trouble = trouble
            _log.warning("guard", trouble=trouble or "none any more")
            self._told()

    def _try_again(self) -> None:
        self._retry = None
        self.replace()

    def _drifted(self) -> None:
        metrics.DRIFT.inc()
        _log.warning("guard_drifted", why="somebody else changed table arp handover")
        self.replace()
