"""Tries again what failed: each thing with a patience of its own, all with one alarm.

The alarm always stands at the earliest attempt, so that what fails for ever postpones nobody.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

from handover_nodeagent.retries import Retries

SLICE: Final = 16
"""Attempts at a time; between two slices a guest may announce itself."""

_K = TypeVar("_K", bound=Hashable)


class Attempts(Generic[_K]):
    """What is to be tried again; *again* is called on the loop with what is due."""

    def __init__(self, again: Callable[[frozenset[_K]], None]) -> None:
        self._again = again
        self._retries = Retries[_K]()
        self._alarm: asyncio.TimerHandle | None = None

    def failed(self, things: Iterable[_K]) -> None:
        """Try *things* again; what waits already waits on."""
        self._retries.failed(things, asyncio.get_running_loop().time())
        self._wind()

    def mended(self, things: Iterable[_K]) -> None:
        """Forget what is well."""
        self._retries.mended(things)
        self._wind()

    def close(self) -> None:
        """Try nothing again."""
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None

    def _wind(self) -> None:
        due = self._retries.due
        if self._alarm and self._alarm.when() != due:
            self.close()
        if due is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._alarm = None
        taken = self._retries.take(asyncio.get_running_loop().time(), SLICE)
        try:
            self._again(taken)
        finally:
            # Whatever an attempt meets, the next one has its alarm.
            self._wind()
