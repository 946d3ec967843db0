"""PURE: when a statement is said again, and to whom; who repeats says what time it is.

A datagram may be lost, and so may its answer: both look the same from here, and so it is said
again until each recipient has answered or the time is over. Times are the loop's, in seconds.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

STATEMENT: Final = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 1.9, 2.4)
"""Seconds after the switch at which HAVE and RELEASED are sent: a loss costs what a pause would,
and a node that is gone costs fourteen datagrams."""
HELLO: Final = (0.0, 0.02, 0.1, 0.5)
"""The same for a HELLO, which several answers make more exact: none of them waited in a queue."""
GIVE_UP: Final = 3.0
"""Seconds after which the API tells it sooner than another repetition would."""

_R = TypeVar("_R", bound=Hashable)


class Repeats(Generic[_R]):
    """One message on its way to its recipients."""

    __slots__ = ("_next", "_silent", "_since", "_times")

    def __init__(self, recipients: Iterable[_R], now: float, times: Sequence[float]) -> None:
        # A dict for its order: whoever was named first is told first.
        self._silent = dict.fromkeys(recipients)
        self._since = now
        self._times = times
        self._next = 0

    @property
    def silent(self) -> tuple[_R, ...]:
        """Who has not answered."""
        return tuple(self._silent)

    @property
    def due(self) -> float | None:
        """When there is something to send or to give up; None once there is nothing more."""
        if not self._silent:
            return None
        is_last = self._next == len(self._times)
        return self._since + (GIVE_UP if is_last else self._times[self._next])

    def is_over(self, now: float) -> bool:
        """Tell whether all have answered, or nobody is waited for any more."""
        return not self._silent or now >= self._since + GIVE_UP

    def take(self, now: float) -> tuple[_R, ...]:
        """Return to whom to send now; what was missed meanwhile is sent once."""
        before = self._next
        while self._next < len(self._times) and self._since + self._times[self._next] <= now:
            self._next += 1
        return self.silent if self._next > before else ()

    def acknowledge(self, recipient: _R) -> bool:
        """Send no more to *recipient*; tell whether it was waited for."""
        if recipient not in self._silent:
            return False
        del self._silent[recipient]
        return True
