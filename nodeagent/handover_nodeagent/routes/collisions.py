"""PURE: where others' routes have the (address, metric) of one of ours, so that it cannot be added.

A route by a gateway stands beside ours and keeps its place. Of what nobody can see, because it is
neither the winner nor direct, only a resync tells more: but one that showed nothing is not repeated
for ever.
"""

from collections.abc import Iterable
from typing import Final

from handover_nodeagent.network.model import IPAddress, Route, RouteKey

RESYNCS: Final = 3
"""Resyncs for one collision: the first may have been under way already."""


class Collisions:
    """What is known of the places that routes of ours were refused.

    ``version`` is another one whenever gateways stand elsewhere.
    """

    def __init__(self) -> None:
        self.version = 0
        self._gateways: set[RouteKey] = set()
        self._resyncs: dict[RouteKey, int] = {}

    def load(self, gateways: Iterable[RouteKey]) -> None:
        """Take these for all places where a route by a gateway stands."""
        # The resyncs stay counted: one that showed nothing is what they are there to bound.
        self._know(set(gateways))

    def note(self, key: RouteKey) -> None:
        """Know that a route by a gateway stands there."""
        self._know(self._gateways | {key})

    def has_gateway(self, route: Route) -> bool:
        """Tell whether *route* would stand beside a route by a gateway."""
        return route.key in self._gateways

    def try_resync(self, route: Route) -> bool:
        """Tell whether a resync may show what keeps *route* out, and count it."""
        # Counted up to the last one alone, as what is refused for ever is tried for ever.
        count = self._resyncs.get(route.key, 0)
        self._resyncs[route.key] = min(count + 1, RESYNCS)
        return count < RESYNCS

    def solved(self, route: Route) -> None:
        """Know that *route* is in."""
        self._resyncs.pop(route.key, None)

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has."""
        self._know({key for key in self._gateways if key[0] != address})
        for key in [key for key in self._resyncs if key[0] == address]:
            del self._resyncs[key]

    def _know(self, gateways: set[RouteKey]) -> None:
        self.version += gateways != self._gateways
        self._gateways = gateways
