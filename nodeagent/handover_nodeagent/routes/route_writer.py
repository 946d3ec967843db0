"""Where routes of ours are added, replaced and removed: one plan on its way into the kernel.

What is new goes in before anything goes out, and where it was refused the former route stays: a
guest that has a route keeps one. What the kernel said to each request is known afterwards.
"""

import dataclasses
import errno
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from handover_nodeagent import metrics
from handover_nodeagent.kernel import neighs, route_lookup
from handover_nodeagent.kernel.netlink import answers, ndmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.desired import DesiredNetwork
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route, Via
from handover_nodeagent.network.plan import Plan
from handover_nodeagent.routes import steps
from handover_nodeagent.routes.foreign import ForeignRoutes
from handover_nodeagent.routes.known import KnownRoutes
from handover_nodeagent.routes.steps import Steps

TWINS: Final = 4
"""Routes of ours of one key and on one device that are removed in one turn."""

# What was to be removed and is not there, or went with its device, is removed.
_REMOVED: Final = frozenset({0, errno.ESRCH, errno.ENODEV})
_PRESENT: Final = frozenset({0, errno.EEXIST})
_JOINED: Final = "another route by a gateway has this prefix and metric"


class Tables:
    """What is known of the kernel's routes, and the socket by which we change them.

    ``writes`` counts what was sent: what was observed meanwhile may be older.
    """

    def __init__(self, channel: Channel, known: KnownRoutes, foreign: ForeignRoutes) -> None:
        self.channel = channel
        self.known = known
        self.foreign = foreign
        self.writes = 0

    def send(self, requests: Sequence[bytes]) -> answers.Results:
        """Send *requests* at once; return the kernel's answer to each, 0 or an errno."""
        if not requests:
            return answers.Results()
        self.writes += 1
        return self.channel.transact(requests)

    def may_join(self, route: Route) -> bool:
        """Tell whether the kernel has to be asked whether *route* would be one with another."""
        return isinstance(route.address, IPv6Address) and isinstance(route.way, Via)

    def would_join(self, route: Route) -> bool:
        """Tell whether *route* would be one route with somebody else's.

        In IPv6 two of one key that lead by gateways become one of two next hops, and a replace
        takes that one even where ours stands before it (fib6_add_rt2node in net/ipv6/ip6_fib.c).
        """
        if not self.may_join(route):
            return False
        # Of routes by a gateway nobody is notified: what is on the device is asked.
        found = route_lookup.winner(self.channel, route.address, oif=route.oif)
        shown = found if isinstance(found, rtmsg.Entry) and not found.direct else None
        if shown and shown.route.key == route.key and not self.known.is_ours(shown.route):
            self.known.collisions.note(route.key)
        return self.known.collisions.has_gateway(route)


@dataclass(frozen=True, slots=True)
class Programmed:
    """What became of a plan: why an address is not as planned; whether all is to be observed."""

    refused: Mapping[IPAddress, str]
    is_doubtful: bool


