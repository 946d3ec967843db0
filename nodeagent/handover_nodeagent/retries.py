"""PURE: what failed, and when each is to be tried again: after 100 ms, doubling to a minute.

Each has a patience of its own: what fails for ever does not hold up what fails for the first time.
"""

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0

_K = TypeVar("_K", bound=Hashable)


class Retries(Generic[_K]):
    """All times are seconds of one steady clock."""

    def __init__(self) -> None:
        self._patience: dict[_K, float] = {}
        self._due: dict[_K, float] = {}

    @property
    def due(self) -> float | None:
        """When the next is due; None when nothing has failed."""
        return min(self._due.values(), default=None)

    def failed(self, things: Iterable[_K], now: float) -> None:
        """Wait for the first time; what waits already waits on."""
        for thing in things:
            if thing not in self._due:
                self._patience[thing] = FIRST_PATIENCE
                self._due[thing] = now + FIRST_PATIENCE

    def mended(self, things: Iterable[_K]) -> None:
        """Forget what is well."""
        for thing in things:
            self._patience.pop(thing, None)
            self._due.pop(thing, None)

    def take(self, now: float, most: int | None = None) -> frozenset[_K]:
        """Return what is due, *most* of it and what waited longest first.

        It waits twice as long afterwards, unless it is mended.
        """
        due = [thing for thing in self._due if self._due[thing] <= now]
        taken = frozenset(sorted(due, key=lambda thing: self._due[thing])[:most])
        for thing in taken:
            self._patience[thing] = min(2 * self._patience[thing], LAST_PATIENCE)
            self._due[thing] = now + self._patience[thing]
        return taken
