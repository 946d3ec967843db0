"""How long to wait after a failure: doubling, with jitter, so that no crowd comes back at once."""

import random
from typing import Final

FIRST: Final = 0.1
LAST: Final = 30.0


class Backoff:
    """The waits of one thing that is tried again and again; seconds."""

    def __init__(self, first: float = FIRST, last: float = LAST) -> None:
        self._first = first
        self._last = last
        self._delay = first

    def next(self) -> float:
        """Return how long to wait now: between half of the wait and all of it."""
        delay = self._delay
        self._delay = min(delay * 2, self._last)
        return delay * random.uniform(0.5, 1)  # noqa: S311  jitter is no secret

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._delay = self._first
