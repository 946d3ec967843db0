"""Whether any moment may be the one that counts: the loop runs before others then."""

from collections.abc import Callable, Hashable


class Urgency:
    """Who waits for a guest that may come, go or be on its way: endpoints, and the distribution."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        """Call *tell* when the first of them begins to wait (True), and when none does any more."""
        self._tell = tell
        self._waiting: set[Hashable] = set()

    def expect(self, who: Hashable, *, is_expected: bool) -> None:
        """Know whether *who* waits; again, it changes nothing."""
        was_any = bool(self._waiting)
        (self._waiting.add if is_expected else self._waiting.discard)(who)
        if bool(self._waiting) is not was_any:
            self._tell(not was_any)
