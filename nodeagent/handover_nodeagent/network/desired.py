"""The desired network of this node, kept up to date one endpoint at a time.

Several endpoints of a node may name one address; for each priority one of them has its route: one
that is Live, else the newest. An orphan is a route that outlives its endpoint because its guest
still answers; what remains of a redirect outlives it because some sender may be late. An index by
address bounds the work of each change by the addresses of the endpoint that changed, however many
others there are.
"""

import dataclasses
import datetime as dt
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Self, TypeVar

from handover_api.configuration import Advertise, Settings, private_metric
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.network.model import (
    Encapsulated,
    IPAddress,
    Link,
    Neigh,
    Redirection,
    Route,
    Way,
)

# Every object in the API server has a creationTimestamp; one without is made up and yields.
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_BELOW_NORMAL: Final = 2
"""By so much a private route's metric is above the normal one: it loses to all of this node's own,
and to what other nodes' guests have here, which is one above that of their level."""
_ZEBRA: Final = 20
"""The metric of what zebra installs. It hears of every route: who runs one has elevated ones below
this, and needs no hold either, since zebra installs nothing beside a route of ours."""


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """One endpoint of this node, as far as the network is concerned.

    ``addresses`` are the allowed ones of its spec; ``link`` is None while nobody can name its
    interface; ``state`` is the one that decides its routes (``Machine.underlying``); ``is_owned``
    is false where another one programs its routes (``admission.is_owned``), ``is_refused`` is true
    where its interface is one that it may not have. One that ``is_paused`` is left as it is;
    ``is_guarded`` is false where it was never anything else, so that there is no guard to keep.
    ``redirection`` is where the routes of a Redirected lead, and with ``is_holding`` they win over
    what a BGP speaker brings (``held_metric``). Those to the guest of one that is not
    ``is_exported`` no speaker takes, where BGP ``is_raced``.
    """

    key: ObjectKey
    addresses: tuple[IPAddress, ...]
    level: RouteLevel
    state: State
    link: Link | None = None
    mac: str | None = None
    created_at: dt.datetime | None = None
    is_owned: bool = True
    is_refused: bool = False
    is_paused: bool = False
    is_guarded: bool = True
    redirection: Redirection | None = None
    is_holding: bool = False
    is_exported: bool = True

    @property
    def interface(self) -> str | None:
        """The interface's name."""
        return self.link.name if self.link else None

    @property
    def is_redirected(self) -> bool:
        """Tell whether its routes lead to another node; they need no interface here."""
        return self.state is State.REDIRECTED and self.redirection is not None


@dataclass(frozen=True, slots=True)
class Affected:
    """Where the desired network may differ after a change."""

    addresses: frozenset[IPAddress] = frozenset()
    interfaces: frozenset[str] = frozenset()

    def __or__(self, other: "Affected") -> "Affected":
        return Affected(self.addresses | other.addresses, self.interfaces | other.interfaces)

    @classmethod
    def union(cls, parts: Iterable[Self]) -> Self:
        """Join any number of them at once."""
        known = tuple(parts)
        return cls(
            frozenset(address for part in known for address in part.addresses),
            frozenset(interface for part in known for interface in part.interfaces),
        )


