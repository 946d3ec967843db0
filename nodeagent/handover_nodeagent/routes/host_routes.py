"""Our host routes on this node are made what is desired, and others' that are in their way parked.

All runs on the loop, between an announcement and its route; nothing waits but for the kernel's own
work. A foreign direct host route for an address of ours is parked: before anything else while we
suppress the address, and after ours is in while we program it, so that it never has no route.
What we program no longer goes back to its owner before ours goes.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Self

from handover_api.configuration import Mode, Settings, private_metric
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel import neighs, parking, route_lookup
from handover_nodeagent.kernel.foreign_route import Others
from handover_nodeagent.kernel.netlink import answers, ndmsg
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network import plan
from handover_nodeagent.network.desired import DesiredNetwork, LocalEndpoint
from handover_nodeagent.network.model import IPAddress, Neigh, Nexthop, Redirection, Route
from handover_nodeagent.routes.foreign import ForeignRoutes
from handover_nodeagent.routes.known import KnownRoutes, Observed
from handover_nodeagent.routes.route_writer import Programmed, RouteWriter, Tables


def observe(settings: Settings, addresses: Iterable[IPAddress]) -> Observed:
    """Read the kernel. Runs in a thread, never in the loop. Raises ObservationError."""
    table = settings.route_table
    wanted = tuple(addresses)
    exported = route_lookup.observe(settings.route_protocol, [table])
    private = route_lookup.observe(settings.private_route_protocol, [table])
    # A private one of ours is a redirect, or that of a guest of which no speaker has heard so far;
    # those by nexthop objects are the distribution's.
    ours = (*exported, *(route for route in private if not isinstance(route.way, Nexthop)))
    parked = parking.observe_parked()
    # A dump of all routes, of a BGP speaker's 10,000 too, is for nothing where nobody asks.
    others = parking.observe_others(wanted, table, settings.route_protocols) if wanted else Others()
    return Observed(ours, parked, others.direct, others.gateways)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of the addresses that were applied.

    ``refused`` says which of them are not right, and why; ``given_back`` counts foreign routes.
    ``is_doubtful``: what is known may differ from the kernel, so that all is to be observed.
    ``fault``: the unexpected exception that ended the work; what was done before it is told.
    """

    addresses: frozenset[IPAddress] = frozenset()
    refused: Mapping[IPAddress, str] = field(default_factory=dict)
    given_back: int = 0
    is_doubtful: bool = False
    fault: Exception | None = None

    @classmethod
    def union(cls, parts: Iterable[Self]) -> Self:
        """Join what was applied one by one."""
        known = tuple(parts)
        return cls(
            frozenset(address for part in known for address in part.addresses),
            {address: why for part in known for address, why in part.refused.items()},
            sum(part.given_back for part in known),
            any(part.is_doubtful for part in known),
            next((part.fault for part in known if part.fault), None),
        )


