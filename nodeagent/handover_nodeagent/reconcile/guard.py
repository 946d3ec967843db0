"""The ARP guard's task: makes table ``arp handover`` what the endpoints want, change by change.

It decides on the loop; the work is a thread's and a process's (``kernel/nft/writer.py``), so
that no route waits for nft. What somebody else changes is repaired, but not as fast as two
programs could undo each other's work.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from handover_nodeagent import metrics
from handover_nodeagent.kernel.arp_guard.table import GuardTable
from handover_nodeagent.kernel.nft import names
from handover_nodeagent.kernel.nft.drift import DriftWatch
from handover_nodeagent.kernel.nft.outcome import DONE, Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.network.model import ArpGuard
from handover_nodeagent.reconcile.repairs import Repairs
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.timers import Retry

_log: Final = structlog.get_logger()


class GuardReconciler:
    """Remembers which interfaces were touched, and asks what each is to have when its turn comes.

    However often one is touched meanwhile, it is written once and as it is then. ``trouble`` says
    why the guard is not as it should be, ``contested`` who undoes it; "" when all is well.
    ``writer`` may write other tables too, until this one's ``run`` ends. Interfaces that nft cannot
    name go without (``names.is_writable``).
    """

    def __init__(
        self, wanted: Callable[[Iterable[str] | None], ArpGuard | None], report: Callable[[], None]
    ) -> None:
        """Take from *wanted* the guard of some interfaces, with None of all that have one.

        Where it returns None the table is left alone. Call *report* when the trouble is another.
        """
        self.trouble = ""
        self._wanted = wanted
        self._report_trouble = report
        self._retry = Retry(self._try_again, Backoff(jitter=True))
        self._repairs = Repairs("guard", "arp handover", self.replace, self._report)
        self.writer = Writer()
        self._table = GuardTable(self.writer)
        self._touched: set[str] = set()
        self._all = False
        self._is_lost = False
        self._work = asyncio.Event()

    @property
    def contested(self) -> str:
        """Who undoes the guard as often as it is written; "" when nobody does."""
        return self._repairs.contested

    def touch(self, interfaces: Iterable[str]) -> None:
        """The guard of *interfaces* may have changed."""
        self._touched.update(interfaces)
        if self._touched:
            self._wake()

    def replace(self) -> None:
        """Make the whole table anew: at start, on drift, with another mode."""
        self._all = True
        self._wake()

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again, ever more patiently.

        Meanwhile everything else goes on: one interface's trouble is no other one's.
        """
        watch = self._watch()
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                # Taken before the work: what is touched meanwhile is the next round's.
                whole, touched = self._all, frozenset(self._touched)
                self._all = False
                self._touched.clear()
                self._conclude(await self._attempt(touched, whole=whole), whole=whole)
        finally:
            self._retry.cancel()
            self._repairs.cancel()
            if watch:
                watch.close()
            self.writer.close()

    async def remove(self) -> None:
        """Take the whole table away."""
        await self._table.remove()

    def _wake(self) -> None:
        # Without a library each attempt starts a process in vain: the retry, which takes all in,
        # comes soon enough.
        if not self._is_lost:
            self._work.set()

    def _watch(self) -> DriftWatch | None:
        try:
            return DriftWatch(
                self._repairs.drifted, self._repairs.overflowed, author=self.writer.author
            )
        except OSError as error:
            _log.warning("guard_unwatched", why=f"nobody hears of its changes: {error.strerror}")
            return None

    async def _attempt(self, touched: frozenset[str], *, whole: bool) -> Outcome:
        try:
            return await self._apply(touched, whole=whole)
        except Exception:  # noqa: BLE001  the root of a task that all endpoints share: nothing may end it
            _log.exception("guard_failed")
            return Outcome("an error within the agent; its log has more")

    async def _apply(self, touched: frozenset[str], *, whole: bool) -> Outcome:
        found = self._wanted(None if whole else touched)
        # Not active: what is there stays as it is, and nobody is asked to repair it.
        if found is None:
            return DONE
        guard = {name: found[name] for name in found if names.is_writable(name)}
        if whole:
            metrics.GUARD.labels("replace").inc()
            return await self._table.replace(guard)
        metrics.GUARD.labels("change").inc(len(touched))
        return await self._table.change(guard)

    def _conclude(self, outcome: Outcome, *, whole: bool) -> None:
        """Have the whole table made anew after a failure; only that ends the trouble."""
        self._is_lost = outcome.is_lost
        if outcome.trouble:
            metrics.GUARD_ERRORS.inc()
            self._retry.failed()
        elif whole:
            self._retry.succeeded()
        # One interface that went well proves nothing of those that failed before it.
        if outcome.trouble != self.trouble and (outcome.trouble or whole):
            self.trouble = outcome.trouble
            _log.warning("guard", trouble=outcome.trouble or "none any more")
            self._report()

    def _try_again(self) -> None:
        self._all = True
        self._work.set()

    def _report(self) -> None:
        metrics.GUARD_OFF.set(bool(self.trouble or self.contested))
        self._report_trouble()
