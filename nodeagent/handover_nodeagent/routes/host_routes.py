"""Our routes on this node: a mirror of the kernel's, brought to what is desired.

All runs on the loop, between an announcement and its route; nothing waits but for the kernel's own
work. A foreign direct host route for an address of ours is parked: before anything else while we
suppress the address, and after ours is in while we program it, so that it never has no route.
What we program no longer goes back to its owner before ours goes.
"""

import dataclasses
import errno
import time
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from handover_api.configuration import Mode, Settings
from handover_nodeagent import metrics
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel import neighs, parking, routes
from handover_nodeagent.kernel.netlink import answers
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.notifications import RouteChanged
from handover_nodeagent.kernel.parking import Foreign
from handover_nodeagent.network import desired, plan
from handover_nodeagent.network.desired import DesiredNetwork, LocalEndpoint
from handover_nodeagent.network.model import IPAddress, Neigh, Route, RouteKey
from handover_nodeagent.routes.attributes import RouteAttributes
from handover_nodeagent.routes.collisions import Collisions
from handover_nodeagent.routes.foreign import ForeignRoutes
from handover_nodeagent.routes.observed import ObservedRoutes

TWINS: Final = 4
"""Routes of ours in one place and on one device that are removed in one turn."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the kernel has: our routes, the parked ones, the foreign ones for our addresses.

    ``gateways``: the places of foreign routes to our addresses that lead by a gateway.
    """

    ours: tuple[Route, ...]
    parked: tuple[Foreign, ...]
    foreign: tuple[Foreign, ...]
    gateways: frozenset[RouteKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cutover as bytes, made when the endpoint became Target.

    One part per family, of which the last messages are the routes'; all parts leave in one send.
    """

    parts: tuple[tuple[tuple[bytes, ...], tuple[Route, ...]], ...]

    @property
    def routes(self) -> tuple[Route, ...]:
        """Return the routes of both families."""
        return tuple(route for _, routes_of_family in self.parts for route in routes_of_family)


def observe(settings: Settings, addresses: Iterable[IPAddress]) -> Observed:
    """Read the kernel. Runs in a thread, never in the loop. Raises ObservationError."""
    protocol, table = settings.route_protocol, settings.route_table
    wanted = tuple(addresses)
    ours, parked = routes.observe(protocol, [table]), parking.observe_parked()
    others = parking.observe_others(wanted, table, protocol) if wanted else parking.Others()
    return Observed(ours, parked, others.direct, others.gateways)


class Routes:
    """Owns the request socket and the mirror; ``refused`` says which addresses are not right.

    ``is_doubtful``: the mirror may differ from the kernel, so that all is to be observed.
    ``writes`` counts what was sent: what was observed meanwhile may be older. ``given_back``
    counts the foreign routes that were.
    ``devices``, while not None, are the only ones whose routes may be removed: before the first
    sync a route on another one may belong to an endpoint that nobody has told us of yet.
    ``spared``: addresses of endpoints that nobody can read; what they have stays as it is.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the socket in the network namespace of the caller."""
        self.desired = DesiredNetwork(settings)
        self.refused: dict[IPAddress, str] = {}
        self.devices: AbstractSet[int] | None = None
        self.spared = frozenset[IPAddress]()
        self.is_doubtful = False
        self.writes = 0
        self.given_back = 0
        self._settings = settings
        self._channel = Channel()
        self.foreign = ForeignRoutes(self._channel, settings)
        self._ours = ObservedRoutes()
        self._ahead: set[IPAddress] = set()
        self._were_elevated = frozenset[int]()
        self._collisions = Collisions()
        self._carried = RouteAttributes()

    @property
    def port(self) -> int:
        """By which notifications name us as their cause."""
        return self._channel.port

    def close(self) -> None:
        """Give the socket back; the routes stay."""
        self._channel.close()

    def configure(self, settings: Settings) -> None:
        """Desire the same endpoints' network under other *settings*; apply it afterwards."""
        # What a paused endpoint has was written before, and says what it meant then.
        is_left = self.desired.has_paused()
        self._were_elevated = self._were_elevated | self._elevated if is_left else frozenset()
        self._settings = settings
        self.desired = self.desired.under(settings)
        self.foreign.configure(settings)

    def load(self, observed: Observed) -> None:
        """Take *observed* for what the kernel has now."""
        self._ours.load(observed.ours)
        self.foreign.load(observed.foreign, observed.parked, self.desired.has_address)
        self._collisions.load(observed.gateways)

    def addresses(self) -> frozenset[IPAddress]:
        """Return every address that has a route of ours in the kernel."""
        return self._ours.addresses()

    def strays(self) -> tuple[Route, ...]:
        """Return the routes of ours in the kernel to addresses that nobody is known to have."""
        return tuple(
            route
            for address in self._ours.addresses()
            if not self.desired.has_address(address) and address not in self.spared
            for route in self._ours.of(address)
        )

    def routes_of(self, addresses: Iterable[IPAddress], oif: int) -> tuple[Route, ...]:
        """Return our routes to *addresses* on *oif* that are in the kernel."""
        return tuple(
            route for address in addresses for route in self._ours.of(address) if route.oif == oif
        )

    def level_of(self, addresses: Iterable[IPAddress], oif: int) -> RouteLevel:
        """Return the highest level at which the kernel has a route of ours to *addresses*."""
        metrics_in = {route.metric for route in self.routes_of(addresses, oif)}
        settings = self._settings
        normal = {settings.ipv4_normal_route_priority, settings.ipv6_normal_route_priority}
        if metrics_in & (self._elevated | self._were_elevated - normal):
            return RouteLevel.ELEVATED
        return RouteLevel.NORMAL if metrics_in else RouteLevel.NONE

    @property
    def _elevated(self) -> frozenset[int]:
        settings = self._settings
        return frozenset(
            {settings.ipv4_elevated_route_priority, settings.ipv6_elevated_route_priority}
        )

    def readdressed(self, gone: AbstractSet[IPAddress]) -> frozenset[IPAddress]:
        """Know that the node's own addresses changed, and that some are *gone*.

        Return the addresses to apply: the kernel drops a route that speaks from an address which
        is gone, in IPv4 without a word, and may take now what it refused.
        """
        refused = self._carried.refused
        self._carried.allow()
        return refused | self._ours.lose(lambda route: routes.source_of(route) in gone)

    def find_mac(self, addresses: Iterable[IPAddress], oif: int) -> str | None:
        """Return the guest's MAC as the kernel's neighbour table has it."""
        found = (neighs.find_mac(self._channel, address, oif) for address in addresses)
        return next((mac for mac in found if mac), None)

    def lose(self, oif: int) -> frozenset[IPAddress]:
        """Forget all routes of an interface that went down or is gone; return their addresses."""
        return self.foreign.lose(oif) | self._ours.lose(lambda route: route.oif == oif)

    def heard(self, changed: RouteChanged) -> bool:
        """Take in what somebody else did; tell whether it concerns an endpoint of ours."""
        route = changed.route
        is_known = self.desired.has_address(route.address)
        if route.table == parking.PARKING_TABLE:
            return self.foreign.copy_gone(route, is_known=is_known) and is_known
        if changed.replaced:
            # Nothing else tells what stood there: one of ours, or another foreign one.
            self._ours.displace(route)
            self.foreign.replaced(route)
        if not changed.direct:
            return is_known and changed.replaced
        if route.protocol == self._settings.route_protocol:
            (self._ours.heard if changed.present else self._ours.drop)(route)
        elif not changed.present:
            self.foreign.gone(route)
        elif is_known:
            self.foreign.note(changed.message)
        return is_known

    def prepare(self, local: LocalEndpoint) -> Prepared | None:
        """Encode the cutover of *local*: one send and one ack when its guest announces itself."""
        if self._settings.mode is not Mode.ACTIVE or not local.is_owned or local.link is None:
            return None
        undressed = desired.routes_at(local, RouteLevel.ELEVATED, self._settings)
        wanted = tuple(map(self._dress, undressed))
        families = {type(route.address): None for route in wanted}
        parts = tuple(
            _part([route for route in wanted if type(route.address) is family], local.mac)
            for family in families
        )
        return Prepared(parts) if parts else None

    def cut_over(self, prepared: Prepared) -> None:
        """Send what was prepared; what the kernel refused is for :meth:`apply` to mend.

        One send for both families: whoever is killed after it has moved the guest's whole network.
        """
        results = self._transact([each for requests, _ in prepared.parts for each in requests])
        now = time.time_ns()
        for requests, wanted in prepared.parts:
            answers, results = results[: len(requests)], results[len(requests) :]
            for route, result in zip(wanted, answers[-len(wanted) :], strict=True):
                if result == 0:
                    self._ours.put(route, now)
        self._ahead.update(route.address for route in prepared.routes)

    def acknowledged_ns(self, addresses: Iterable[IPAddress], oif: int) -> tuple[int, ...]:
        """Return when the kernel had each elevated route of ours to *addresses* on *oif*.

        In realtime ns; 0 for one that another agent's life added.
        """
        elevated = self._elevated
        return tuple(
            self._ours.acknowledged_ns(route)
            for route in self.routes_of(addresses, oif)
            if route.metric in elevated
        )

    def catch_up(self, prepared: Prepared) -> None:
        """Know that what is desired is about to include what was *prepared*, or never will."""
        self._ahead.difference_update(route.address for route in prepared.routes)
        there = [route for route in prepared.routes if route in self._ours.of(route.address)]
        metrics.ROUTES.labels("add").inc(len(there))

    def apply(self, addresses: Iterable[IPAddress], *, give_back: bool = True) -> None:
        """Make the kernel what is desired for *addresses*; again, it changes nothing.

        An address whose cutover is ahead of what is desired waits for :meth:`catch_up`, and one of
        a paused endpoint is left as it is, whoever else has it. With
        *give_back* false the foreign routes of what nobody claims stay parked: no guest is there.
        """
        touched = tuple(
            address
            for address in addresses
            if address not in self._ahead
            and (address not in self.spared or self.desired.has_address(address))
            and not self.desired.is_paused(address)
        )
        for address in touched:
            self.refused.pop(address, None)
        if self._settings.mode is not Mode.ACTIVE:
            return
        wanted = frozenset(map(self._dress, self.desired.routes(touched)))
        claimed = self.desired.addresses_to_park(touched)
        served = {route.address for route in wanted}
        for address in claimed - served:
            self._park(address)
        for address in touched:
            if give_back and address not in claimed and address not in served:
                self.given_back += self.foreign.give_back(address)
        observed = [route for address in touched for route in self._ours.of(address)]
        steps = plan.diff(wanted, observed)
        if steps:
            self._carry_out(steps)
        for address in claimed & served - self.refused.keys():
            self._park(address)
        for address in touched:
            if not self.desired.has_address(address) and not self._ours.of(address):
                self._forget(address)

    def _forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has."""
        self._ours.forget(address)
        self.foreign.forget(address)
        self._collisions.forget(address)
        self._carried.forget(address)

    def seed(self, local: LocalEndpoint) -> None:
        """Tell the kernel the MAC of a guest whose routes are in already."""
        if self._settings.mode is Mode.ACTIVE and local.link and local.mac:
            here = self.routes_of(local.addresses, local.link.index)
            seeds = (Neigh(route.address, route.oif, local.mac) for route in here)
            self._transact([neighs.encode_seed(seed) for seed in seeds])

    def rival(self, route: Route) -> str:
        """Say what the kernel prefers to *route*; "" when it is that one.

        No answer is none: nobody has seen then that the node goes by *route*.
        """
        winner = routes.winner(self._channel, route.address)
        if isinstance(winner, int):
            return f"the kernel, asked for the way to {route.address}: {answers.describe(winner)}"
        return "" if winner.route == route else f"the kernel prefers {winner}"

    def _carry_out(self, steps: plan.Plan) -> None:
        """Add and replace; then remove, but never the last route where the new one failed."""
        replace, beside, former = self._apart(steps)
        fresh = (*steps.add, *replace)
        # An object's word for a MAC; what the kernel heard on the wire goes before.
        free = [
            n for n in self.desired.neighs((*fresh, *beside)) if neighs.is_free(self._channel, n)
        ]
        seeds = [*map(neighs.encode_seed, free)]
        requests = [*map(routes.encode_add, steps.add), *map(routes.encode_replace, replace)]
        results = self._transact([*seeds, *requests])
        now = time.time_ns()
        reasons = [self._channel.explain(len(seeds) + index) for index in range(len(requests))]
        answers = zip(fresh, requests, results[len(seeds) :], reasons, strict=True)
        stuck = {
            route.address
            for route, request, result, reason in answers
            if not self._added(*self._taken(route, request, result, reason), now)
        }
        stuck |= {route.address for route in beside if not self._append(route)}
        removed = [
            route
            for route in (*steps.remove, *former)
            if route.address not in stuck and self._may_go(route)
        ]
        # One that cannot be named is not there as it was seen; a delete would take another one.
        unclear = [route for route in removed if not routes.is_certain(self._channel, route)]
        for route in unclear:
            self._ours.drop(route)
        removed = [route for route in removed if route not in unclear]
        results = self._transact(list(map(routes.encode_remove, removed)))
        for index, (route, result) in enumerate(zip(removed, results, strict=True)):
            if result in {0, errno.ESRCH, errno.ENODEV}:
                self._ours.drop(route)
                metrics.ROUTES.labels("remove").inc()
            else:
                self._refuse(route, result, self._channel.explain(index))
        # There may be two: in IPv6 a replace made them of two devices' ones, and in IPv4 two that
        # carry different things stand side by side.
        self._transact(list(map(routes.encode_remove, removed)))

    def _apart(self, steps: plan.Plan) -> tuple[list[Route], list[Route], list[Route]]:
        """Return what to replace, what to add beside, and what of ours goes for the latter.

        In IPv4 a replace takes the first route of its place, and that may be a gateway's; and it
        is refused where *route* is there already, behind that one.
        """
        beside = [
            route
            for route in steps.replace
            if isinstance(route.address, IPv4Address)
            and (
                self._collisions.has_gateway(route) or self._ours.of(route.address).count(route) > 1
            )
        ]
        keys = {route.key for route in beside}
        former = [
            other
            for route in beside
            for other in self._ours.of(route.address)
            if other.key in keys and other != route and other not in steps.remove
        ]
        return [route for route in steps.replace if route not in beside], beside, former

    def _dress(self, route: Route) -> Route:
        owners = self.foreign.carried(route.address, route.oif)
        return self._carried.dress(route, owners, self._ours.of(route.address))

    def _may_go(self, route: Route) -> bool:
        """Tell whether a route that nobody wants may go, so that no guest is cut off.

        Before the first sync somebody may come who wants it; and where an endpoint is no longer
        ours to serve, or its interface is unknown, somebody else must have a route to it, in the
        latter case on the same device.
        """
        address = route.address
        if self.devices is not None and route.oif not in self.devices:
            return False
        if self.desired.is_unplaced(address):
            return self.foreign.has(address, oif=route.oif)
        return self.foreign.has(address) or not self.desired.is_not_owned(address)

    def _transact(self, requests: Sequence[bytes]) -> list[int]:
        if not requests:
            return []
        self.writes += 1
        results = self._channel.transact(requests)
        self.is_doubtful |= errno.ENOBUFS in results
        return results

    def _taken(
        self, route: Route, request: bytes, result: int, reason: str
    ) -> tuple[Route, int, str]:
        """Return what the kernel took of *route*: a guest is served also with less than it had."""
        if result in {0, errno.EEXIST} or not route.carried:
            return route, result, reason
        plain = dataclasses.replace(route, carried=b"")
        (other,) = self._transact([routes.without_carried(request, route)])
        if other not in {0, errno.EEXIST}:
            return route, result, reason
        metrics.ROUTE_ERRORS.labels(errno.errorcode.get(result, str(result))).inc()
        self._carried.refuse(route)
        return plain, other, ""

    def _added(self, route: Route, result: int, reason: str, now: int) -> bool:
        """Take in what became of a route that was to be added; tell whether it is there.

        *now* is when the kernel answered, in realtime ns.
        """
        if result == errno.EEXIST:
            result, reason = self._collide(route)
            now = time.time_ns()
        if result:
            self._refuse(route, result, reason)
            return False
        self._ours.put(route, now)
        self._collisions.solved(route)
        metrics.ROUTES.labels("add").inc()
        return True

    def _collide(self, route: Route) -> tuple[int, str]:
        """Make way for *route*, whose (prefix, metric) somebody has."""
        self.writes += 1
        result = self.foreign.supplant(route, crowded=self._collisions.has_gateway(route))
        if result is not None:
            return result, answers.describe(result)
        winners = [routes.winner(self._channel, route.address, oif=oif) for oif in (0, route.oif)]
        seen = [winner for winner in winners if not isinstance(winner, int)]
        if any(winner.route == route for winner in seen):
            return 0, ""
        if any(not winner.direct and winner.route.key == route.key for winner in seen):
            self._collisions.note(route.key)
        if self._collisions.has_gateway(route):
            return self._stand_beside(route)
        # It is below another one, where only a look at everything finds it.
        self.is_doubtful |= self._collisions.deserves_look(route)
        shown = seen[0] if seen else "nothing"
        return errno.EEXIST, f"another route has this prefix and metric; to be seen is {shown}"

    def _append(self, route: Route) -> bool:
        """Add *route* behind others of its place, and remove ours that carry something else.

        Those go only once the kernel has been seen to name one of them first, as a delete takes
        the first; refused, *route* is there already, the very same. Tell whether it is there.
        """
        result, reason = self._stand_beside(route)
        result = 0 if result == errno.EEXIST else result
        route, result, reason = self._taken(route, routes.encode_beside(route), result, reason)
        if not self._added(route, result, reason, time.time_ns()):
            return False
        for _ in range(TWINS):
            first = routes.winner(self._channel, route.address, oif=route.oif)
            if isinstance(first, int) or first.route != route:
                break
            if first.route.carried == route.carried:
                break
            # The second is refused, unless the kernel shows otherwise what it was asked for.
            self._transact([routes.encode_remove(route), routes.encode_beside(route)])
        return True

    def _stand_beside(self, route: Route) -> tuple[int, str]:
        """Add *route* behind one by a gateway, which stays: it is its owner's."""
        (result,) = self._transact([routes.encode_beside(route)])
        return result, self._channel.explain(0)

    def _refuse(self, route: Route, result: int, reason: str) -> None:
        self.refused[route.address] = f"{route.address}: {reason or answers.describe(result)}"
        metrics.ROUTE_ERRORS.labels(errno.errorcode.get(result, str(result))).inc()

    def _park(self, address: IPAddress) -> None:
        self.writes += 1
        trouble = self.foreign.park(address)
        if trouble:
            self.refused[address] = f"{address}: {trouble}"


def _part(wanted: Sequence[Route], mac: str | None) -> tuple[tuple[bytes, ...], tuple[Route, ...]]:
    """Encode one family's share of a cutover: its own send, and so its own acknowledgment."""
    seeds = [Neigh(route.address, route.oif, mac) for route in wanted if mac]
    requests = (*map(neighs.encode_seed, seeds), *map(routes.encode_add, wanted))
    return requests, tuple(wanted)