class HostRoutes:
    """The routes that are desired, and those that the kernel has."""

    def __init__(self, settings: Settings) -> None:
        """Open the socket in the network namespace of the caller."""
        self.desired = DesiredNetwork(settings)
        self._settings = settings
        self._channel = Channel()
        self.known = KnownRoutes(settings)
        self.foreign = ForeignRoutes(self._channel, settings, self.known.foreign)
        self.tables = Tables(self._channel, self.known, self.foreign)
        # The metrics under which paused endpoints' routes were elevated when they were written.
        self._were_elevated = frozenset[int]()
        self._spared = frozenset[IPAddress]()
        self._ahead: set[IPAddress] = set()

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
        self.known.configure(settings)
        self.foreign.configure(settings)

    def spare(self, addresses: frozenset[IPAddress]) -> None:
        """Leave as it is what *addresses*, and no others, have: nobody can read their endpoints."""
        self._spared = addresses

    def set_ahead(self, address: IPAddress) -> None:
        """Let no apply touch *address*: its prepared cutover was sent, but is not desired so far.

        What is desired until its machine steps is still a Target's network, without its routes.
        """
        self._ahead.add(address)

    def clear_ahead(self, addresses: Iterable[IPAddress]) -> None:
        """Apply *addresses* as any others again: what was sent is about to be desired, or never."""
        self._ahead.difference_update(addresses)

    def load(self, observed: Observed) -> None:
        """Take *observed* for what the kernel has now."""
        self.known.load(observed, self.desired.has_address)

    def unclaimed(self) -> tuple[Route, ...]:
        """Return the routes of ours in the kernel to addresses that nobody is known to have."""
        return tuple(
            route
            for address in self.known.ours.addresses()
            if not self.desired.has_address(address) and address not in self._spared
            for route in self.known.ours.of(address)
        )

    def level_of(self, addresses: Iterable[IPAddress], oif: int) -> RouteLevel:
        """Return the highest level at which the kernel has a route of ours to *addresses*."""
        # What a paused endpoint has may be elevated by the priorities of an earlier configuration.
        metrics_in = {route.metric for route in self.known.ours_to(addresses, oif)}
        settings = self._settings
        normal = {settings.ipv4_normal_route_priority, settings.ipv6_normal_route_priority}
        if metrics_in & (self._elevated | self._were_elevated - normal):
            return RouteLevel.ELEVATED
        return RouteLevel.NORMAL if metrics_in else RouteLevel.NONE

    def redirect_of(self, addresses: Iterable[IPAddress]) -> tuple[RouteLevel, Redirection | None]:
        """Return the level and the way of ours that send *addresses* on to another node.

        What remains of a former redirect is nobody's.
        """
        sent_on = [
            route
            for address in addresses
            for route in self.known.ours.of(address)
            if route.way and not self.desired.is_remaining(route)
        ]
        if not sent_on:
            return RouteLevel.NONE, None
        ways = {route.address.version: route.way for route in sent_on}
        redirection = Redirection(sent_on[0].oif, ways.get(4), ways.get(6))
        private = self._settings.private_route_protocol
        if all(route.protocol == private for route in sent_on):
            return RouteLevel.PRIVATE, redirection
        is_elevated = any(route.metric in self._elevated for route in sent_on)
        return (RouteLevel.ELEVATED if is_elevated else RouteLevel.NORMAL), redirection

    def redirects_to(self, addresses: Iterable[IPAddress]) -> tuple[Route, ...]:
        """Return our routes that send *addresses* on to another node."""
        known = (route for address in addresses for route in self.known.ours.of(address))
        # What goes before BGP's for a moment is the same way once more.
        held = {private_metric(metric) for metric in self._elevated}
        return tuple(route for route in known if route.way and route.metric not in held)

    @property
    def _elevated(self) -> frozenset[int]:
        settings = self._settings
        return frozenset(
            {settings.ipv4_elevated_route_priority, settings.ipv6_elevated_route_priority}
        )

    def find_mac(self, addresses: Iterable[IPAddress], oif: int) -> str | None:
        """Return the guest's MAC as the kernel's neighbor table has it."""
        found = (neighs.find_mac(self._channel, address, oif) for address in addresses)
        return next((mac for mac in found if mac), None)

    def notified(self, changed: RouteChanged) -> bool:
        """Take in what somebody else did; tell whether it concerns an endpoint of ours."""
        is_known = self.desired.has_address(changed.route.address)
        return self.known.take(changed, is_known=is_known)

    def acknowledged_ns(self, addresses: Iterable[IPAddress], oif: int) -> tuple[int, ...]:
        """Return when the kernel had each elevated route of ours to *addresses* on *oif*.

        In realtime ns; 0 for one that another agent's life added.
        """
        elevated = self._elevated
        return tuple(
            self.known.ours.acknowledged_ns(route)
            for route in self.known.ours_to(addresses, oif)
            if route.metric in elevated
        )

    def apply(
        self,
        addresses: Iterable[IPAddress],
        *,
        give_back: bool = True,
        removable: AbstractSet[int] | None = None,
    ) -> Applied:
        """Make the kernel what is desired for *addresses*; again, it changes nothing.

        An address that is ahead of what is desired waits, and one of a paused endpoint is left
        as it is, whoever else has it. With *give_back* false the foreign routes of what nobody
        claims stay parked: no guest is there. *removable*, unless None, are the only devices whose
        routes may be removed. Raises nothing: see ``Applied.fault``.
        """
        parts: list[Applied] = []
        try:
            # One by one: what was done before an error stays, and is to be told.
            parts.extend(self._apply(addresses, removable, give_back=give_back))
        except Exception as error:  # noqa: BLE001  the root of what is done for each address
            parts.append(Applied(fault=error))
        return Applied.union(parts)

    def _apply(
        self,
        addresses: Iterable[IPAddress],
        removable: AbstractSet[int] | None,
        *,
        give_back: bool,
    ) -> Iterator[Applied]:
        """Apply, and yield each part that is done."""
        applied = frozenset(filter(self._may_apply, addresses))
        if self._settings.mode is not Mode.ACTIVE:
            yield Applied(applied)
            return
        wanted = frozenset(map(self.known.complete, self.desired.routes(applied)))
        to_park = self.desired.addresses_to_park(applied)
        served = {route.address for route in wanted}
        # Before anything else: a suppressed address must not draw what is meant for elsewhere.
        refused = self._park(to_park - served)
        # Before ours goes, so that a guest that stays here always has a route.
        for address in applied - to_park - served if give_back else ():
            yield Applied(given_back=self.foreign.give_back(address))
        observed = [route for address in applied for route in self.known.ours.of(address)]
        done = self._program(plan.diff(wanted, observed), removable)
        refused |= done.refused
        # Only once ours is in: until then the foreign one serves the guest.
        refused |= self._park((to_park & served) - refused.keys())
        again = self._remove_former(wanted, refused.keys(), removable)
        refused |= again.refused
        for address in applied:
            if not self.desired.has_address(address) and not self.known.ours.of(address):
                self.known.forget(address)
        yield Applied(applied, refused, is_doubtful=done.is_doubtful or again.is_doubtful)

    def _remove_former(
        self,
        wanted: AbstractSet[Route],
        refused: AbstractSet[IPAddress],
        removable: AbstractSet[int] | None,
    ) -> Programmed:
        """Remove what of ours stands before its successor: a foreign one hid both until now."""
        twice = {
            route.address
            for route in wanted
            if self.known.ours.of(route.address).count(route) > 1 and route.address not in refused
        }
        steps = plan.diff(
            (route for route in wanted if route.address in twice),
            [route for address in twice for route in self.known.ours.of(address)],
        )
        return self._program(steps, removable)

    def _may_apply(self, address: IPAddress) -> bool:
        return (
            address not in self._ahead
            and (address not in self._spared or self.desired.has_address(address))
            and not self.desired.is_paused(address)
        )

    def _program(self, steps: plan.Plan, removable: AbstractSet[int] | None) -> Programmed:
        if not steps:
            return Programmed({}, is_doubtful=False)
        return RouteWriter(self.tables, self.desired, removable).run(steps)

    def _park(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, str]:
        """Park what stands in the way; return why something stays."""
        refused: dict[IPAddress, str] = {}
        for address in addresses:
            self.tables.writes += 1
            trouble = self.foreign.park(address)
            if trouble:
                refused[address] = f"{address}: {trouble}"
        return refused

    def seed(self, local: LocalEndpoint) -> None:
        """Tell the kernel the MAC of a guest whose routes are in already."""
        if self._settings.mode is Mode.ACTIVE and local.link and local.mac:
            here = self.known.ours_to(local.addresses, local.link.index)
            seeds = (Neigh(route.address, route.oif, local.mac) for route in here)
            self.tables.send([ndmsg.encode_seed(seed) for seed in seeds])

    def rival(self, route: Route) -> str:
        """Say what the kernel prefers to *route*; "" when it is that one.

        No answer is none: nobody has seen then that the node goes by *route*.
        """
        winner = route_lookup.winner(self._channel, route.address)
        # The kernel's own lookup decides, with all rules and tables: no list of routes can tell.
        if isinstance(winner, int):
            return f"the kernel, asked for the way to {route.address}: {answers.describe(winner)}"
        return (
            "" if winner.route == route else f"the kernel prefers {route_lookup.describe(winner)}"
        )