class DesiredNetwork:
    """The desired network; deterministic and without effect outside of itself."""

    def __init__(self, settings: Settings) -> None:
        """Start empty, for *settings* that stay; other ones make another network."""
        self._settings = settings
        self._endpoints: dict[ObjectKey, LocalEndpoint] = {}
        self._by_address: dict[IPAddress, set[ObjectKey]] = {}
        self._by_interface: dict[str, set[ObjectKey]] = {}
        self._orphans: dict[IPAddress, Route] = {}
        self._remaining: dict[IPAddress, Route] = {}

    def under(self, settings: Settings) -> Self:
        """Return the network that the same endpoints have under other *settings*."""
        other = type(self)(settings)
        for endpoint in self._endpoints.values():
            other.put(endpoint)
        for orphan in self.orphans():
            other.put_orphan(orphan)
        other.put_remaining(self._remaining.values())
        return other

    def everything(self) -> Affected:
        """Return all addresses and interfaces that an endpoint, orphan or old redirect has."""
        addresses = self._by_address.keys() | self._orphans.keys() | self._remaining.keys()
        return Affected(frozenset(addresses), frozenset(self._by_interface))

    def has_address(self, address: IPAddress) -> bool:
        """Tell whether an endpoint, an orphan or an old redirect has *address*."""
        known = (self._by_address, self._orphans, self._remaining)
        return any(address in each for each in known)

    def put(self, endpoint: LocalEndpoint) -> Affected:
        """Add or replace one endpoint; it claims its addresses from orphans.

        What was wanted for one that is paused now stays wanted: as the kernel is to stay.
        """
        # Whatever its object says by now: the routes of a paused endpoint are those of before.
        former = self._endpoints.get(endpoint.key)
        if former and endpoint.is_paused:
            endpoint = dataclasses.replace(former, is_paused=True)
        # What it had and what it has are affected alike: an address that it lost loses its route.
        affected = self.drop(endpoint.key) | _affected_by(endpoint)
        self._endpoints[endpoint.key] = endpoint
        for address in endpoint.addresses:
            self._by_address.setdefault(address, set()).add(endpoint.key)
            self._orphans.pop(address, None)
        if endpoint.interface:
            self._by_interface.setdefault(endpoint.interface, set()).add(endpoint.key)
        return affected

    def drop(self, key: ObjectKey, *, orphan: bool = False) -> Affected:
        """Forget one endpoint; with *orphan* its routes stay until somebody claims them."""
        endpoint = self._endpoints.pop(key, None)
        if endpoint is None:
            return Affected()
        for address in endpoint.addresses:
            _discard(self._by_address, address, key)
        if endpoint.interface:
            _discard(self._by_interface, endpoint.interface, key)
        # What others programmed for it is theirs, and stays or goes without us.
        if orphan and endpoint.is_owned:
            for route in routes_at(endpoint, endpoint.level, self._settings):
                self.put_orphan(route)
        return _affected_by(endpoint)

    def put_orphan(self, orphan: Route) -> Affected:
        """Keep one route of an address that no endpoint claims."""
        if orphan.address in self._by_address:
            return Affected()
        self._orphans[orphan.address] = orphan
        return Affected(frozenset({orphan.address}))

    def drop_orphans(self, orphans: Iterable[Route]) -> Affected:
        """Forget *orphans*, as far as nobody has claimed their addresses."""
        lost = frozenset(orphans) & self.orphans()
        for route in lost:
            del self._orphans[route.address]
        return Affected(frozenset(route.address for route in lost))

    def put_remaining(self, redirects: Iterable[Route]) -> Affected:
        """Keep private routes that lead to another node, whoever has their addresses here."""
        kept = {route.address: route for route in redirects}
        self._remaining |= kept
        return Affected(frozenset(kept))

    def drop_remaining(self, redirects: Iterable[Route]) -> Affected:
        """Forget those of *redirects* that are still kept."""
        lost = [one for one in redirects if self._remaining.get(one.address) == one]
        for route in lost:
            del self._remaining[route.address]
        return Affected(frozenset(route.address for route in lost))

    def is_remaining(self, route: Route) -> bool:
        """Tell whether *route* is what is left of a redirect."""
        return self._remaining.get(route.address) == route

    def is_held(self, route: Route) -> bool:
        """Tell whether *route* is one that goes before a redirect's own (``held_metric``)."""
        held = held_metric(RouteLevel.NORMAL, route.address, self._settings)
        return route.way is not None and route.metric == held

    def drop_link(self, oif: int) -> Affected:
        """Forget the orphans of an interface that is gone."""
        # The kernel has dropped them together with their interface.
        lost = frozenset(route.address for route in self.orphans() if route.oif == oif)
        for address in lost:
            del self._orphans[address]
        return Affected(lost)

    def orphans(self) -> frozenset[Route]:
        """Return the orphans, to be remembered."""
        return frozenset(self._orphans.values())

    def routes(self, addresses: Iterable[IPAddress]) -> frozenset[Route]:
        """Return the routes wanted for *addresses*."""
        wanted: set[Route] = set()
        # An endpoint puts orphans out when it comes, so that no address has routes of both.
        for address in addresses:
            if address in self._orphans:
                wanted.add(self._orphans[address])
            routes = [
                route
                for endpoint in self._owners(address)
                for route in _routes(address, endpoint, endpoint.level, self._settings)
            ]
            wanted.update(routes)
            remaining = self._remaining.get(address)
            # What an endpoint redirects by now has the place of what it, or another one, did.
            if remaining and remaining.key not in {route.key for route in routes}:
                wanted.add(remaining)
        return frozenset(wanted)

    def neighs(self, routes: Iterable[Route]) -> tuple[Neigh, ...]:
        """Return the neighbor entries to seed together with *routes*."""
        # Where nobody knows the guest's MAC the kernel asks for it, with the first packet.
        return tuple(
            Neigh(route.address, route.oif, endpoint.mac)
            for route in routes
            for endpoint in self._owners(route.address)
            if endpoint.mac and endpoint.link and endpoint.link.index == route.oif
        )

    def guard(self, interfaces: Iterable[str]) -> Mapping[str, frozenset[IPv4Address]]:
        """Return the guarded addresses of *interfaces*, those without any included.

        In every state: the host must never answer for a guest, least of all before it has come.
        """
        return {
            interface: frozenset(
                address
                for key in self._by_interface.get(interface, ())
                for address in self._endpoints[key].addresses
                if isinstance(address, IPv4Address) and self._endpoints[key].is_guarded
            )
            for interface in interfaces
        }

    def addresses_to_park(self, addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
        """Return those for which a foreign direct host route is to be parked."""
        return frozenset(
            address
            for address in addresses
            if any(
                _wants_parking(self._endpoints[key]) for key in self._by_address.get(address, ())
            )
        )

    def is_not_owned(self, address: IPAddress) -> bool:
        """Tell whether endpoints have *address* whose routes are all not ours to program."""
        # One of them that is ours suffices: its route is wanted, whoever else has the address.
        keys = self._by_address.get(address, ())
        return bool(keys) and not any(self._endpoints[key].is_owned for key in keys)

    def is_unplaced(self, address: IPAddress) -> bool:
        """Tell whether an endpoint wants routes to *address*, and nobody can name its interface."""
        keys = self._by_address.get(address, ())
        return any(
            self._endpoints[key].link is None
            and _wants_routes(self._endpoints[key])
            and not self._endpoints[key].is_redirected
            for key in keys
        )

    def has_paused(self) -> bool:
        """Tell whether any endpoint is left as it is."""
        return any(endpoint.is_paused for endpoint in self._endpoints.values())

    def is_paused(self, address: IPAddress) -> bool:
        """Tell whether *address* is left as it is for one of those that have it."""
        return any(self._endpoints[key].is_paused for key in self._by_address.get(address, ()))

    def endpoints_with(self, addresses: Iterable[IPAddress]) -> frozenset[ObjectKey]:
        """Return the endpoints that have one of *addresses*."""
        none: frozenset[ObjectKey] = frozenset()
        return none.union(*(self._by_address.get(address, none) for address in addresses))

    def shared_addresses(self, key: ObjectKey) -> Mapping[IPAddress, tuple[ObjectKey, ...]]:
        """Return the other endpoints of this node that name an address of *key*."""
        others = {
            address: tuple(sorted(self._by_address[address] - {key}))
            for address in self._endpoints[key].addresses
        }
        return {address: keys for address, keys in others.items() if keys}

    def _owners(self, address: IPAddress) -> Iterable[LocalEndpoint]:
        """Return the endpoint that has the address at each level.

        Routes of two levels stand beside each other, and the kernel goes by the lower metric.
        """
        owners: dict[RouteLevel, LocalEndpoint] = {}
        for key in self._by_address.get(address, ()):
            endpoint = self._endpoints[key]
            rival = owners.get(endpoint.level, endpoint)
            has_way = _lead(address, endpoint) is not None
            if _wants_routes(endpoint) and has_way and _rank(endpoint) >= _rank(rival):
                owners[endpoint.level] = endpoint
        return owners.values()


def routes_at(endpoint: LocalEndpoint, level: RouteLevel, settings: Settings) -> tuple[Route, ...]:
    """Return the routes that *endpoint* would have at *level*, as if it were alone.

    What a cutover and a redirect are prepared from.
    """
    if level is RouteLevel.NONE:
        return ()
    led = (address for address in endpoint.addresses if _lead(address, endpoint))
    return tuple(route for address in led for route in _routes(address, endpoint, level, settings))


def _routes(
    address: IPAddress, endpoint: LocalEndpoint, level: RouteLevel, settings: Settings
) -> Iterable[Route]:
    lead = _lead(address, endpoint)
    assert lead is not None
    oif, way = lead
    metric = metrics_at(level, settings)[address.version]
    is_withheld = way is None and not endpoint.is_exported and is_raced(address, settings)
    is_private = level is RouteLevel.PRIVATE or is_withheld
    protocol = settings.private_route_protocol if is_private else settings.route_protocol
    yield Route(address, oif, metric, settings.route_table, protocol, way=way)
    held = held_metric(level, address, settings)
    if way and endpoint.is_holding and held is not None:
        # BIRD does not see what is encapsulated; a private one that it sees hides the exported one.
        is_hidden = isinstance(way, Encapsulated)
        protocol = settings.private_route_protocol if is_hidden else settings.route_protocol
        yield Route(address, oif, held, settings.route_table, protocol, way=way)


def held_metric(level: RouteLevel, address: IPAddress, settings: Settings) -> int | None:
    """Return the metric of a second route that holds back what BGP brings; None where none is.

    A speaker's route may lead to a router that itself still leads here: until it follows, packets
    would go to and fro. That is a micro-loop, and holding it back for a moment the local delay of
    RFC 8333. The agents' own routes lead to no router, so nothing is held where they distribute.
    """
    elevated = metrics_at(RouteLevel.ELEVATED, settings)[address.version]
    held, own = private_metric(elevated), metrics_at(level, settings)[address.version]
    is_by_speaker = settings.advertise is not Advertise.AGENTS and elevated >= _ZEBRA
    return held if level is RouteLevel.NORMAL and is_by_speaker and held < own else None


def is_raced(address: IPAddress, settings: Settings) -> bool:
    """Tell whether BGP could lead away what arrives for a guest before the redirect is in."""
    return held_metric(RouteLevel.NORMAL, address, settings) is not None


def redirects_at(
    addresses: Iterable[IPAddress], redirection: Redirection, settings: Settings
) -> tuple[Route, ...]:
    """Return the private routes by which *addresses* are sent on once nobody has them here."""
    metrics, protocol = metrics_at(RouteLevel.PRIVATE, settings), settings.private_route_protocol
    return tuple(
        Route(
            address,
            redirection.oif,
            metrics[address.version],
            settings.route_table,
            protocol,
            way=way,
        )
        for address in addresses
        if (way := redirection.way(address))
    )


def metrics_at(level: RouteLevel, settings: Settings) -> Mapping[int, int]:
    """Return the metric of *level* by IP version."""
    if level is RouteLevel.ELEVATED:
        return {
            4: settings.ipv4_elevated_route_priority,
            6: settings.ipv6_elevated_route_priority,
        }
    normal = {4: settings.ipv4_normal_route_priority, 6: settings.ipv6_normal_route_priority}
    if level is RouteLevel.PRIVATE:
        return {version: metric + _BELOW_NORMAL for version, metric in normal.items()}
    return normal


def _lead(address: IPAddress, endpoint: LocalEndpoint) -> tuple[int, Way | None] | None:
    """Return the device and the way of the endpoint's route; None where it can have none."""
    if endpoint.is_redirected and endpoint.redirection:
        way = endpoint.redirection.way(address)
        if way:
            return endpoint.redirection.oif, way
    # Of a family that the peer's node has no way for, the route stays as without any redirect; but
    # a private one would only lead to where the guest is not.
    if endpoint.link is None or endpoint.level is RouteLevel.PRIVATE:
        return None
    return endpoint.link.index, None


def _wants_routes(endpoint: LocalEndpoint) -> bool:
    return endpoint.is_owned and endpoint.level is not RouteLevel.NONE


def _wants_parking(endpoint: LocalEndpoint) -> bool:
    """Tell whether a foreign route would be in the way: of silence, or of a route of ours.

    One that serves a guest whose interface nobody can name stays; so does one whose place ours
    can never take.
    """
    # A foreign route would attract the traffic of a guest that is not here so far, or no more.
    is_in_the_way = endpoint.level is RouteLevel.NONE and not endpoint.is_refused
    is_served = endpoint.link is not None or endpoint.is_redirected
    return endpoint.is_owned and (is_in_the_way or is_served)


def _rank(endpoint: LocalEndpoint) -> tuple[bool, bool, dt.datetime, ObjectKey]:
    """Order the endpoints that want one route; the greatest has it.

    Of elevated routes a Live's goes before a TimeWait's; a Redirected's goes after all others.
    """
    # A Live's guest was heard just now; that of a Redirected is elsewhere. A younger object is what
    # the API thought of last, and the key only keeps the answer from changing.
    is_here = endpoint.state is not State.REDIRECTED
    created_at = endpoint.created_at or _LONG_AGO
    return endpoint.state is State.LIVE, is_here, created_at, endpoint.key


def _affected_by(endpoint: LocalEndpoint) -> Affected:
    interfaces = {endpoint.interface} if endpoint.interface else set()
    return Affected(frozenset(endpoint.addresses), frozenset(interfaces))


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V", bound=Hashable)


def _discard(index: dict[_K, set[_V]], key: _K, value: _V) -> None:
    """Take *value* out and leave no empty entry behind: pods come and go for years."""
    index[key].discard(value)
    if not index[key]:
        del index[key]
