"""PURE: until when a guest has taken what went into its port, by its answers to questions.

A port is a queue: who has answered a question has taken all that went in before it. The n-th
answer shows that of n questions at least; which of them were lost on the way does not matter.
"""

from collections import deque
from typing import Final

OUTSTANDING: Final = 100
"""Questions that may wait in the queue of a guest that takes nothing: a tenth of a tap's."""
PATIENCE_NS: Final = 1_000_000_000
"""After that a question is as good as lost: what went in before it is held no longer, either."""
EAGER: Final = 8
"""Questions without an answer after which one is asked only now and then."""
_SLOWER: Final = 4


class Asked:
    """The questions to one guest that have no answer so far.

    ``taken_until_ns``: when the last question that was taken was asked; 0: none was.
    """

    def __init__(self) -> None:
        self.taken_until_ns = 0
        self._waiting: deque[int] = deque()
        self._skipped = 0

    @property
    def waiting_ns(self) -> int:
        """When the oldest question without an answer was asked; 0: all have one."""
        return self._waiting[0] if self._waiting else 0

    def may_ask(self, now_ns: int) -> bool:
        """Tell whether a question is due now, at one of the times at which one may be."""
        while self._waiting and self._waiting[0] < now_ns - PATIENCE_NS:
            self._waiting.popleft()
        if len(self._waiting) < EAGER:
            return True
        self._skipped = (self._skipped + 1) % _SLOWER
        return self._skipped == 0 and len(self._waiting) < OUTSTANDING

    def ask(self, now_ns: int) -> None:
        """Know that a question goes out at *now_ns*."""
        self._waiting.append(now_ns)

    def take_back(self) -> None:
        """Know that the last question did not go out."""
        self._waiting.pop()

    def answer(self) -> None:
        """Know of an answer; one to nobody's question changes nothing."""
        if self._waiting:
            self.taken_until_ns = self._waiting.popleft()
