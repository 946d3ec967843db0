"""Puts facts in order: they come from several watchers, some of them quicker than others.

A fact is held back for a moment, so that an earlier one that took longer to arrive still goes
first. What a person reads is then the order in which things happened.
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from handover_lab.facts import Fact, Traffic

HOLD_NS: Final = 400_000_000
GLANCE_S: Final = 0.05


class FactOrder:
    """Takes facts in from everywhere and passes them on, in order, to *tell*."""

    def __init__(self, tell: Callable[[Fact | Traffic], None]) -> None:
        self.tell = tell
        self._facts: list[tuple[int, int, Fact]] = []
        self._numbers = itertools.count()

    def add(self, fact: Fact | Traffic) -> None:
        """Take one in; the state of the traffic is no event and is passed on at once."""
        if isinstance(fact, Traffic):
            self.tell(fact)
        else:
            # The number decides between facts of one instant, which cannot be compared themselves.
            heapq.heappush(self._facts, (fact.at_ns, next(self._numbers), fact))

    def pass_on(self, until_ns: int) -> None:
        """Pass on what happened before *until_ns*."""
        while self._facts and self._facts[0][0] < until_ns:
            self.tell(heapq.heappop(self._facts)[2])

    def flush(self) -> None:
        """Pass on everything that is still here."""
        while self._facts:
            self.tell(heapq.heappop(self._facts)[2])

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Pass facts on as they ripen, and all that is left at the end."""

        async def work() -> None:
            while True:
                self.pass_on(time.time_ns() - HOLD_NS)
                await asyncio.sleep(GLANCE_S)

        working = asyncio.create_task(work())
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self.flush()
