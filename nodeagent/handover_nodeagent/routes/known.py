"""PURE: the kernel's routes to our endpoints' addresses, as far as they are known.

Ours, others' direct ones, and what keeps ours from being what it should be. Known is what was
observed, what the kernel answered us, and what it told of others; ``host_routes`` and
``route_writer`` act on it.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from handover_api.configuration import Settings
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.network.model import IPAddress, Nexthop, Route, RouteKey
from handover_nodeagent.routes.attributes import RouteAttributes
from handover_nodeagent.routes.collisions import Collisions
from handover_nodeagent.routes.observed import ObservedRoutes
from handover_nodeagent.routes.observed_foreign import ObservedForeign


@dataclass(frozen=True, slots=True)
class Observed:
    """What the kernel has: our routes, the parked ones, the foreign ones for our addresses.

    ``gateways``: the keys of foreign routes to our addresses that lead by a gateway.
    """

    ours: tuple[Route, ...]
    parked: tuple[Foreign, ...]
    foreign: tuple[Foreign, ...]
    gateways: frozenset[RouteKey] = frozenset()


class KnownRoutes:
    """What is known under some *settings*."""

    def __init__(self, settings: Settings) -> None:
        self.ours = ObservedRoutes()
        self.foreign = ObservedForeign(settings)
        self.collisions = Collisions()
        self.attributes = RouteAttributes()
        self._sources: dict[int, bytes] = {}
        self._settings = settings

    def speak_from(self, addresses: Iterable[IPAddress]) -> None:
        """Know the node's own addresses: of each family it speaks from the first to other nodes."""
        self._sources = {
            address.version: codec.attribute(rtmsg.SOURCE, address.packed)
            for address in reversed(tuple(addresses))
        }

    def configure(self, settings: Settings) -> None:
        """Go by other *settings*."""
        self._settings = settings
        self.foreign.configure(settings)

    def load(self, observed: Observed, is_known: Callable[[IPAddress], bool]) -> None:
        """Take *observed* for what the kernel has now; *is_known* to be an endpoint's address."""
        self.ours.load(observed.ours)
        self.foreign.load(observed.foreign, observed.parked, is_known)
        self.collisions.load(observed.gateways)

    @property
    def version(self) -> tuple[int, int]:
        """Another one after whatever may have changed which places ours have, alone or beside."""
        return self.ours.version, self.collisions.version

    def is_ours(self, route: Route) -> bool:
        """Tell by its protocol whether an agent made *route* for a guest."""
        # Nobody's address is link-local; what leads to one is the tunnel's own affair.
        return route.protocol in self._settings.route_protocols and not route.address.is_link_local

    def is_exported(self, route: Route) -> bool:
        """Tell whether a BGP speaker may take *route* for its own."""
        return route.protocol == self._settings.route_protocol

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has."""
        self.ours.forget(address)
        self.foreign.forget(address)
        self.collisions.forget(address)
        self.attributes.forget(address)

    def ours_to(self, addresses: Iterable[IPAddress], oif: int) -> tuple[Route, ...]:
        """Return our routes to *addresses* on *oif* that are in the kernel."""
        return tuple(
            route for address in addresses for route in self.ours.of(address) if route.oif == oif
        )

    def complete(self, route: Route) -> Route:
        """Return *route* with what it is to carry beside its key: see ``attributes.py``."""
        if route.way:
            # Else the node's own processes would speak from the tunnel's address, as would others.
            source = self._sources.get(route.address.version)
            return self.attributes.complete(route, source, ())
        owners = self.foreign.carried(route.address, route.oif)
        return self.attributes.complete(route, owners, self.ours.of(route.address))

    def lose(self, oif: int) -> frozenset[IPAddress]:
        """Forget all routes of an interface that went down or is gone; return their addresses."""
        return self.foreign.lose(oif) | self.ours.lose(lambda route: route.oif == oif)

    def readdressed(self, gone: AbstractSet[IPAddress]) -> frozenset[IPAddress]:
        """Know that the node's own addresses changed, and that some are *gone*.

        Return the addresses to apply: the kernel drops a route that speaks from an address which
        is gone, in IPv4 without a word, and may take now what it refused.
        """
        refused = self.attributes.refused
        self.attributes.allow()
        return refused | self.ours.lose(lambda route: rtmsg.source_of(route) in gone)

    def take(self, changed: RouteChanged, *, is_known: bool) -> bool:
        """Take in what somebody else did; tell whether it concerns an endpoint of ours.

        *is_known*: an endpoint is known to have the route's address.
        """
        route = changed.route
        if route.table == PARKING_TABLE:
            return self.foreign.copy_gone(route, is_known=is_known) and is_known
        if changed.replaced:
            # Nothing else tells what stood there: one of ours, or another foreign one.
            self.ours.displace(route)
            self.foreign.replaced(route)
        # Ours by its protocol, but by somebody else's hand: of our own changes nobody is notified.
        if self.is_ours(route) and (changed.direct or route.way):
            # What leads by a nexthop object is the distribution's, and no affair of these rooms.
            if isinstance(route.way, Nexthop):
                return False
            (self.ours.note if changed.present else self.ours.drop)(route)
        # Another one's by a gateway is none of a CNI's; but it may have displaced one of ours.
        elif not changed.direct:
            return is_known and changed.replaced
        elif not changed.present:
            self.foreign.gone(route)
        elif is_known:
            self.foreign.note(changed.message)
        return is_known
