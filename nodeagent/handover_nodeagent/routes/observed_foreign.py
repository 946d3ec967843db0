"""PURE: the foreign direct host routes to our addresses, as far as they are known.

Those that stand in our table, those that are parked, and those whose parked copy somebody removed:
of the last it is known here alone what they were.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from handover_api.configuration import Settings
from handover_nodeagent.kernel import foreign_route
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.network.model import IPAddress, Route

_Known = dict[IPAddress, dict[Route, Foreign]]
"""By address and route, in the order in which they became known."""


class ObservedForeign:
    """What there is in the table of *settings*, and in the parking table."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._present: _Known = {}
        self._parked: _Known = {}
        self._missing: _Known = {}

    def configure(self, settings: Settings) -> None:
        """Go by other *settings*; what stood in another table is to be observed anew."""
        # Parked ones stay: their table is the same one, whatever the settings.
        if settings.route_table != self._settings.route_table:
            self._present = {}
        self._settings = settings

    def load(
        self,
        present: Iterable[Foreign],
        parked: Iterable[Foreign],
        is_known: Callable[[IPAddress], bool],
    ) -> None:
        """Take these for all that the kernel has.

        A parked copy that is not among them was removed by somebody, and is to be written anew if
        its address *is_known* to be an endpoint's.
        """
        # Parked routes are our memory: one that is gone from the kernel must not be forgotten.
        before = self._parked
        self._present, self._parked = {}, {}
        for foreign in present:
            _put(self._present, foreign)
        for foreign in parked:
            _put(self._parked, foreign)
        for address, copies in before.items():
            if not is_known(address):
                continue
            there = self._parked.get(address, {})
            for route, copy in copies.items():
                if route not in there:
                    _put(self._missing, copy)

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has, unless a route of it is parked."""
        self._present.pop(address, None)
        self._missing.pop(address, None)
        # What is parked is still there to be given back, until it goes with its interface.
        if not self._parked.get(address):
            self._parked.pop(address, None)

    def of(self, address: IPAddress) -> tuple[Foreign, ...]:
        """Return the foreign routes to *address* that stand in our table."""
        return tuple(self._present.get(address, {}).values())

    def missing_of(self, address: IPAddress) -> tuple[Foreign, ...]:
        """Return the parked copies that somebody removed."""
        return tuple(self._missing.get(address, {}).values())

    def has(self, address: IPAddress, *, oif: int = 0) -> bool:
        """Tell whether a foreign route to *address* stands in our table; with *oif* by it alone."""
        return any(oif in {0, route.oif} for route in self._present.get(address, ()))

    def has_parked(self, address: IPAddress) -> bool:
        """Tell whether there is something to give back."""
        return bool(self._parked.get(address))

    def devices(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, AbstractSet[int]]:
        """Return the devices of foreign direct routes to *addresses*, parked ones included."""
        return {address: {route.oif for route in self._all(address)} for address in addresses}

    def carried(self, address: IPAddress, oif: int) -> bytes | None:
        """Return what the best foreign route by *oif* carries; None when there is none."""
        there = [route for route in self._all(address) if route.oif == oif]
        best = min(there, key=lambda route: route.metric, default=None)
        return best.carried if best else None

    def leading_to(self, oif: int) -> frozenset[IPAddress]:
        """Return the addresses that have a foreign route by *oif*, parked ones included."""
        return frozenset(
            address
            for known in (self._present, self._parked)
            for address, kept in known.items()
            if any(route.oif == oif for route in kept)
        )

    def rival_of(self, ours: Route) -> Foreign | None:
        """Return the foreign route whose place *ours* is to have, by its metric."""
        rivals = [one for one in self.of(ours.address) if one.route.metric == ours.metric]
        # In IPv6 one on our own device has to go; any other might stand beside ours.
        return min(rivals, key=lambda one: one.route.oif != ours.oif, default=None)

    def note(self, message: bytes) -> None:
        """Know what the kernel showed, unless it is no foreign direct host route of our table."""
        try:
            entry = rtmsg.decode(message)
        except codec.MalformedError:
            return
        is_here = entry.route.table == self._settings.route_table
        is_foreign = entry.route.protocol not in self._settings.route_protocols
        if entry.is_host and entry.direct and is_here and is_foreign:
            _put(self._present, Foreign(entry.route, message))

    def gone(self, route: Route) -> None:
        """Know that its owner removed *route*."""
        self._present.get(route.address, {}).pop(route, None)

    def replaced(self, route: Route) -> None:
        """Know that somebody put *route* into the place of its (prefix, metric)."""
        present = self._present.get(route.address, {})
        for other in [other for other in present if other.metric == route.metric]:
            del present[other]

    def parked(self, foreign: Foreign) -> None:
        """Know that *foreign* was parked, in the place of an older copy."""
        self.gone(foreign.route)
        # As ``parking.park`` leaves it: of one device and metric only the newest copy.
        copy = foreign_route.moved(foreign, PARKING_TABLE)
        kept = self._parked.get(copy.route.address, {})
        place = (copy.route.oif, copy.route.metric)
        for old in [old for old in kept if (old.oif, old.metric) == place]:
            del kept[old]
        _put(self._parked, copy)

    def take_parked(self, address: IPAddress) -> tuple[Foreign, ...]:
        """Return what is to be given back: also what somebody removed from its table."""
        for copy in self._missing.pop(address, {}).values():
            _put(self._parked, copy)
        return tuple(self._parked.get(address, {}).values())

    def given_back(self, copy: Foreign) -> None:
        """Know that a parked *copy* is in our table again."""
        self._parked.get(copy.route.address, {}).pop(copy.route, None)
        _put(self._present, foreign_route.moved(copy, self._settings.route_table))

    def copy_gone(self, route: Route, *, is_known: bool) -> bool:
        """Know that somebody removed a parked copy; tell whether it was known.

        It is to be written anew if its address *is_known* to be an endpoint's.
        """
        copy = self._parked.get(route.address, {}).pop(route, None)
        if copy and is_known:
            _put(self._missing, copy)
        return copy is not None

    def restored(self, address: IPAddress, copies: Iterable[Foreign]) -> None:
        """Know that *copies* that were missing are written anew; the others went for good."""
        for copy in copies:
            _put(self._parked, copy)
        self._missing.pop(address, None)

    def lose(self, oif: int) -> frozenset[IPAddress]:
        """Forget all routes of an interface that went down or is gone; return their addresses."""
        lost: set[IPAddress] = set()
        for known in (self._present, self._parked, self._missing):
            for address, foreign in known.items():
                for route in [route for route in foreign if route.oif == oif]:
                    lost.add(address)
                    del foreign[route]
        return frozenset(lost)

    def _all(self, address: IPAddress) -> list[Route]:
        """Return the routes to *address* that stand in our table, then the parked ones."""
        return [*self._present.get(address, ()), *self._parked.get(address, ())]


def _put(known: _Known, foreign: Foreign) -> None:
    known.setdefault(foreign.route.address, {})[foreign.route] = foreign
