"""PURE: how often one address's foreign routes may be parked; who puts them back is no peer.

A CNI that installs its route now and then loses at once. One that fights back gets its way in
between: a fight as fast as two programs can would be work without end for both.
"""

import math
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

BURST: Final = 10
"""Rounds that an address has in hand after a rest."""
INTERVAL: Final = 2.0
"""Seconds between two rounds of a fight that goes on."""
MANY: Final = 1024
"""Beyond so many the addresses that have rested are forgotten: they have all their rounds."""

_K = TypeVar("_K", bound=Hashable)


class Contests(Generic[_K]):
    """The fights of a node, by address; all times are seconds of one steady clock."""

    def __init__(self) -> None:
        self._due: dict[_K, float] = {}

    def may_act(self, address: _K, now: float) -> bool:
        """Take one round for *address*; False when it has none left."""
        due = max(self._due.get(address, -math.inf), now - BURST * INTERVAL) + INTERVAL
        if due > now:
            return False
        self._due[address] = due
        if len(self._due) > MANY:
            rested = now - BURST * INTERVAL
            self._due = {one: due for one, due in self._due.items() if due > rested}
        return True

    def forget(self, address: _K) -> None:
        """Know that nobody cares for *address* any more."""
        self._due.pop(address, None)