class RouteWriter:
    """One plan, carried out once by :meth:`run`.

    *removable*, unless None, are the only devices whose routes may be removed.
    """

    def __init__(
        self, tables: Tables, desired: DesiredNetwork, removable: AbstractSet[int] | None
    ) -> None:
        self._tables = tables
        self._desired = desired
        self._removable = removable
        self._refused: dict[IPAddress, str] = {}
        self._is_doubtful = False

    def run(self, plan: Plan) -> Programmed:
        """Add and replace; then remove, but never the last route where the new one failed."""
        tables = self._tables
        joining = frozenset(filter(tables.would_join, (*plan.add, *plan.replace)))
        for route in joining:
            self._refuse(route, errno.EEXIST, _JOINED)
            # Nobody tells when it is gone.
            self._is_doubtful |= tables.known.collisions.try_resync(route)
        kept = Plan(
            tuple(route for route in plan.add if route not in joining),
            tuple(route for route in plan.replace if route not in joining),
            plan.remove,
        )
        ordered = steps.order(kept, tables.known.ours, tables.known.collisions)
        stuck = self._add(ordered) | {route.address for route in joining}
        self._remove(
            [
                route
                for route in ordered.remove
                if route.address not in stuck
                # Asked now: what was added may have supplanted what somebody else had.
                and steps.may_go(route, self._removable, self._desired, tables.known.foreign)
            ]
        )
        return Programmed(self._refused, self._is_doubtful)

    def _add(self, ordered: Steps) -> frozenset[IPAddress]:
        """Put what is new in; return the addresses for which that failed."""
        tables, fresh = self._tables, (*ordered.add, *ordered.replace)
        # An object's word for a MAC; what the kernel heard on the wire goes before.
        free = [
            neigh
            for neigh in self._desired.neighs((*fresh, *ordered.beside))
            if neighs.is_free(tables.channel, neigh)
        ]
        # A neighbor's entry is there before its route: the first packet by it need not wait.
        seeds = [*map(ndmsg.encode_seed, free)]
        requests = [
            *map(rtmsg.encode_add, ordered.add),
            *map(rtmsg.encode_replace, ordered.replace),
        ]
        results = self._send([*seeds, *requests])
        now = time.time_ns()
        stuck: set[IPAddress] = set()
        # One batch for all of them; what of it was refused is a matter of its own each time.
        for position, (route, request) in enumerate(zip(fresh, requests, strict=True), len(seeds)):
            reply = results[position], results.explain(position)
            if not self._settle(*self._retry_plain(route, request, *reply), now):
                stuck.add(route.address)
        for route in ordered.beside:
            if not self._add_beside(route):
                stuck.add(route.address)
        return frozenset(stuck)

    def _remove(self, wanted: Sequence[Route]) -> None:
        tables = self._tables
        # One that cannot be named is not there as it was seen; a delete would take another one.
        unclear = [route for route in wanted if not route_lookup.is_certain(tables.channel, route)]
        for route in unclear:
            tables.known.ours.drop(route)
        removed = [route for route in wanted if route not in unclear]
        exported = [route for route in removed if tables.known.is_exported(route)]
        # First those that nobody exports: one that goes before an exported one hides it.
        self._take_out([route for route in removed if route not in exported])
        self._unwrap(exported)
        self._take_out(exported)

    def _take_out(self, removed: Sequence[Route]) -> None:
        tables = self._tables
        requests = list(map(rtmsg.encode_remove, removed))
        results = self._send(requests)
        for index, (route, result) in enumerate(zip(removed, results, strict=True)):
            if result in _REMOVED:
                tables.known.ours.drop(route)
                metrics.ROUTES.labels("remove").inc()
            else:
                self._refuse(route, result, results.explain(index))
        # There may be two: in IPv6 a replace made them of two devices' ones, and in IPv4 two that
        # carry different things stand side by side. Each request names protocol, metric and device,
        # so that where there is no second one the kernel refuses it, and nobody else's goes.
        self._send(requests)

    def _unwrap(self, exported: Sequence[Route]) -> None:
        """Remove the encapsulated ones of *exported* as plain routes.

        BIRD 2 reads no message about an encapsulated route, its removal neither, and would announce
        the route until its next scan. It is plain for some µs, within one send.
        """
        tables = self._tables
        wrapped = [
            route
            for route in exported
            if isinstance(route.way, Encapsulated)
            and not tables.known.collisions.has_gateway(route)
            # What the kernel would replace is this very one; else the removal alone must do.
            and _is_shown(route_lookup.winner(tables.channel, route.address, oif=route.oif), route)
        ]
        plain = (dataclasses.replace(route, way=None) for route in wrapped)
        both = zip(map(rtmsg.encode_unwrap, wrapped), map(rtmsg.encode_remove, plain), strict=True)
        self._send([request for pair in both for request in pair])

    def _retry_plain(
        self, route: Route, request: bytes, result: int, reason: str
    ) -> tuple[Route, int, str]:
        """Ask for *route* with less where it was refused; return what the kernel took of it.

        A guest is served also with less than it had.
        """
        if result in _PRESENT or not route.carried:
            return route, result, reason
        plain = dataclasses.replace(route, carried=b"")
        (other,) = self._send([rtmsg.without_carried(request, route)])
        if other not in _PRESENT:
            return route, result, reason
        metrics.ROUTE_ERRORS.labels(errno.errorcode.get(result, str(result))).inc()
        self._tables.known.attributes.refuse(route)
        return plain, other, ""

    def _settle(self, route: Route, result: int, reason: str, now: int) -> bool:
        """Take in what became of a route that was to be added; tell whether it is there.

        *now* is when the kernel answered, in realtime ns.
        """
        if result == errno.EEXIST:
            result, reason = self._collide(route)
            now = time.time_ns()
        if result:
            self._refuse(route, result, reason)
            return False
        self._tables.known.ours.put(route, now)
        self._tables.known.collisions.solved(route)
        metrics.ROUTES.labels("add").inc()
        return True

    def _collide(self, route: Route) -> tuple[int, str]:
        """Make way for *route*, whose (prefix, metric) somebody has.

        First what can be parked is; then what the kernel shows tells whether *route* is there
        already, or whether a route by a gateway has its key, beside which it may stand.
        """
        tables = self._tables
        tables.writes += 1
        result = tables.foreign.supplant(route, crowded=tables.known.collisions.has_gateway(route))
        if result is not None:
            return result, answers.describe(result)
        winners = [
            route_lookup.winner(tables.channel, route.address, oif=oif) for oif in (0, route.oif)
        ]
        seen = [winner for winner in winners if not isinstance(winner, int)]
        if any(winner.route == route for winner in seen):
            return 0, ""
        # One of ours that leads by a gateway is no such one: a replace is for it.
        others = [winner for winner in seen if not tables.known.is_ours(winner.route)]
        if any(not winner.direct and winner.route.key == route.key for winner in others):
            tables.known.collisions.note(route.key)
        if tables.known.collisions.has_gateway(route):
            return self._stand_beside(route)
        # It is below another one, where only a resync finds it.
        self._is_doubtful |= tables.known.collisions.try_resync(route)
        shown = route_lookup.describe(seen[0]) if seen else "nothing"
        return errno.EEXIST, f"another route has this prefix and metric; to be seen is {shown}"

    def _add_beside(self, route: Route) -> bool:
        """Add *route* behind others of its key, and remove ours that carry something else.

        Those go only once the kernel has been seen to name one of them first, as a delete takes
        the first; refused, *route* is there already, the very same. Where somebody else's route
        goes before, they stay until that one is parked. Tell whether *route* is there.
        """
        known = self._tables.known.ours
        former = [one for one in known.of(route.address) if one == route]
        result, reason = self._stand_beside(route)
        result = 0 if result == errno.EEXIST else result
        request = rtmsg.encode_beside(route)
        route, result, reason = self._retry_plain(route, request, result, reason)
        if not self._settle(route, result, reason, time.time_ns()):
            return False
        for _ in range(TWINS):
            first = route_lookup.winner(self._tables.channel, route.address, oif=route.oif)
            if isinstance(first, int) or first.route != route:
                known.precede(route, [one for one in former if one.carried != route.carried])
                break
            if first.route.carried == route.carried:
                break
            # The second is refused, unless the kernel shows otherwise what it was asked for.
            self._send([rtmsg.encode_remove(route), rtmsg.encode_beside(route)])
        return True

    def _stand_beside(self, route: Route) -> tuple[int, str]:
        """Add *route* behind one by a gateway, which stays: it is its owner's."""
        results = self._send([rtmsg.encode_beside(route)])
        return results[0], results.explain(0)

    def _refuse(self, route: Route, result: int, reason: str) -> None:
        self._refused[route.address] = f"{route.address}: {reason or answers.describe(result)}"
        metrics.ROUTE_ERRORS.labels(errno.errorcode.get(result, str(result))).inc()

    def _send(self, requests: Sequence[bytes]) -> answers.Results:
        results = self._tables.send(requests)
        # The kernel had no room for its answers: what it did is not known.
        self._is_doubtful |= errno.ENOBUFS in results
        return results


def _is_shown(winner: rtmsg.Entry | int, route: Route) -> bool:
    return isinstance(winner, rtmsg.Entry) and winner.as_ours() == route
