"""PURE: our routes as the kernel has them, as far as it is known, and when it took each."""

from collections.abc import Callable, Iterable

from handover_nodeagent.network.model import IPAddress, Route, RouteKey


class ObservedRoutes:
    """Our routes by address, in the kernel's order; times are realtime ns.

    ``version`` is another one after whatever may have changed them.
    """

    def __init__(self) -> None:
        self.version = 0
        self._routes: dict[IPAddress, list[Route]] = {}
        # By themselves, as they outlive a load: no dump tells when the kernel took a route.
        self._acknowledged: dict[RouteKey, int] = {}

    def load(self, routes: Iterable[Route]) -> None:
        """Take these for all that there are."""
        self.version += 1
        self._routes = {}
        for route in routes:
            self._routes.setdefault(route.address, []).append(route)

    def addresses(self) -> frozenset[IPAddress]:
        """Return every address that has a route, or had one and is not forgotten so far."""
        return frozenset(self._routes)

    def of(self, address: IPAddress) -> tuple[Route, ...]:
        """Return the routes to *address*."""
        return tuple(self._routes.get(address, ()))

    def acknowledged_ns(self, route: Route) -> int:
        """Return when the kernel took *route*; 0 where another agent's life added it."""
        return self._acknowledged.get(route.key, 0)

    def put(self, route: Route, now: int) -> None:
        """Know that the kernel took *route*, in the place of one that had its place."""
        self.displace(route)
        self._routes.setdefault(route.address, []).append(route)
        self._acknowledged[route.key] = now

    def precede(self, route: Route, former: Iterable[Route]) -> None:
        """Know that *former*, which carry something else, still stand before *route*."""
        self.version += 1
        known = self._routes.get(route.address, [])
        known[:] = [*former, *known]

    def note(self, route: Route) -> None:
        """Know that somebody else added *route*, or changed what it carries."""
        # Not displaced: in IPv6 two devices' routes share a key.
        self.drop(route)
        self.version += 1
        self._routes.setdefault(route.address, []).append(route)

    def drop(self, route: Route) -> None:
        """Know that *route* is gone."""
        self.version += 1
        known = self._routes.get(route.address, [])
        if route in known:
            known.remove(route)

    def displace(self, route: Route) -> None:
        """Know that *route*, whosever it is, has the place that another one had."""
        self.version += 1
        # In place: an address without routes stays known until it is forgotten.
        known = self._routes.get(route.address, [])
        known[:] = [other for other in known if other.key != route.key]

    def lose(self, is_gone: Callable[[Route], bool]) -> frozenset[IPAddress]:
        """Forget the routes that are gone; return their addresses."""
        self.version += 1
        lost: set[IPAddress] = set()
        for address, known in self._routes.items():
            kept = [route for route in known if not is_gone(route)]
            if len(kept) < len(known):
                lost.add(address)
                known[:] = kept
        return frozenset(lost)

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has."""
        self.version += 1
        self._routes.pop(address, None)
        for key in [key for key in self._acknowledged if key[0] == address]:
            del self._acknowledged[key]
