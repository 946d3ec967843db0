"""PURE: what of ours is in the kernel, and the fewest messages that bring it to what is wanted.

What is new goes in before anything goes out, and where it was refused the former route stays.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from handover_nodeagent.kernel.netlink import nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress, Nexthop, Route

Slot = tuple[str, int]
"""A node's name and a family, 4 or 6: what has one nexthop object."""


@dataclass(frozen=True, slots=True)
class ViaNextHop:
    """A distributed route; *nexthop* is the number of its node's nexthop object.

    0: it is none of ours, but of our protocol, and where one of ours belongs.
    """

    address: IPAddress
    metric: int
    nexthop: int

    def to_route(self, table: int, protocol: int) -> Route:
        """Return the kernel's route."""
        way = Nexthop(self.nexthop)
        return Route(self.address, 0, self.metric, table, protocol, way=way)

    @classmethod
    def of(cls, route: Route) -> Self:
        """Return what a route of our protocol is here."""
        number = route.way.number if isinstance(route.way, Nexthop) else 0
        return cls(route.address, route.metric, number if nhmsg.is_ours(number) else 0)


@dataclass(frozen=True, slots=True)
class Change:
    """One route that is to be put in: alone, or in the place of one with its key."""

    route: ViaNextHop
    replaces: bool

    def encode(self, table: int, protocol: int) -> bytes:
        """Return the message."""
        # Only where one of our protocol is known: a replace would take anybody's.
        encode = rtmsg.encode_replace if self.replaces else rtmsg.encode_add
        return encode(self.route.to_route(table, protocol))


class Known:
    """Our nexthop objects and the routes that use them, as the kernel has them by our knowledge."""

    def __init__(self) -> None:
        self.nexthops: dict[int, NextHop | None] = {}
        self.numbers: dict[Slot, int] = {}
        self._routes: dict[IPAddress, dict[int, int]] = {}
        self._uses = collections.Counter[int]()
        self._next = nhmsg.FIRST_ID

    # As it was observed, and as it changes.

    def load(
        self, nexthops: Mapping[int, NextHop | None], routes: Iterable[ViaNextHop]
    ) -> frozenset[IPAddress]:
        """Take what was observed; return the addresses of which something else was known."""
        before = {address: dict(found) for address, found in self._routes.items()}
        self.nexthops = dict(nexthops)
        self._routes.clear()
        self._uses.clear()
        for route in routes:
            self.put(route)
        addresses = before.keys() | self._routes.keys()
        return frozenset(
            address for address in addresses if before.get(address) != self._routes.get(address)
        )

    def put(self, route: ViaNextHop) -> None:
        """Know that *route* is in, in the place of what had its key."""
        self.drop(route)
        self._routes.setdefault(route.address, {})[route.metric] = route.nexthop
        self._uses[route.nexthop] += 1

    def drop(self, route: ViaNextHop) -> None:
        """Know that no route has the key of *route*."""
        found = self._routes.get(route.address, {})
        former = found.pop(route.metric, None)
        if former is not None:
            self._uses[former] -= 1
        if not found:
            self._routes.pop(route.address, None)

    # What is there.

    def routes(self) -> Iterator[ViaNextHop]:
        """Return all routes of ours."""
        for address in tuple(self._routes):
            yield from self.superfluous(address, None)

    def led(self) -> Iterator[tuple[IPAddress, int, str, NextHop | None]]:
        """Tell of each route its address and metric, and the node and next hop that it leads to."""
        nodes = {number: name for (name, _), number in self.numbers.items()}
        for one in self.routes():
            hop = self.nexthops.get(one.nexthop)
            yield one.address, one.metric, nodes.get(one.nexthop, ""), hop

    def routes_to(self, address: IPAddress) -> tuple[ViaNextHop, ...]:
        """Return the routes to one address, the one that wins first."""
        found = sorted(self._routes.get(address, {}).items())
        return tuple(ViaNextHop(address, metric, number) for metric, number in found)

    def addresses(self) -> frozenset[IPAddress]:
        """Return the addresses that have routes."""
        return frozenset(self._routes)

    def uses(self, number: int) -> int:
        """Return how many routes use a nexthop object."""
        return self._uses[number]

    # What is to change.

    def number(self, slot: Slot, nexthop: NextHop) -> int:
        """Return the number of a node's nexthop object, which it keeps from now on.

        After a restart it is that of an object which leads there already, if nobody has it.
        """
        if slot in self.numbers:
            return self.numbers[slot]
        taken = set(self.numbers.values())
        alike = (one for one, found in sorted(self.nexthops.items()) if found == nexthop)
        number = next((one for one in alike if one not in taken), None)
        self.numbers[slot] = self._fresh(taken) if number is None else number
        return self.numbers[slot]

    def _fresh(self, taken: set[int]) -> int:
        """Return a number that nobody has; those of nodes that are gone are used again late."""
        span = nhmsg.LAST_ID - nhmsg.FIRST_ID + 1
        while self._next in taken or self._next in self.nexthops:
            self._next = nhmsg.FIRST_ID + (self._next + 1 - nhmsg.FIRST_ID) % span
        return self._next

    def change(self, route: ViaNextHop) -> Change | None:
        """Return how *route* comes in; None if it is there."""
        former = self._routes.get(route.address, {}).get(route.metric)
        return None if former == route.nexthop else Change(route, replaces=former is not None)

    def superfluous(self, address: IPAddress, wanted: ViaNextHop | None) -> list[ViaNextHop]:
        """Return the routes to *address* that are to go once *wanted* is in."""
        metric = wanted.metric if wanted else None
        return [
            route for route in self.routes_to(address) if route.nexthop and route.metric != metric
        ]

    def forget(self, slots: Iterable[Slot]) -> None:
        """Let other nodes have the numbers of those that are gone."""
        for slot in slots:
            self.numbers.pop(slot, None)

    def unused(self) -> list[int]:
        """Return the nexthop objects that no node has and no route uses, to be removed.

        Not before: with an object go the routes that use it.
        """
        taken = set(self.numbers.values())
        return [one for one in sorted(self.nexthops) if one not in taken and not self._uses[one]]
