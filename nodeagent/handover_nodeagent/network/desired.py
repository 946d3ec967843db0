"""The desired network of this node, kept up to date one endpoint at a time.

A route's key is (address, metric) over all endpoints of the node; its owner is one that is Live,
then the newest endpoint. An index by address bounds the work of each change by the addresses of
the endpoint that changed.
"""

import dataclasses
import datetime as dt
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Self, TypeVar

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.network.model import IPAddress, Link, Neigh, Route

_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """One endpoint of this node, as far as the network is concerned.

    ``addresses`` are the allowed ones of its spec; ``link`` is None while nobody can name its
    interface; ``state`` is the one that decides its routes (``Machine.underlying``);
    ``owned`` is false where another one programs its routes (``admission.is_owned``), ``refused``
    is true where its interface is one that it may not have. One that ``is_paused`` is left as it
    is; ``is_guarded`` is false where it was never anything else, so that there is no guard to keep.
    """

    key: ObjectKey
    addresses: tuple[IPAddress, ...]
    level: RouteLevel
    state: State
    link: Link | None = None
    mac: str | None = None
    created_at: dt.datetime | None = None
    owned: bool = True
    refused: bool = False
    is_paused: bool = False
    is_guarded: bool = True

    @property
    def interface(self) -> str | None:
        """The interface's name."""
        return self.link.name if self.link else None


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
        self._locals: dict[ObjectKey, LocalEndpoint] = {}
        self._by_address: dict[IPAddress, set[ObjectKey]] = {}
        self._by_interface: dict[str, set[ObjectKey]] = {}
        self._orphans: dict[IPAddress, Route] = {}

    def under(self, settings: Settings) -> Self:
        """Return the network that the same endpoints have under other *settings*."""
        other = type(self)(settings)
        for local in self._locals.values():
            other.put(local)
        for orphan in self.orphans():
            other.put_orphan(orphan)
        return other

    def everything(self) -> Affected:
        """Return all addresses and interfaces that an endpoint or orphan has."""
        addresses = self._by_address.keys() | self._orphans.keys()
        return Affected(frozenset(addresses), frozenset(self._by_interface))

    def has_address(self, address: IPAddress) -> bool:
        """Tell whether an endpoint or an orphan has *address*."""
        return address in self._by_address or address in self._orphans

    def put(self, local: LocalEndpoint) -> Affected:
        """Add or replace one endpoint; it claims its addresses from orphans.

        What was wanted for one that is paused now stays wanted: as the kernel is to stay.
        """
        former = self._locals.get(local.key)
        if former and local.is_paused:
            local = dataclasses.replace(former, is_paused=True)
        affected = self.drop(local.key) | _affected_by(local)
        self._locals[local.key] = local
        for address in local.addresses:
            self._by_address.setdefault(address, set()).add(local.key)
            self._orphans.pop(address, None)
        if local.interface:
            self._by_interface.setdefault(local.interface, set()).add(local.key)
        return affected

    def drop(self, key: ObjectKey, *, orphan: bool = False) -> Affected:
        """Forget one endpoint; with *orphan* its routes stay until somebody claims them."""
        local = self._locals.pop(key, None)
        if local is None:
            return Affected()
        for address in local.addresses:
            _discard(self._by_address, address, key)
        if local.interface:
            _discard(self._by_interface, local.interface, key)
        if orphan and local.owned:
            for route in routes_at(local, local.level, self._settings):
                self.put_orphan(route)
        return _affected_by(local)

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

    def drop_link(self, oif: int) -> Affected:
        """Forget the orphans of an interface that is gone."""
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
        for address in addresses:
            if address in self._orphans:
                wanted.add(self._orphans[address])
            wanted.update(
                _route(address, local, local.level, self._settings)
                for local in self._owners(address)
            )
        return frozenset(wanted)

    def neighs(self, routes: Iterable[Route]) -> tuple[Neigh, ...]:
        """Return the neighbour entries to seed together with *routes*."""
        return tuple(
            Neigh(route.address, route.oif, local.mac)
            for route in routes
            for local in self._owners(route.address)
            if local.mac and local.link and local.link.index == route.oif
        )

    def guard(self, interfaces: Iterable[str]) -> Mapping[str, frozenset[IPv4Address]]:
        """Return the guarded addresses of *interfaces*, those without any included."""
        return {
            interface: frozenset(
                address
                for key in self._by_interface.get(interface, ())
                for address in self._locals[key].addresses
                if isinstance(address, IPv4Address) and self._locals[key].is_guarded
            )
            for interface in interfaces
        }

    def addresses_to_park(self, addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
        """Return those for which a foreign direct host route is to be parked."""
        return frozenset(
            address
            for address in addresses
            if any(_claims(self._locals[key]) for key in self._by_address.get(address, ()))
        )

    def is_not_owned(self, address: IPAddress) -> bool:
        """Tell whether endpoints have *address* whose routes are all not ours to program."""
        keys = self._by_address.get(address, ())
        return bool(keys) and not any(self._locals[key].owned for key in keys)

    def is_unplaced(self, address: IPAddress) -> bool:
        """Tell whether an endpoint wants routes to *address*, and nobody can name its interface."""
        keys = self._by_address.get(address, ())
        return any(self._locals[key].link is None and _is_served(self._locals[key]) for key in keys)

    def has_paused(self) -> bool:
        """Tell whether any endpoint is left as it is."""
        return any(local.is_paused for local in self._locals.values())

    def is_paused(self, address: IPAddress) -> bool:
        """Tell whether *address* is left as it is for one of those that have it."""
        return any(self._locals[key].is_paused for key in self._by_address.get(address, ()))

    def endpoints_with(self, addresses: Iterable[IPAddress]) -> frozenset[ObjectKey]:
        """Return the endpoints that have one of *addresses*."""
        none: frozenset[ObjectKey] = frozenset()
        return none.union(*(self._by_address.get(address, none) for address in addresses))

    def shared_addresses(self, key: ObjectKey) -> Mapping[IPAddress, tuple[ObjectKey, ...]]:
        """Return the other endpoints of this node that name an address of *key*."""
        others = {
            address: tuple(sorted(self._by_address[address] - {key}))
            for address in self._locals[key].addresses
        }
        return {address: keys for address, keys in others.items() if keys}

    def _owners(self, address: IPAddress) -> Iterable[LocalEndpoint]:
        """Return the endpoint that has the address at each level."""
        owners: dict[RouteLevel, LocalEndpoint] = {}
        for key in self._by_address.get(address, ()):
            local = self._locals[key]
            rival = owners.get(local.level, local)
            if _wants_routes(local) and _rank(local) >= _rank(rival):
                owners[local.level] = local
        return owners.values()


def routes_at(local: LocalEndpoint, level: RouteLevel, settings: Settings) -> tuple[Route, ...]:
    """Return the routes that *local* would have at *level*, as if it were alone.

    What a Target's cutover is prepared from.
    """
    if local.link is None or level is RouteLevel.NONE:
        return ()
    return tuple(_route(address, local, level, settings) for address in local.addresses)


def _route(
    address: IPAddress, local: LocalEndpoint, level: RouteLevel, settings: Settings
) -> Route:
    assert local.link is not None
    metric = _metrics(level, settings)[address.version]
    return Route(address, local.link.index, metric, settings.route_table, settings.route_protocol)


def _metrics(level: RouteLevel, settings: Settings) -> Mapping[int, int]:
    """Return the metric by IP version."""
    if level is RouteLevel.ELEVATED:
        return {
            4: settings.ipv4_elevated_route_priority,
            6: settings.ipv6_elevated_route_priority,
        }
    return {4: settings.ipv4_normal_route_priority, 6: settings.ipv6_normal_route_priority}


def _wants_routes(local: LocalEndpoint) -> bool:
    return local.link is not None and _is_served(local)


def _is_served(local: LocalEndpoint) -> bool:
    return local.owned and local.level is not RouteLevel.NONE


def _claims(local: LocalEndpoint) -> bool:
    """Tell whether a foreign route would be in the way: of silence, or of a route of ours.

    One that serves a guest whose interface nobody can name stays; so does one whose place ours
    can never take.
    """
    is_in_the_way = local.level is RouteLevel.NONE and not local.refused
    return local.owned and (is_in_the_way or local.link is not None)


def _rank(local: LocalEndpoint) -> tuple[bool, dt.datetime, ObjectKey]:
    """Order the endpoints that want one route; the greatest has it.

    Of elevated routes a Live's goes before a TimeWait's; normal ones are Base's alone.
    """
    return local.state is State.LIVE, local.created_at or _LONG_AGO, local.key


def _affected_by(local: LocalEndpoint) -> Affected:
    interfaces = {local.interface} if local.interface else set()
    return Affected(frozenset(local.addresses), frozenset(interfaces))


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V", bound=Hashable)


def _discard(index: dict[_K, set[_V]], key: _K, value: _V) -> None:
    """Take *value* out and leave no empty entry behind."""
    index[key].discard(value)
    if not index[key]:
        del index[key]
