"""How soon a table of ours is repaired that somebody else changes, so that nobody fights over it.

Whoever undoes our table again and again is met as who puts back a route that was parked: each
round at its time, and a condition says so meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from handover_nodeagent import metrics
from handover_nodeagent.retry.buckets import Bucket
from handover_nodeagent.routes import foreign

CALM: Final = 5 * foreign.INTERVAL
"""Seconds without another's change after which the fight counts as over."""

_log: Final = structlog.get_logger()


class Repairs:
    """Of one table, called *table* in nft's words and *name* in the log.

    ``contested`` says that somebody changes it as often as it is repaired; "" when nobody does.
    """

    def __init__(
        self, name: str, table: str, replace: Callable[[], None], report: Callable[[], None]
    ) -> None:
        """Call *replace* when it is to be made anew, *report* when it is contested, or no more."""
        self.contested = ""
        self._name = name
        self._what = f"somebody else changed table {table}"
        self._fight = f"somebody changes table {table} as often as it is repaired"
        self._replace = replace
        self._report = report
        self._rounds = Bucket(1 / foreign.INTERVAL, foreign.BURST)
        self._next_round: asyncio.TimerHandle | None = None
        self._calm: asyncio.TimerHandle | None = None

    def drifted(self) -> None:
        """Repair what somebody else did; who does it again and again gets its way in between."""
        metrics.DRIFT.inc()
        if self._begin():
            _log.warning(f"{self._name}_drifted", why=self._what)
            return
        # Each further change begins the calm anew.
        if self._calm:
            self._calm.cancel()
        self._calm = asyncio.get_running_loop().call_later(CALM, self._end_fight)
        if not self.contested:
            self.contested = self._fight
            again = foreign.INTERVAL
            _log.warning(f"{self._name}_contested", why=self.contested, again_in_seconds=again)
            self._report()

    def overflowed(self) -> None:
        """Repair what may have been done while nobody could hear it."""
        # Nobody knows whose they were that got lost: no drift is counted, nobody is said to fight.
        self._begin()

    def cancel(self) -> None:
        """Wait for nothing any more."""
        for timer in (self._next_round, self._calm):
            if timer:
                timer.cancel()

    def _begin(self) -> bool:
        """Have the table made anew, at once or at the next round; tell whether at once."""
        loop = asyncio.get_running_loop()
        if self._next_round is None and self._rounds.try_take(loop.time()):
            self._replace()
            return True
        if self._next_round is None:
            self._next_round = loop.call_later(foreign.INTERVAL, self._begin_round)
        return False

    def _begin_round(self) -> None:
        # The round is taken whether or not there is one in hand: it was waited for.
        self._next_round = None
        self._rounds.try_take(asyncio.get_running_loop().time())
        self._replace()

    def _end_fight(self) -> None:
        self.contested, self._calm = "", None
        _log.warning(f"{self._name}_contested", why="not any more")
        self._report()
