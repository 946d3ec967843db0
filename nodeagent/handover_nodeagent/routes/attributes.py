"""PURE: what our routes carry beside address, device, metric, table and protocol.

It is what the route of the address's owner (its CNI) had on the same device: the address that the
node speaks from, MTU and other metrics, realms, encapsulation. Where no such route is left to be
seen, it is what was known last, or what our own one has in the kernel: the memory across restarts.
"""

import dataclasses
from collections.abc import Iterable

from handover_nodeagent.network.model import IPAddress, Route


class RouteAttributes:
    """The attributes by address and device, and which of them the kernel refused."""

    def __init__(self) -> None:
        self._known: dict[IPAddress, dict[int, bytes]] = {}
        self._refused: dict[IPAddress, bytes] = {}

    @property
    def refused(self) -> frozenset[IPAddress]:
        """The addresses whose routes are less than their owner's were."""
        return frozenset(self._refused)

    def complete(self, route: Route, owners: bytes | None, ours: Iterable[Route]) -> Route:
        """Return *route* with what it is to carry.

        *owners* is what the owner's route has now, None where there is none to be seen; *ours*
        are our routes to the address that are in the kernel.
        """
        known = self._known.setdefault(route.address, {})
        # The owner's word goes first, then what was known; ours in the kernel is a former life's.
        if owners is not None:
            known[route.oif] = owners
        elif route.oif not in known:
            own = [other.carried for other in ours if other.oif == route.oif and other.carried]
            if own:
                known[route.oif] = own[-1]
        carried = known.get(route.oif, b"")
        # Refused once, refused again: until something of the node's changes (``allow``).
        if carried == self._refused.get(route.address):
            carried = b""
        return route if carried == route.carried else dataclasses.replace(route, carried=carried)

    def refuse(self, route: Route) -> None:
        """Know that the kernel takes *route* only without what it carries."""
        self._refused[route.address] = route.carried

    def allow(self) -> None:
        """Know that what was refused may be taken now."""
        self._refused.clear()

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has."""
        self._known.pop(address, None)
        self._refused.pop(address, None)
